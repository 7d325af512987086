"""What durable events tell whoever runs the server: numbers, and lines of the log.

A line says which run met what. A vendor's own words stay out of it, for they may repeat what was said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from turnkeeper.v1 import event_pb2
from turnkeeper_service.runs.conductor import TurnObserver
from turnkeeper_service.runs.terminals import RunObserver

log = structlog.get_logger(__name__)


class ModelObserver(Protocol):
    """Who counts what comes of model calls."""

    def first_event(self, seconds: float) -> None:
        """A call that was answered gave its first text so long after it was made."""
        ...

    def attempt_failed(self, reason: str) -> None:
        """A call failed and is made again."""
        ...

    def run_failed(self, reason: str) -> None:
        """A run ended FAILED."""
        ...


class Observer(ModelObserver, RunObserver, TurnObserver, Protocol):
    """Who counts what happens to runs."""

    def commits(self, count: int = 1) -> None:
        """So many more commits are durable."""
        ...

    def watch_queue(self, depth: Callable[[], float]) -> None:
        """Ask for the number of runs that wait whenever somebody looks."""
        ...

    def watch_turns(self, running: Callable[[], float]) -> None:
        """Ask for the number of turns that run whenever somebody looks."""
        ...


def observe(observer: ModelObserver | None, session_id: str, events: Sequence[event_pb2.Event]) -> None:
    """Tell of events that have become durable."""
    for event in events:
        payload = event.WhichOneof("payload")
        if payload == "step_finished":
            if observer is not None and event.step_finished.HasField("time_to_first_delta"):
                observer.first_event(event.step_finished.time_to_first_delta.ToTimedelta().total_seconds())
        elif payload == "attempt_discarded":
            if observer is not None:
                observer.attempt_failed(event.attempt_discarded.cause.lower())
        elif payload == "retry_scheduled":
            scheduled = event.retry_scheduled
            log.info(
                "a model call failed and is made again",
                session_id=session_id,
                run_id=event.run_id,
                reason=_reason(scheduled.error.reason),
                http_status=scheduled.error.http_status,
                model=scheduled.model,
                seconds=scheduled.delay.ToTimedelta().total_seconds(),
            )
        elif payload == "run_finished" and event.run_finished.outcome.status == event_pb2.OUTCOME_STATUS_FAILED:
            _failed(observer, session_id, event)


def _failed(observer: ModelObserver | None, session_id: str, event: event_pb2.Event) -> None:
    outcome = event.run_finished.outcome
    reason = _reason(outcome.reason)
    if observer is not None:
        observer.run_failed(reason.lower())
    http_status = outcome.errors[-1].http_status if outcome.errors else 0
    log.warning("a run failed", session_id=session_id, run_id=event.run_id, reason=reason, http_status=http_status)


def _reason(reason: event_pb2.OutcomeReason.ValueType) -> str:
    return event_pb2.OutcomeReason.Name(reason).removeprefix("OUTCOME_REASON_")

"""The one place where a run ends: its terminal, and what is told once that is durable."""

from __future__ import annotations

from typing import Protocol

import structlog

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.engine.usage import add_run
from turnkeeper_service.process.metrics import TokenType
from turnkeeper_service.runs.session.run import Run

from .parts import Parts

log = structlog.get_logger(__name__)


class RunObserver(Protocol):
    """Who counts runs that end."""

    def run_finished(self, outcome: str, seconds: float) -> None:
        """A run ended, so long after its accept."""
        ...

    def tokens(self, kind: TokenType, model: str, count: int) -> None:
        """A run used tokens of a model."""
        ...

    def cancelled(self, seconds: float) -> None:
        """A cancelled run has its terminal, so long after its cancel was durable."""
        ...


class Terminals:
    """Writes the terminals of runs. A run that has one is let go when it is durable."""

    def __init__(self, parts: Parts, observer: RunObserver | None) -> None:
        self._parts = parts
        self._observer = observer
        self.num_by_status: dict[str, int] = {}

    def write(self, run: Run, draft: Draft, outcome: event_pb2.Outcome, *, turn_id: str = "") -> None:
        """Write a run's one terminal into a draft; when it is durable the run is over."""
        outcome.usage.SetInParent()
        if outcome.usage.own.num_calls:
            add_run(run.session.usage, outcome.usage)
            draft.commit.session_usage = run.session.usage.SerializeToString()
        run.is_ending = True
        self._parts.ending[run.key] = run
        draft.finish_run(run.run_id, outcome, turn_id)
        draft.on_durable.append(lambda: self._over(run, outcome))

    def _over(self, run: Run, outcome: event_pb2.Outcome) -> None:
        """A run's terminal is durable."""
        self._parts.forget(run)
        if not run.finished.done():
            run.finished.set_result(outcome)
        status = event_pb2.OutcomeStatus.Name(outcome.status).removeprefix("OUTCOME_STATUS_").lower()
        self.num_by_status[status] = self.num_by_status.get(status, 0) + 1
        now = self._parts.clock.time()
        seconds = now - run.created_us / 1e6
        usage = outcome.usage.own
        log.info(
            "a run ended",
            session_id=run.session.session_id,
            run_id=run.run_id,
            outcome=status,
            reason=event_pb2.OutcomeReason.Name(outcome.reason).removeprefix("OUTCOME_REASON_").lower(),
            models=[used.model for used in outcome.usage.models],
            steps=outcome.num_steps,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            seconds=round(seconds, 6),
        )
        if self._observer is not None:
            self._observer.run_finished(status, seconds)
            self.count_tokens(outcome.usage)
            if run.cancelled_at is not None:
                self._observer.cancelled(now - run.cancelled_at)

    def count_tokens(self, usage: content_pb2.RunUsage) -> None:
        """Tell whoever counts what models used."""
        if self._observer is not None:
            for used in usage.models:
                self._observer.tokens("input", used.model, used.usage.input_tokens)
                self._observer.tokens("output", used.model, used.usage.output_tokens)

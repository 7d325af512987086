"""A run in memory: accepted and not over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2
from turnkeeper_service.clock import Timer
from turnkeeper_service.engine.plan import Resume, TurnEnd
from turnkeeper_service.engine.summary_turn import SummaryTurn
from turnkeeper_service.engine.turn import FloorTurn
from turnkeeper_service.store.base import RunRow, RunState

from .session import Session


class Run:
    """A run from its accept to its terminal.

    ``accepted`` resolves when the accept is durable, ``finished`` with the outcome when the terminal is.
    """

    def __init__(
        self,
        session: Session,
        submission: run_service_pb2.Submission,
        *,
        kind: event_pb2.RunKind.ValueType,
        delivery: event_pb2.Delivery.ValueType,
        fingerprint: bytes,
        principal: str,
        created_us: int,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.session = session
        self.submission = submission
        self.run_id = submission.run_id
        self.key = (session.tenant, submission.run_id)
        self.kind = kind
        self.delivery = delivery
        self.fingerprint = fingerprint
        self.principal = principal
        self.created_us = created_us
        self.started_us: int | None = None
        self.sequence = 0
        self.accepted_seq = 0
        self.position = 0
        self.steers: str | None = None
        self.replaced: Sequence[str] = ()
        self.state = RunState.QUEUED
        self.is_dispatched = False
        self.cancel: event_pb2.RunCancelRequested | None = None
        self.cancel_durable: asyncio.Future[None] | None = None
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.finished: asyncio.Future[event_pb2.Outcome] = loop.create_future()
        for future in (self.accepted, self.finished):
            # Both may fail while nobody waits; that is no fault of its own.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.turn: FloorTurn | SummaryTurn | None = None
        self.work: asyncio.Task[TurnEnd] | None = None
        self.detached: asyncio.Future[None] = loop.create_future()
        """Resolves when the work has ignored its cancel for too long (U-12)."""
        self.permit: asyncio.Event | None = None
        """While its turn is without a permit: set when it has it again (U-3)."""
        self.is_deadline_passed = False
        self.is_ending = False
        """Whether its terminal is handed over, durable or not: nothing of it comes after."""
        self.resume: Resume | None = None
        self.resume_turn_id = ""
        self._timers: dict[str, Timer] = {}

    def __repr__(self) -> str:
        return f"Run({self.run_id!r}, sequence={self.sequence}, state={self.state.name})"

    @property
    def prompt(self) -> Sequence[content_pb2.Part]:
        """What was asked."""
        return self.submission.prompt

    def row(self) -> RunRow:
        """The run as it is stored at its accept."""
        return RunRow(
            tenant=self.session.tenant,
            run_id=self.run_id,
            session_id=self.session.session_id,
            accept_sequence=self.sequence,
            kind=self.kind,
            delivery=self.delivery,
            state=RunState.QUEUED,
            fingerprint=self.fingerprint,
            submission=self.submission.SerializeToString(deterministic=True),
            created_us=self.created_us,
            steers=self.steers,
            details=f"{self.accepted_seq}\n{self.principal}".encode(),
        )

    def set_timer(self, name: str, timer: Timer) -> None:
        """Keep a timer of this name; an earlier one is cancelled."""
        self.stop_timer(name)
        self._timers[name] = timer

    def stop_timer(self, name: str) -> None:
        """Cancel the timer of this name, if there is one."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def stop_timers(self) -> None:
        """Cancel all timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def user_message(self, message_id: str, turn_id: str, *, in_context: bool) -> content_pb2.Message:
        """The prompt as a message."""
        return content_pb2.Message(
            message_id=message_id,
            role=content_pb2.ROLE_USER,
            parts=self.submission.prompt,
            status=content_pb2.MESSAGE_STATUS_COMPLETE,
            run_id=self.run_id,
            turn_id=turn_id,
            context_id="main",
            in_context=in_context,
        )

"""A run in memory: accepted and not over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2
from turnkeeper_service.engine.abstract_turn import Turn
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.engine.plan import Resume
from turnkeeper_service.engine.turn_end import TurnEnd
from turnkeeper_service.ids import short_id
from turnkeeper_service.store.base import RunRow, RunState
from turnkeeper_service.store.completion import Completion
from turnkeeper_service.store.reading import UNREADABLE

from .session import Session


class Driven(Protocol):
    """A run's floor turn, and what drives it; see `turnkeeper_service.runs.turns.driven_turn.DrivenTurn`."""

    turn: Turn | None
    """What takes its steps; None where it could not even be planned."""

    @property
    def key(self) -> int:
        """The core's number of it."""
        ...

    @property
    def turn_id(self) -> str:
        """Its name in the contract."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether it takes steps, or its terminal is on its way."""
        ...

    def concluded(self, word: str, proposed: TurnEnd) -> None:
        """The core has decided how it ends."""
        ...

    def let_go(self) -> None:
        """Nobody asks for its steps any more."""
        ...

    def write_end(self, draft: Draft) -> None:
        """Write the last of what it leaves."""
        ...

    def outcome(self) -> event_pb2.Outcome:
        """What its run's terminal says."""
        ...


class Run:
    """A run from its accept to its terminal. Where it stands, and what it waits for, is the core's to say.

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
        """What was asked for; without its prompt while that is on the shelf."""
        self.is_shelved = self.is_lost = False
        """Whether its prompt is in the store alone, and whether it could not be read there."""
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
        self.cancel: event_pb2.RunCancelRequested | None = None
        self.cancel_durable: asyncio.Future[None] | None = None
        self.cancelled_at: float | None = None
        """When its cancel was durable, as `Clock.time` says."""
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.finished: asyncio.Future[event_pb2.Outcome] = loop.create_future()
        for future in (self.accepted, self.finished):
            # Both may fail while nobody waits; that is no fault of its own.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.on_accepted: Callable[[], None] | None = None
        """Called when its accept is durable: before anything is published of a turn that began with it."""
        self.driven: Driven | None = None
        """Its floor turn, from the moment in which it begins."""
        self.is_ending = False
        """Whether its terminal is handed over, durable or not: nothing of it comes after."""
        self.resume: Resume | None = None
        """Where its turn stands that a lost process had begun."""

    def __repr__(self) -> str:
        return f"Run({self.run_id!r}, sequence={self.sequence})"

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

    def shelve(self) -> None:
        """Let the prompt go; the store has it."""
        rest = run_service_pb2.Submission()
        rest.CopyFrom(self.submission)
        rest.ClearField("prompt")
        # A message keeps the memory of what was cleared: only a new one is without it.
        self.submission = run_service_pb2.Submission.FromString(rest.SerializeToString())
        self.is_shelved = True

    def take_back(self, stored: run_service_pb2.Submission) -> None:
        """The prompt was read again."""
        # In place: a plan that was made meanwhile refers to it.
        self.submission.prompt.extend(stored.prompt)
        self.is_shelved = False

    def write_prompt(self, draft: Draft, *, in_context: bool) -> None:
        """Write the prompt of a run without a turn, as a message. One on the shelf is filled in by the store."""
        message = content_pb2.Message(
            message_id=short_id("msg"),
            role=content_pb2.ROLE_USER,
            parts=self.submission.prompt,
            status=content_pb2.MESSAGE_STATUS_COMPLETE,
            run_id=self.run_id,
            context_id=self.session.context.context_id,
            in_context=in_context,
        )
        completion = Completion(self.run_id, _with_prompt) if self.is_shelved else None
        draft.message(message, run_id=self.run_id, completion=completion)


def _with_prompt(payload: bytes, submission: bytes | None) -> bytes:
    """The event of a message with the prompt that is stored of its run."""
    event = event_pb2.Event.FromString(payload)
    message = event.message_committed.message
    try:
        if submission is not None:
            message.parts.extend(run_service_pb2.Submission.FromString(submission).prompt)
    except UNREADABLE:
        message.ClearField("parts")
    if not message.parts:
        message.status = content_pb2.MESSAGE_STATUS_FAILED
        message.error.title, message.error.detail = "Prompt lost", "what is stored of the prompt cannot be read"
    return event.SerializeToString()

"""What a turn writes: drafts of changes that become durable together, and the session that takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.events.log import OpenMessage, SessionLog
from turnkeeper_service.process.clock import microseconds
from turnkeeper_service.store.base import Commit, MessageRow, RunFinish
from turnkeeper_service.store.completion import Completion


class Draft:
    """Changes of one session that become durable together, in the order of their events.

    A draft is filled and submitted without an await between: seq and order are those of the submit.
    """

    __slots__ = ("commit", "completions", "events", "now", "on_durable")

    def __init__(self, tenant: str, session_id: str, now: float) -> None:
        self.now = now
        self.commit = Commit(tenant, session_id)
        self.events: list[tuple[event_pb2.Event, OpenMessage | None]] = []
        self.completions: dict[int, Completion] = {}
        """What makes events whole that lack something, by their place in ``events``."""
        self.on_durable: list[Callable[[], None]] = []
        """Called in order when it is durable, before its events are published."""

    def event(self, event: event_pb2.Event, closes: OpenMessage | None = None) -> None:
        """Add an event; session, seq and time are filled in at the submit."""
        self.events.append((event, closes))

    def message(
        self,
        message: content_pb2.Message,
        *,
        run_id: str,
        attempt: int = 0,
        closes: OpenMessage | None = None,
        completion: Completion | None = None,
    ) -> None:
        """Add the commit of a message, as an event of ``run_id``, which may be another run than the message's own."""
        if completion is not None:
            self.completions[len(self.events)] = completion
        event = event_pb2.Event(run_id=run_id, turn_id=message.turn_id, attempt=attempt, context_id=message.context_id)
        event.message_committed.message.CopyFrom(message)
        self.events.append((event, closes))
        if closes is not None and closes.has_flushed:
            self.commit.drop_partials.append(closes.run_id)

    def context_change(self, run_id: str, context_id: str, message_ids: Sequence[str], in_context: bool) -> None:
        """Add the change of which messages are in a context (U-28)."""
        event = event_pb2.Event(run_id=run_id, context_id=context_id)
        event.message_context_changed.message_ids.extend(message_ids)
        event.message_context_changed.in_context = in_context
        self.event(event)
        self.commit.message_contexts.extend((message_id, in_context) for message_id in message_ids)

    def start_run(self, run_id: str, turn_id: str, model: str) -> None:
        """Add the beginning of a run's first floor turn."""
        event = event_pb2.Event(run_id=run_id, turn_id=turn_id)
        event.run_started.model = model
        self.event(event)
        self.commit.start_runs.append((run_id, int(self.now * 1_000_000)))

    def finish_run(self, run_id: str, outcome: event_pb2.Outcome, turn_id: str = "") -> None:
        """Add the one terminal of a run."""
        outcome.finish_time.FromNanoseconds(int(self.now * 1_000_000_000))
        event = event_pb2.Event(run_id=run_id, turn_id=turn_id)
        event.run_finished.outcome.CopyFrom(outcome)
        self.event(event)
        self.commit.finish_runs.append(RunFinish(run_id, outcome.SerializeToString(), microseconds(self.now)))

    def index(self, message: content_pb2.Message) -> MessageRow:
        """The store's index entry of a message whose seq is known."""
        return MessageRow(
            seq=message.seq,
            message_id=message.message_id,
            context_id=message.context_id,
            run_id=message.run_id,
            turn_id=message.turn_id,
            role=message.role,
            in_context=message.in_context,
        )


class Journal(Protocol):
    """The session that a turn writes to."""

    @property
    def log(self) -> SessionLog:
        """Where deltas are shown."""
        ...

    @property
    def todos(self) -> Sequence[event_pb2.Todo]:
        """What the session's models have noted to do."""
        ...

    def draft(self) -> Draft:
        """A new, empty draft."""
        ...

    def submit(self, draft: Draft) -> asyncio.Future[None]:
        """Hand a draft over, in order; never blocks.

        When it is durable its ``on_durable`` is called, then its events are published, then the future resolves.
        Cancelling whoever awaits the future takes nothing back.
        """
        ...


class TurnJournal:
    """The journal of one turn, until its owner writes its end.

    A turn that ignores its cancel is ended without it. What it does afterwards must not be written any more: it would
    stand behind its run's terminal, between the messages of the next run.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.log = journal.log
        self._is_closed = False

    @property
    def todos(self) -> Sequence[event_pb2.Todo]:
        """See `Journal.todos`."""
        return self._journal.todos

    def draft(self) -> Draft:
        """A new, empty draft."""
        return self._journal.draft()

    def submit(self, draft: Draft) -> asyncio.Future[None]:
        """Hand a draft over. Raises CancelledError where the turn has been ended."""
        if self._is_closed:
            raise asyncio.CancelledError
        return self._journal.submit(draft)

    def close(self) -> None:
        """Take no more drafts."""
        self._is_closed = True

"""A session in memory: what its commits need, and the line of its commits.

There is one object per session that has work or readers; an idle one is let go. Everything that it writes goes through
`Session.submit`, which gives events their seq, so that the order of submits is the order of the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from turnkeeper.v1 import content_pb2, event_pb2, session_service_pb2
from turnkeeper_service.engine.contexts import MAIN, Context
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.errors import cursor_expired
from turnkeeper_service.events.log import LogEntry, OpenMessage, SessionLog
from turnkeeper_service.process.clock import Clock, microseconds
from turnkeeper_service.store.base import Commit, EventRow, SessionRow, SessionState, Store
from turnkeeper_service.store.errors import StoreCorruptError
from turnkeeper_service.store.reading import reading
from turnkeeper_service.store.slots import slot_of

_KINDS = {one.name: one.number for one in event_pb2.Event.DESCRIPTOR.oneofs_by_name["payload"].fields}
_OF_THE_SESSION = frozenset({"step_finished", "summary_finished", "todos_changed"})


class Session:
    """One session with work or readers. Implements the engine's Journal."""

    def __init__(
        self,
        row: SessionRow,
        store: Store,
        clock: Clock,
        epoch: int,
        *,
        on_growth: Callable[[OpenMessage], None] | None = None,
        on_published: Callable[[Session, Sequence[event_pb2.Event]], None] | None = None,
        on_idle: Callable[[Session], None] | None = None,
        on_fault: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        self.tenant = row.tenant
        self.session_id = row.session_id
        self.key = (row.tenant, row.session_id)
        self.slot = slot_of(row.tenant, row.session_id)
        self.epoch = epoch
        """As which owner of its slot it writes."""
        self.state = row.state
        self.created_us = row.created_us
        self.updated_us = row.updated_us
        self.settings = session_service_pb2.SessionSettings.FromString(row.settings)
        self.usage = content_pb2.RunUsage.FromString(row.usage)
        self.title = row.title
        """The settings' title, or the one that was made of a prompt; empty until there is one."""
        tokens = content_pb2.ContextTokens.FromString(row.context_tokens)
        self.context = Context(MAIN, tokens, self._read_context, is_new=not row.last_seq)
        """The context of its floor turns."""
        self.todos: Sequence[event_pb2.Todo] = event_pb2.TodosChanged.FromString(row.todos).todos
        """What the session's models have noted to do; replaced as a whole."""
        self.log = SessionLog(row.last_seq, on_growth)
        self.runs: set[str] = set()
        """Ids of the runs that are accepted and not over."""
        self._pins = 0
        self._on_idle = on_idle
        self._on_fault = on_fault
        self._next_seq = row.last_seq + 1
        self._last_draft: Draft | None = None
        """What was handed over last, until it is durable."""
        self._store = store
        self._clock = clock
        self._on_published = on_published
        self._settings_bytes = len(row.settings)

    def __repr__(self) -> str:
        return f"Session({self.tenant!r}, {self.session_id!r}, runs={len(self.runs)}, pins={self._pins})"

    @property
    def is_idle(self) -> bool:
        """Whether nothing needs the object: no run, no commit under way, no reader, no call."""
        return not self._pins and not self.runs

    def pin(self) -> None:
        """Keep the object until it is unpinned as often."""
        self._pins += 1

    def unpin(self) -> None:
        """Give up one reason to keep the object."""
        self._pins -= 1
        self._idle()

    def remove_run(self, run_id: str) -> None:
        """Forget a run that is over."""
        self.runs.discard(run_id)
        self._idle()

    def _idle(self) -> None:
        if self.is_idle and self._on_idle is not None:
            self._on_idle(self)

    @property
    def num_bytes(self) -> int:
        """What it holds for its next call: settings, history, the end of its log."""
        return self._settings_bytes + self.context.num_bytes + self.log.tail_bytes

    @property
    def last_seq(self) -> int:
        """The seq of the last event handed over; it may not be durable yet."""
        return self._next_seq - 1

    def draft(self) -> Draft:
        """A new, empty draft."""
        return Draft(self.tenant, self.session_id, self._clock.time())

    def submit(self, draft: Draft) -> asyncio.Future[None]:
        """Hand a draft over, in order; never blocks.

        When it is durable its ``on_durable`` is called, then its events are published, then the future resolves.
        Cancelling whoever awaits the future takes nothing back.
        """
        entries = self._number(draft)
        self._last_draft = draft
        self.pin()
        # A future of the caller's own: whoever cancels it cancels nothing else.
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._store.commit(draft.commit).add_done_callback(lambda done: self._settled(done, draft, entries, told))
        return told

    def behind_all(self, calls: Sequence[Callable[[], None]]) -> None:
        """Make calls once all that was handed over is durable: now, if it is."""
        if self._last_draft is not None:
            self._last_draft.on_durable.extend(calls)
            return
        for call in calls:
            call()

    def _number(self, draft: Draft) -> list[LogEntry]:
        """Give the draft's events their seq and bytes, and its messages their place in the history.

        One that cannot be written raises, and changes nothing of the session.
        """
        commit: Commit = draft.commit
        seconds = int(draft.now)
        nanos = int((draft.now - seconds) * 1_000_000) * 1000
        entries = []
        for place, (event, closes) in enumerate(draft.events):
            seq = self._next_seq + place
            event.session_id, event.seq = self.session_id, seq
            event.time.seconds, event.time.nanos = seconds, nanos
            payload = event.WhichOneof("payload")
            if payload == "message_committed":
                message = event.message_committed.message
                message.seq = seq
                message.create_time.seconds, message.create_time.nanos = seconds, nanos
                commit.messages.append(draft.index(message))
            kind = _KINDS[payload] if payload else 0
            content = event.SerializeToString()
            entries.append(LogEntry(seq, event.run_id, kind, content, closes))
            commit.events.append(EventRow(seq, event.run_id, kind, content, draft.completions.get(place)))
        commit.epoch, commit.expected_seq = self.epoch, self._next_seq - 1
        if commit.session_settings is not None:
            self._settings_bytes = len(commit.session_settings)
        commit.updated_us = self.updated_us = microseconds(draft.now)
        self._next_seq += len(entries)
        for event, closes in draft.events:
            self._take_in(event, commit)
            if closes is not None:
                # From here on its text is in this commit: a flush that came behind it would stay for ever.
                closes.closed = True
        if any(draft.events[place][0].message_committed.message.in_context for place in draft.completions):
            # Only the store has it whole.
            self.context.forget()
        return entries

    def _take_in(self, event: event_pb2.Event, commit: Commit) -> None:
        """Let the context, and what is kept of the session as a whole, follow an event."""
        payload = event.WhichOneof("payload")
        if payload == "message_committed":
            message = event.message_committed.message
            if message.context_id == self.context.context_id:
                self.context.add(message)
        elif payload == "message_context_changed":
            self.context.forget()
        elif payload in _OF_THE_SESSION:
            self._take_over(event, commit)

    def _take_over(self, event: event_pb2.Event, commit: Commit) -> None:
        """Keep what an event says of the session as a whole, durable with the event."""
        if event.HasField("todos_changed"):
            self.todos = event.todos_changed.todos
            commit.session_todos = event.todos_changed.SerializeToString()
        elif event.context_id in ("", self.context.context_id):
            self.context.count(event)
            commit.session_context_tokens = self.context.tokens.SerializeToString()

    def _settled(
        self, done: asyncio.Future[None], draft: Draft, entries: list[LogEntry], told: asyncio.Future[None]
    ) -> None:
        try:
            self._show(done, draft, entries)
        except Exception as error:
            # What had to happen now has not: only a new start puts it right.
            if self._on_fault is None:
                raise
            self._on_fault(f"commit of {self.session_id}", error)
        finally:
            self.unpin()
            _tell(told, done)

    def _show(self, done: asyncio.Future[None], draft: Draft, entries: list[LogEntry]) -> None:
        if not done.cancelled() and done.exception() is None:
            for call in draft.on_durable:
                call()
            if self._last_draft is draft:
                self._last_draft = None
            for place, completion in draft.completions.items():
                whole = completion.payload
                entries[place] = replace(entries[place], payload=whole or b"", is_stored_only=whole is None)
            self.log.publish(entries)
            if self._on_published is not None:
                self._on_published(self, [event for event, _ in draft.events])

    async def _read_context(self, context_id: str) -> Sequence[content_pb2.Message]:
        """The messages in a context, of all that was handed over."""
        while True:
            before = self._next_seq
            if self.log.published_seq + 1 != before:
                # Something is on its way: read once it is durable.
                await self._store.commit(Commit(self.tenant, self.session_id, epoch=self.epoch))
            rows = await self._store.read_context(self.tenant, self.session_id, context_id)
            if self._next_seq == before:
                break
        with reading(f"the history of session {self.session_id}"):
            return [event_pb2.Event.FromString(row.payload).message_committed.message for row in rows]

    async def fetch(self, after_seq: int, limit: int) -> Sequence[EventRow]:
        """Events of the log from the store, for readers. Raises Refused CURSOR_EXPIRED."""
        rows = await self._store.read_events(self.tenant, self.session_id, after_seq=after_seq, limit=limit)
        newest = self.log.published_seq
        # Of a session that is deleted nothing is left, and its readers hear of that.
        oldest = rows[0].seq if rows else newest + 1
        if self.is_active and after_seq < min(oldest - 1, newest):
            raise cursor_expired(after_seq, oldest)
        if rows and rows[-1].seq - rows[0].seq != len(rows) - 1:
            raise StoreCorruptError(f"the log of session {self.session_id} has holes")
        # They are sent as they are: a client could only say that it does not understand.
        with reading(f"the log of session {self.session_id}"):
            for row in rows:
                event_pb2.Event.FromString(row.payload)
        return rows

    @property
    def is_active(self) -> bool:
        """Whether it takes runs."""
        return self.state == SessionState.ACTIVE


def _tell(told: asyncio.Future[None], done: asyncio.Future[None]) -> None:
    """Pass on how a commit ended to whoever waits for it, if anybody does."""
    if told.done():
        return
    if done.cancelled():
        told.cancel()
    elif (error := done.exception()) is not None:
        told.set_exception(error)
        # Looked at, since nobody has to wait.
        told.exception()
    else:
        told.set_result(None)

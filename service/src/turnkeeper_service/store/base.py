"""What a store is: rows in, rows out, and one ordered line of atomic commits.

The store gives durability and order and knows nothing of turns. All keys start with the tenant. Event, submission,
outcome and settings bytes are opaque here. Times are integer microseconds since the epoch, wall clock.

Commits are atomic, and durable once their future resolves. Commits handed over first are durable first: a later commit
is never durable without the earlier ones. What is owned is a *slot*: a commit says as which owner of its slot it is
made, and fails, alone, if that one has lost it. Nothing else fails alone: names are claimed and looked up before
anything is numbered. A commit that fails for good, or a process that has lost the store, fails every commit behind it,
and `Store.failure` resolves: the process stops (U-14, U-15). While somebody else keeps a store busy, commits wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol, TypeVar

from turnkeeper_service.store.answers import Boot, Laid, Page, StoreStats
from turnkeeper_service.store.completion import Completion
from turnkeeper_service.store.errors import StoreError
from turnkeeper_service.store.slots import slot_of

T = TypeVar("T")
PAGE_BYTES = 4 << 20


class SessionState(IntEnum):
    """Life of a session."""

    ACTIVE = 1
    DELETING = 2
    DELETED = 3
    """Content is erased; the row stays 24 h so that the id is not reused (U-18)."""


class RunState(IntEnum):
    """Life of a run as stored. FINISHED rows never change again."""

    QUEUED = 1
    """Accepted; in line."""
    STARTED = 2
    AWAITING = 3
    """Parked (later issues)."""
    FINISHED = 4


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session as stored. ``last_seq`` is the last durable event, 0 if none."""

    tenant: str
    session_id: str
    state: SessionState
    created_us: int
    updated_us: int
    last_seq: int
    title: str
    settings: bytes
    usage: bytes
    delete_us: int | None = None
    """When it was deleted; the row is swept 24 h later."""
    context_tokens: bytes = b""
    todos: bytes = b""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as stored."""

    tenant: str
    run_id: str
    session_id: str
    accept_sequence: int
    kind: int
    delivery: int
    state: RunState
    fingerprint: bytes
    submission: bytes
    created_us: int
    started_us: int | None = None
    finished_us: int | None = None
    cancel: bytes | None = None
    """The stored cancel request, None if none was made."""
    outcome: bytes | None = None
    """The stored terminal, None until FINISHED."""
    steers: str | None = None
    """The run that it was bound to at accept."""
    details: bytes = b""
    """What the service wants to find again about it (start deadline, disconnect policy), opaque."""


@dataclass(frozen=True, slots=True)
class EventRow:
    """A durable event. ``seq`` is its place in the session, from 1 without gaps; the caller assigns it on commit."""

    seq: int
    run_id: str
    kind: int
    """Field number of the payload in turnkeeper.v1.Event."""
    payload: bytes
    """The serialised turnkeeper.v1.Event, sent to readers unchanged."""
    completion: Completion | None = None
    """Of an event in a commit whose payload is not whole yet."""


@dataclass(frozen=True, slots=True)
class MessageRow:
    """Index entry of a committed message; its content is the event ``seq``."""

    seq: int
    message_id: str
    context_id: str
    run_id: str
    turn_id: str
    role: int
    in_context: bool


@dataclass(frozen=True, slots=True)
class RunFinish:
    """The one terminal of a run. Fails the store if the run is FINISHED already: that must never be tried."""

    run_id: str
    outcome: bytes
    finished_us: int


@dataclass(frozen=True, slots=True)
class PartialRow:
    """A flushed piece of an open message's text, at byte ``offset`` of (message, attempt, part)."""

    run_id: str
    message_id: str
    attempt: int
    part: int
    kind: int
    """1 text, 2 reasoning, 3 tool input."""
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class TombstoneRow:
    """A cancel that named a run not seen yet (U-11). ``session_id`` is "" where the cancel named none.

    There is one per (tenant, run_id, session_id): laid again, it is renewed.
    """

    tenant: str
    run_id: str
    session_id: str
    created_us: int
    cancel: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """What there is of a run id while it is claimed."""

    run: RunRow | None
    """The run that has it."""
    tombstones: Sequence[TombstoneRow]
    """The cancels that wait for it, of any session, the newest first."""


@dataclass(slots=True)
class Commit:
    """One atomic change of one session, applied in the order of the fields.

    Empty fields change nothing. ``last_seq`` of the session follows ``events``.
    """

    tenant: str
    session_id: str
    epoch: int | None = None
    """As which owner of its slot it is made, None for whoever owns it now. Of an earlier one nothing is written."""
    expected_seq: int | None = None
    """``last_seq`` as it has to be before this commit, None where the caller does not know it. If memory and record
    differ, the store stops."""
    insert_session: SessionRow | None = None
    insert_runs: list[RunRow] = field(default_factory=list)
    start_runs: list[tuple[str, int]] = field(default_factory=list)
    """(run_id, started_us): QUEUED to STARTED."""
    cancel_runs: list[tuple[str, bytes]] = field(default_factory=list)
    """(run_id, stored cancel request); replaces an earlier one."""
    finish_runs: list[RunFinish] = field(default_factory=list)
    reduce_runs: list[tuple[str, bytes | None, bytes]] = field(default_factory=list)
    """(run_id, cancel request, outcome) of FINISHED runs, without content: what outlives the session (U-18)."""
    events: list[EventRow] = field(default_factory=list)
    messages: list[MessageRow] = field(default_factory=list)
    message_contexts: list[tuple[str, bool]] = field(default_factory=list)
    """(message_id, in_context)."""
    partials: list[PartialRow] = field(default_factory=list)
    drop_partials: list[str] = field(default_factory=list)
    """run_ids whose partial text is not needed any more."""
    session_settings: bytes | None = None
    session_title: str | None = None
    session_usage: bytes | None = None
    session_context_tokens: bytes | None = None
    session_todos: bytes | None = None
    session_state: SessionState | None = None
    updated_us: int | None = None
    drop_tombstones: list[str] = field(default_factory=list)
    """run_ids whose tombstones have met their run."""
    erase_session_us: int | None = None
    """Erase events, messages, partials, settings, title, todos, submissions and tombstones of the session and mark it
    DELETED at this time; run rows keep id, fingerprint, sequence and outcome (U-18)."""

    @property
    def slot(self) -> int:
        """The slot of its session."""
        return slot_of(self.tenant, self.session_id)


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Sessions in creation order, and where the next page starts; "" at the end."""

    sessions: Sequence[SessionRow]
    next_after: str


class Store(Protocol):
    """A durable store with one writer. Reads see every commit whose future has resolved."""

    @property
    def failure(self) -> asyncio.Future[StoreError]:
        """Resolves once, with the error, when the store has stopped: for a fault, or since another process has it."""
        ...

    @property
    def is_stalled(self) -> bool:
        """Whether it was handed something and has written nothing for 2 s: somebody else holds its lock."""
        ...

    async def open(self) -> Boot:
        """Take the lock, migrate, take the next epoch. Raises the StoreErrors that name exit codes."""
        ...

    def commit(self, commit: Commit) -> asyncio.Future[None]:
        """Hand over a commit, in order. Call on the event loop's thread; never blocks.

        The future resolves when it is durable. It raises StoreFencedError where its slot is another owner's, and
        StoreError where the store has stopped.
        """
        ...

    async def patiently(self, future: asyncio.Future[T]) -> T:
        """The result of a future that the store resolves, after 2 s at most. Raises StoreBusyError then.

        The future goes on, also if the caller is cancelled. One that was cancelled raises StoreClosedError.
        """
        ...

    async def check_fence(self) -> None:
        """Raise StoreFencedError if another owner has taken over, StoreError if the database was taken away.

        The store has then stopped. `OwnershipWatch` calls it at intervals (U-15). Waits while the store is kept busy.
        """
        ...

    async def get_session(self, tenant: str, session_id: str) -> SessionRow | None:
        """The session's row, DELETED ones too until they are swept."""
        ...

    async def list_sessions(self, tenant: str, *, after: str, limit: int, max_bytes: int = PAGE_BYTES) -> SessionPage:
        """ACTIVE and DELETING sessions of a tenant in creation order. ``after`` is "" or a page's ``next_after``.

        A page holds at most ``limit`` rows and ``max_bytes`` bytes, but always one row if there is one; so everywhere.
        """
        ...

    async def idle_sessions(self, *, before_us: int, after: int, limit: int) -> Sequence[tuple[int, str, str]]:
        """(position, tenant, session_id) of ACTIVE sessions last changed before, from a position above ``after`` on."""
        ...

    async def get_run(self, tenant: str, run_id: str) -> RunRow | None:
        """A run by its id."""
        ...

    async def list_runs(
        self,
        tenant: str,
        session_id: str,
        *,
        after_sequence: int,
        limit: int,
        max_bytes: int = PAGE_BYTES,
        states: Sequence[RunState] = (),
    ) -> Page[RunRow]:
        """Runs of a session in accept order, above ``after_sequence``; of the given states, () for all.

        Their submissions are left out.
        """
        ...

    async def read_events(
        self, tenant: str, session_id: str, *, after_seq: int, limit: int, max_bytes: int = 4 << 20
    ) -> Sequence[EventRow]:
        """Events in order, at most ``limit`` of them and about ``max_bytes`` of payload (at least one)."""
        ...

    async def read_context(self, tenant: str, session_id: str, context_id: str) -> Sequence[EventRow]:
        """The events that committed the messages of a context that are in context, in order."""
        ...

    async def list_messages(
        self,
        tenant: str,
        session_id: str,
        *,
        context_id: str,
        after_seq: int,
        limit: int,
        max_bytes: int = PAGE_BYTES,
    ) -> Page[tuple[EventRow, bool]]:
        """All messages of a context ("" for every context) in order, each with whether it is in context now."""
        ...

    async def open_runs(
        self, slots: Collection[int], *, after_sequence: int = 0, limit: int = 1000
    ) -> Sequence[RunRow]:
        """Runs of some slots, not FINISHED, of every tenant, in accept order, above a sequence: to be recovered (U-16).

        Asked for before the slots are this owner's, a late commit of the one before could be missing.
        """
        ...

    async def deleting_sessions(self, slots: Collection[int]) -> Sequence[SessionRow]:
        """Sessions of some slots whose deletion has to go on."""
        ...

    async def read_run_events(self, tenant: str, session_id: str, run_id: str) -> Sequence[EventRow]:
        """All events of one run, in order."""
        ...

    async def read_partials(self, tenant: str, run_id: str) -> Sequence[PartialRow]:
        """Flushed pieces of a run's open message, by attempt, part and offset."""
        ...

    def claim_run(self, tenant: str, run_id: str) -> AbstractAsyncContextManager[Claim]:
        """Hold a run id until the commit that inserts its run is handed over, or none will be.

        Nobody else can claim it meanwhile, nor lay a tombstone for it: one of the two always sees the other. Raises
        StoreBusyError where it is not free, or cannot be looked up, for too long.
        """
        ...

    async def lay_tombstone(self, row: TombstoneRow, *, limit: int) -> Laid:
        """Let a cancel wait for a run that does not exist; durable when it returns LAID.

        A tenant has at most ``limit`` of them, not counting one that renews itself.
        """
        ...

    async def sweep(self, *, before_us: int) -> int:
        """Remove tombstones and DELETED sessions (with their run rows) older than that; returns rows removed."""
        ...

    def stats(self) -> StoreStats:
        """Counters of this process."""
        ...

    async def close(self) -> None:
        """Write what was handed over, release the lock. Idempotent."""
        ...

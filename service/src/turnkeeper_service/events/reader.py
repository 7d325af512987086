"""A reader of a session's log: it owns its positions and fetches what it lacks, at its own pace.

It yields serialised `StreamItem`s. What it yields in one batch is everything between its positions and now, so a reader
whose last write took long gets the deltas since then as one. Durable events come first, in order; the rest of a message
comes before the event that commits it; no delta comes before the events up to its seq.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from turnkeeper.v1 import run_service_pb2

from .log import LogEntry, OpenMessage, OpenPart, ProgressKind, SessionLog

MAX_DELTA_BYTES = 1 << 20
PAGE_EVENTS = 256
MAX_INJECTED = 256

_ITEM_EVENT = b"\x0a"
_ITEM_DELTA = b"\x12"
_ITEM_SNAPSHOT = b"\x1a"
_ITEM_HEARTBEAT = b"\x22"


class StoredEvent(Protocol):
    """An event as a store returns it."""

    @property
    def seq(self) -> int:
        """Its place in the session."""
        ...

    @property
    def run_id(self) -> str:
        """The run it belongs to, "" for none."""
        ...

    @property
    def kind(self) -> int:
        """Field number of its payload."""
        ...

    @property
    def payload(self) -> bytes:
        """The serialised event."""
        ...


FetchEvents = Callable[[int, int], Awaitable[Sequence[StoredEvent]]]
"""(after_seq, limit) to events, from the store."""


@dataclass(frozen=True, slots=True)
class Position:
    """How much of an open message a reader has: the attempt, and per part the bytes."""

    attempt: int
    offsets: tuple[int, ...]


@dataclass(slots=True)
class ReadFilter:
    """Which items a reader wants. ``run_ids`` None means all; a set grows as folds are followed."""

    run_ids: set[str] | None = None
    without_session_events: bool = False
    without_deltas: bool = False


@dataclass(slots=True)
class _Follow:
    message: OpenMessage
    offsets: list[int] = field(default_factory=list)
    deltas: list[run_service_pb2.Delta] = field(default_factory=list)
    """One per part, with what all its deltas say."""

    def restart(self, message: OpenMessage) -> None:
        """Begin again with the next attempt."""
        self.message = message
        self.offsets = []
        self.deltas = []

    def delta(self, index: int) -> run_service_pb2.Delta:
        """A delta of a part, to be filled in, sent and filled in again."""
        while index >= len(self.deltas):
            made = run_service_pb2.Delta(
                message_id=self.message.message_id,
                attempt=self.message.attempt,
                run_id=self.message.run_id,
                turn_id=self.message.turn_id,
                part=len(self.deltas),
            )
            self.deltas.append(made)
        return self.deltas[index]


def length_delimited(tag: bytes, payload: bytes) -> bytes:
    """A length-delimited protobuf field: lets stored bytes be sent without being parsed."""
    size = len(payload)
    if size < 0x80:
        return tag + bytes((size,)) + payload
    if size < 0x4000:
        return tag + bytes((size & 0x7F | 0x80, size >> 7)) + payload
    length = bytearray()
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return b"".join((tag, length, payload))


class Reader:
    """Follows one session from a seq on.

    ``until`` ends it after that seq; ``on_entry`` sees every event and ends it by returning True.
    """

    def __init__(
        self,
        log: SessionLog,
        fetch: FetchEvents,
        after: int,
        *,
        positions: Mapping[str, Position] | None = None,
        filter_: ReadFilter | None = None,
        until: int | None = None,
        on_entry: Callable[[LogEntry], bool] | None = None,
    ) -> None:
        self._log = log
        self._fetch = fetch
        self.after = after
        self._filter = filter_ or ReadFilter()
        self._until = until
        self._on_entry = on_entry
        self._given = dict(positions or {})
        self._follows: dict[str, _Follow] = {}
        self._wake = asyncio.Event()
        self._error: BaseException | None = None
        self._injected: list[bytes] = []
        self._taken = asyncio.Event()
        self._is_beating = False
        self._is_over = False
        self._found = {name for name, one in log.open.items() if any(part.content for part in one.parts)}
        """Messages that had begun when the reader came: what there is of them by then is told at once."""
        self._attached_seq = log.published_seq
        log.attach(self._wake)

    def close(self) -> None:
        """Stop following. Idempotent."""
        self._log.detach(self._wake)

    @property
    def lag(self) -> int:
        """Durable events published and not fetched yet."""
        return self._log.published_seq - self.after

    def beat(self) -> None:
        """Make the next batch hold a sign of life, at once."""
        self._is_beating = True
        self._wake.set()

    async def inject(self, item: bytes) -> None:
        """Put an item of the caller's into the next batch; waits while too many of them have not been fetched."""
        await self.room()
        self.put(item)

    async def room(self) -> None:
        """Wait while too many items of the caller's have not been fetched."""
        while len(self._injected) >= MAX_INJECTED:
            self._taken.clear()
            await self._taken.wait()

    def put(self, item: bytes) -> None:
        """As `inject`, for items whose number something else bounds."""
        self._injected.append(item)
        self._wake.set()

    def is_waiting(self, item: bytes) -> bool:
        """Whether this very item was put in and has not been fetched."""
        return any(one is item for one in self._injected)

    def withdraw(self, item: bytes) -> None:
        """Take back an item that is waiting."""
        self._injected = [one for one in self._injected if one is not item]

    def abort(self, error: BaseException) -> None:
        """Let the reading end with this error."""
        self._error = error
        self._wake.set()

    def finish(self) -> None:
        """End after what is published now."""
        self._until = self._log.published_seq
        self._wake.set()

    async def next(self) -> list[bytes] | None:
        """Everything that is new, at least one item; None at the end.

        Raises what ended the log once all that was published has been fetched.
        """
        while True:
            self._wake.clear()
            if self._error is not None:
                raise self._error
            injected, self._injected = self._injected, []
            items = await self._collect()
            if injected:
                self._taken.set()
                return injected + items
            if items:
                return items
            if self._injected:
                continue
            if self._is_over:
                return None
            if self._log.ended is not None and self.after >= self._log.published_seq:
                raise self._log.ended
            if self.after >= self._log.published_seq:
                await self._wake.wait()

    async def _collect(self) -> list[bytes]:
        items: list[bytes] = []
        if self._is_over:
            return items
        entries = self._log.since(self.after)
        if entries is None:
            rows = await self._fetch(self.after, PAGE_EVENTS)
            if not rows:
                # Erased behind us: what is left is in memory or the end of the log.
                self.after = self._log.published_seq
            for row in rows:
                if row.seq <= self._log.published_seq and not self._is_over:
                    self._take(LogEntry(row.seq, row.run_id, row.kind, row.payload), items)
            return items
        for entry in entries:
            self._take(entry, items)
            if self._is_over:
                return items
        if self._until is not None and self.after >= self._until:
            self._is_over = True
            return items
        if not self._filter.without_deltas:
            for message in self._log.open.values():
                self._progress(message, items, self.after)
            if len(self._follows) > len(self._log.open):
                # Closed by an event that was read from the store.
                self._follows = {name: one for name, one in self._follows.items() if name in self._log.open}
        if self._is_beating:
            self._is_beating = False
            if not items:
                beat = run_service_pb2.Heartbeat(seq=self.after)
                items.append(length_delimited(_ITEM_HEARTBEAT, beat.SerializeToString()))
        return items

    def _take(self, entry: LogEntry, items: list[bytes]) -> None:
        self.after = entry.seq
        wanted = self._filter.run_ids
        is_wanted = (
            not self._filter.without_session_events if not entry.run_id else wanted is None or entry.run_id in wanted
        )
        if is_wanted:
            closed = self._log.closed_by(entry.seq)
            if closed is not None:
                # What was whole when the reader came is told by its commit alone.
                if not self._filter.without_deltas and entry.seq > self._attached_seq:
                    self._progress(closed, items, entry.seq - 1)
                self._follows.pop(closed.message_id, None)
            items.append(length_delimited(_ITEM_EVENT, entry.payload))
        if self._on_entry is not None and self._on_entry(entry):
            self._is_over = True
        if self._until is not None and entry.seq >= self._until:
            self._is_over = True

    def _progress(self, message: OpenMessage, items: list[bytes], seq: int) -> None:
        wanted = self._filter.run_ids
        if wanted is not None and message.run_id not in wanted:
            return
        follow = self._follows.get(message.message_id)
        if follow is None:
            follow = self._begin(message, items, seq)
        elif follow.message.attempt != message.attempt:
            follow.restart(message)
        offsets = follow.offsets
        for index, part in enumerate(message.parts):
            if index == len(offsets):
                offsets.append(0)
            if offsets[index] < len(part.content):
                self._deltas(follow, index, part, items, seq)

    def _begin(self, message: OpenMessage, items: list[bytes], seq: int) -> _Follow:
        follow = _Follow(message)
        self._follows[message.message_id] = follow
        given = self._given.pop(message.message_id, None)
        if given is not None and given.attempt == message.attempt and _fits(message, given.offsets):
            follow.offsets = list(given.offsets)
        elif message.message_id in self._found:
            items.append(self._snapshot(message, seq))
            follow.offsets = [len(part.content) for part in message.parts]
        return follow

    @staticmethod
    def _deltas(follow: _Follow, index: int, part: OpenPart, items: list[bytes], seq: int) -> None:
        content = part.content
        start = follow.offsets[index]
        delta = follow.delta(index)
        while start < len(content):
            end = min(len(content), start + MAX_DELTA_BYTES)
            while end < len(content) and content[end] & 0xC0 == 0x80:
                end -= 1
            text = content[start:end].decode()
            delta.offset = start
            if part.kind == ProgressKind.TEXT:
                delta.text = text
            elif part.kind == ProgressKind.REASONING:
                delta.reasoning = text
            else:
                delta.tool_input = text
                delta.tool_name = part.tool_name if start == 0 else ""
            delta.seq = seq
            items.append(length_delimited(_ITEM_DELTA, delta.SerializeToString()))
            start = end
        follow.offsets[index] = start

    @staticmethod
    def _snapshot(message: OpenMessage, seq: int) -> bytes:
        snapshot = run_service_pb2.Snapshot(
            message_id=message.message_id,
            attempt=message.attempt,
            seq=seq,
            run_id=message.run_id,
            turn_id=message.turn_id,
        )
        for index, part in enumerate(message.parts):
            shown = snapshot.parts.add(part=index, length=len(part.content), tool_name=part.tool_name)
            text = part.content.decode()
            if part.kind == ProgressKind.TEXT:
                shown.text = text
            elif part.kind == ProgressKind.REASONING:
                shown.reasoning = text
            else:
                shown.tool_input = text
        return length_delimited(_ITEM_SNAPSHOT, snapshot.SerializeToString())


def _fits(message: OpenMessage, offsets: Sequence[int]) -> bool:
    """Whether offsets are positions inside the message, each at a character's start."""
    if len(offsets) > len(message.parts):
        return False
    for part, offset in zip(message.parts, offsets, strict=False):
        if not 0 <= offset <= len(part.content):
            return False
        if offset < len(part.content) and part.content[offset] & 0xC0 == 0x80:
            return False
    return True

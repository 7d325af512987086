"""The live side of one session's log: what is durable and published, and the messages that are still growing.

Durable events come from the store's commits, in order; the last of them are kept for readers that keep up, older ones
are read from the store again. An open message is kept once, however many read it: a reader owns positions, not copies.
So deltas merge for whoever is slow, memory does not grow with readers, and nobody waits for anybody (U-26).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

TAIL_EVENTS = 256
TAIL_BYTES = 1 << 20


class ProgressKind(IntEnum):
    """What a growing part holds; also how its partial text is stored."""

    TEXT = 1
    REASONING = 2
    TOOL_INPUT = 3


@dataclass(slots=True)
class OpenPart:
    """A part of an open message. Offsets into it are offsets into ``content``, UTF-8."""

    kind: ProgressKind
    tool_name: str = ""
    content: bytearray = field(default_factory=bytearray)
    flushed: int = 0
    """How much of it the store has as partial text."""


class OpenMessage:
    """A message that a model is writing."""

    __slots__ = (
        "attempt",
        "closed",
        "context_id",
        "flush_at",
        "is_dirty",
        "message_id",
        "num_bytes",
        "parts",
        "run_id",
        "turn_id",
    )

    def __init__(self, message_id: str, run_id: str, turn_id: str, context_id: str, attempt: int) -> None:
        self.message_id = message_id
        self.run_id = run_id
        self.turn_id = turn_id
        self.context_id = context_id
        self.attempt = attempt
        self.parts: list[OpenPart] = []
        self.num_bytes = 0
        self.is_dirty = False
        """Whether a flush of its partial text is due."""
        self.flush_at = 0
        """From this many bytes on, the flush is due at once."""
        self.closed = False

    @property
    def has_flushed(self) -> bool:
        """Whether the store has partial text of it."""
        return any(part.flushed for part in self.parts)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A durable event as readers get it. ``closes`` is the open message whose commit it is, until it is published."""

    seq: int
    run_id: str
    kind: int
    payload: bytes
    closes: OpenMessage | None = None
    is_stored_only: bool = False
    """Whether the store alone has its payload: readers get it from there."""


class SessionLog:
    """What readers of one session follow. Only the event loop's thread touches it."""

    def __init__(self, last_seq: int, on_growth: Callable[[OpenMessage], None] | None = None) -> None:
        self.published_seq = last_seq
        self._on_growth = on_growth
        self.open: dict[str, OpenMessage] = {}
        self.ended: BaseException | None = None
        """Why readers stop once they have all that is published; None while the log lives."""
        self._tail: deque[LogEntry] = deque()
        self.tail_bytes = 0
        """What the kept events hold, and the closed messages that go with them."""
        self._closed: dict[int, OpenMessage] = {}
        """Messages that kept events closed, by seq, for readers that may not have all of them yet."""
        self._waiters: set[asyncio.Event] = set()

    def __repr__(self) -> str:
        return f"SessionLog(published_seq={self.published_seq}, open={len(self.open)}, readers={len(self._waiters)})"

    @property
    def num_readers(self) -> int:
        """Readers attached."""
        return len(self._waiters)

    def attach(self, waiter: asyncio.Event) -> None:
        """Wake this event at every change until it is detached."""
        self._waiters.add(waiter)

    def detach(self, waiter: asyncio.Event) -> None:
        """Stop waking it."""
        self._waiters.discard(waiter)
        if not self._waiters:
            self.tail_bytes -= sum(message.num_bytes for message in self._closed.values())
            self._closed.clear()

    def publish(self, entries: Sequence[LogEntry]) -> None:
        """Show events that have become durable, in order and without gaps."""
        for entry in entries:
            if entry.seq != self.published_seq + 1:
                raise AssertionError(f"event {entry.seq} published after {self.published_seq}")
            self.published_seq = entry.seq
            if entry.is_stored_only:
                while self._tail:
                    self._drop()
                continue
            self.tail_bytes += len(entry.payload)
            message = entry.closes
            if message is not None:
                message.closed = True
                self.open.pop(message.message_id, None)
                # Who comes later is told by the event alone.
                entry = LogEntry(entry.seq, entry.run_id, entry.kind, entry.payload)
                if self._waiters:
                    self._closed[entry.seq] = message
                    self.tail_bytes += message.num_bytes
            self._tail.append(entry)
        while self._tail and (len(self._tail) > TAIL_EVENTS or self.tail_bytes > TAIL_BYTES):
            self._drop()
        self.wake()

    def _drop(self) -> None:
        entry = self._tail.popleft()
        message = self._closed.pop(entry.seq, None)
        self.tail_bytes -= len(entry.payload) + (message.num_bytes if message is not None else 0)

    def closed_by(self, seq: int) -> OpenMessage | None:
        """The message that an event closed, while a reader may lack some of it."""
        return self._closed.get(seq)

    def open_message(self, message: OpenMessage) -> None:
        """Show a message that begins; its deltas follow.

        A new attempt takes the place of the one before, whose discard has to be durable already (U-26).
        """
        self.open[message.message_id] = message

    def start_part(self, message: OpenMessage, kind: ProgressKind, tool_name: str = "") -> OpenPart:
        """Add a part to an open message."""
        part = OpenPart(kind, tool_name)
        message.parts.append(part)
        return part

    def grow(self, message: OpenMessage, part: OpenPart, text: str) -> None:
        """Add text to a part of an open message and wake its readers."""
        content = text.encode()
        part.content += content
        message.num_bytes += len(content)
        if self._on_growth is not None and (not message.is_dirty or message.num_bytes >= message.flush_at):
            self._on_growth(message)
        for waiter in self._waiters:
            waiter.set()

    def since(self, after: int) -> list[LogEntry] | None:
        """Published events after a seq, or None where they are not kept any more and have to be read from the store."""
        missing = self.published_seq - after
        if missing <= 0:
            return []
        if missing > len(self._tail):
            return None
        if missing == 1:
            return [self._tail[-1]]
        return list(self._tail)[-missing:]

    def end(self, reason: BaseException) -> None:
        """Let readers stop after what is published. The first reason stays."""
        if self.ended is None:
            self.ended = reason
        self.wake()

    def wake(self) -> None:
        """Wake all readers."""
        for waiter in self._waiters:
            waiter.set()

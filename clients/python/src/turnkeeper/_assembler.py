"""Puts messages together from deltas, snapshots and events, however the connection behaved in between.

An open message is known by its id and attempt, and has parts; a delta says at which UTF-8 byte of its part it starts.
So what a reader already has is recognised, and dropped; what is missing is noticed, and asked for. A voided attempt
empties its message. The committed message replaces all of it, and the open one is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from turnkeeper.v1.event_pb2 import Event
from turnkeeper.v1.run_service_pb2 import Delta, DeltaPosition, Snapshot

Item: TypeAlias = Event | Delta | Snapshot
PartKind: TypeAlias = Literal["text", "reasoning", "tool_input"]

# Ids of committed messages are kept for a while, so that a delta that comes too late is known as one.
_REMEMBERED = 256


class DeltaGapError(Exception):
    """A delta starts behind the end of what is there: something between is missing."""


@dataclass
class OpenPart:
    """One part of an open message."""

    kind: PartKind
    """What it holds."""
    tool_name: str = ""
    """The tool that a part of kind `tool_input` is for."""
    length: int = 0
    """How many UTF-8 bytes of it are there; its next delta starts here."""
    _chunks: list[str] = field(default_factory=list, repr=False)

    @property
    def text(self) -> str:
        """What is there: text, reasoning, or the JSON of a tool call's arguments."""
        if len(self._chunks) > 1:
            self._chunks[:] = ["".join(self._chunks)]
        return self._chunks[0] if self._chunks else ""

    def _append(self, more: str) -> None:
        self._chunks.append(more)
        self.length += len(more) if more.isascii() else len(more.encode())


@dataclass
class OpenMessage:
    """A message that is being written."""

    message_id: str
    """Its id."""
    attempt: int
    """The attempt at it, from 1."""
    run_id: str = ""
    """The run that it belongs to."""
    turn_id: str = ""
    """The turn that it belongs to."""
    parts: dict[int, OpenPart] = field(default_factory=dict)
    """Its parts by index."""

    @property
    def text(self) -> str:
        """Its text, without reasoning and tool calls."""
        return "".join(part.text for _, part in sorted(self.parts.items()) if part.kind == "text")

    def _position(self) -> DeltaPosition:
        last = max(self.parts)
        offsets = [self.parts[index].length if index in self.parts else 0 for index in range(last + 1)]
        return DeltaPosition(message_id=self.message_id, attempt=self.attempt, offsets=offsets)


class MessageAssembler:
    """The open messages of a session, as one reader has them.

    Give it every item of a stream by `apply`. It says what of the item was new.
    """

    def __init__(self) -> None:
        """Begin with no open message."""
        self._open: dict[str, OpenMessage] = {}
        self._closed: OrderedDict[str, None] = OrderedDict()

    @property
    def open_messages(self) -> tuple[OpenMessage, ...]:
        """The messages that are being written, in the order in which they began."""
        return tuple(self._open.values())

    def get(self, message_id: str) -> OpenMessage | None:
        """The open message of this id; None where it is not open, or not known yet."""
        return self._open.get(message_id)

    def positions(self) -> list[DeltaPosition]:
        """How much of each open message is here: what a stream that resumes has to say."""
        return [message._position() for message in self._open.values() if message.parts]

    def apply(self, item: Item) -> list[Item]:
        """Take an item in, and return what of it is new: the item, what is left of it, or nothing.

        A snapshot that only adds to what is here is returned as the deltas that it adds; it is returned itself only
        where it contradicts, and so replaces, what is here.

        Raises:
            DeltaGapError: Something before the delta is missing. Nothing has changed.
        """
        if isinstance(item, Event):
            self._apply_event(item)
            return [item]
        if isinstance(item, Delta):
            delta = self._apply_delta(item)
            return [] if delta is None else [delta]
        return self._apply_snapshot(item)

    def _apply_event(self, event: Event) -> None:
        match event.WhichOneof("payload"):
            case "attempt_discarded":
                void = event.attempt_discarded
                known = self._open.get(void.message_id)
                if void.message_id not in self._closed and (known is None or known.attempt <= void.attempt):
                    self._begin(void.message_id, void.attempt + 1, event.run_id, event.turn_id)
            case "message_committed":
                self._close(event.message_committed.message.message_id)
            case "run_finished":
                # A voided attempt that no other followed is never committed.
                empty = [m.message_id for m in self._open.values() if m.run_id == event.run_id and not m.parts]
                for message_id in empty:
                    self._close(message_id)
            case "session_deleted":
                self._open.clear()

    def _apply_delta(self, delta: Delta) -> Delta | None:
        kind = delta.WhichOneof("delta")
        if kind is None or self._is_void(delta.message_id, delta.attempt):
            return None
        message = self._open.get(delta.message_id)
        is_same = message is not None and message.attempt == delta.attempt
        part = message.parts.get(delta.part) if message is not None and is_same else None
        have = part.length if part is not None else 0
        if delta.offset > have:
            raise DeltaGapError(f"{delta.message_id} part {delta.part}: {have} bytes here, delta at {delta.offset}")
        rest = _from_offset(getattr(delta, kind), have - delta.offset)
        if rest is None:
            raise DeltaGapError(f"{delta.message_id} part {delta.part}: byte {have} is inside a character")
        if not rest and part is not None:
            return None
        if message is None or not is_same:
            message = self._begin(delta.message_id, delta.attempt, delta.run_id, delta.turn_id)
        if part is None:
            part = message.parts[delta.part] = OpenPart(kind)
        part.tool_name = part.tool_name or delta.tool_name
        part._append(rest)
        if have == delta.offset:
            return delta
        trimmed = Delta()
        trimmed.CopyFrom(delta)
        trimmed.offset = have
        setattr(trimmed, kind, rest)
        return trimmed

    def _apply_snapshot(self, snapshot: Snapshot) -> list[Item]:
        if self._is_void(snapshot.message_id, snapshot.attempt):
            return []
        message = self._open.get(snapshot.message_id)
        if message is not None and message.attempt == snapshot.attempt and _contradicts(message, snapshot):
            fresh = self._begin(snapshot.message_id, snapshot.attempt, snapshot.run_id, snapshot.turn_id)
            for delta in _as_deltas(snapshot, fresh):
                self._apply_delta(delta)
            return [snapshot]
        fresh = self._begin_or_keep(snapshot)
        return [new for delta in _as_deltas(snapshot, fresh) if (new := self._apply_delta(delta)) is not None]

    def _begin_or_keep(self, snapshot: Snapshot) -> OpenMessage:
        message = self._open.get(snapshot.message_id)
        if message is not None and message.attempt == snapshot.attempt:
            return message
        return self._begin(snapshot.message_id, snapshot.attempt, snapshot.run_id, snapshot.turn_id)

    def _is_void(self, message_id: str, attempt: int) -> bool:
        message = self._open.get(message_id)
        return message_id in self._closed or (message is not None and attempt < message.attempt)

    def _begin(self, message_id: str, attempt: int, run_id: str, turn_id: str) -> OpenMessage:
        message = self._open[message_id] = OpenMessage(message_id, attempt, run_id, turn_id)
        return message

    def _close(self, message_id: str) -> None:
        self._open.pop(message_id, None)
        self._closed[message_id] = None
        while len(self._closed) > _REMEMBERED:
            self._closed.popitem(last=False)


def _from_offset(text: str, skip: int) -> str | None:
    """What is left of a text after `skip` UTF-8 bytes; None where that is inside a character."""
    if skip == 0:
        return text
    if text.isascii():
        return text[skip:]
    try:
        return text.encode()[skip:].decode()
    except UnicodeDecodeError:
        return None


def _contradicts(message: OpenMessage, snapshot: Snapshot) -> bool:
    """Whether one of the two is not the beginning of the other."""
    for part in snapshot.parts:
        known, kind = message.parts.get(part.part), part.WhichOneof("content")
        if known is None or kind is None:
            continue
        text = getattr(part, kind)
        if known.kind != kind or not (text.startswith(known.text) or known.text.startswith(text)):
            return True
    return False


def _as_deltas(snapshot: Snapshot, message: OpenMessage) -> list[Delta]:
    """A snapshot as deltas from the start of each part; what the message has of them is trimmed when they apply."""
    deltas = []
    for part in snapshot.parts:
        kind = part.WhichOneof("content")
        if kind is None:
            continue
        delta = Delta(
            message_id=message.message_id,
            attempt=message.attempt,
            seq=snapshot.seq,
            run_id=snapshot.run_id,
            turn_id=snapshot.turn_id,
            part=part.part,
            tool_name=part.tool_name,
        )
        setattr(delta, kind, getattr(part, kind))
        deltas.append(delta)
    return deltas

"""Server-sent events out of bytes: pure, incremental, and the same however the bytes are cut."""

from __future__ import annotations

import codecs
import re

import msgspec

from turnkeeper_service.providers.base import FailureReason, ProviderError
from turnkeeper_service.providers.leniency import is_json

MAX_EVENT_BYTES = 8 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_BEFORE = _BOM + b" \t\r\n\0"
"""Bytes that may stand before a line, though they should not."""
_NAMES = frozenset({b"data", b"event", b"id", b"retry"})
_BEGINNINGS = (b"data:", b"event:", b"id:", b"retry:")
_Utf8Decoder = codecs.getincrementaldecoder("utf-8")
_NEXT_DATA = re.compile(rb"data: ?[\[{]")
_SEAM = re.compile(rb"\}\ndata: ?[\[{]|^event:[^\n]*\ndata:[^\n]*\}\nevent:", re.M)
"""Two events without a blank line between them: no JSON goes on so, and no event has two names."""
_WHOLE_LINE = re.compile(rb"^(data:[^\n]*[}\]])\n(?!\n)", re.M)


class SseEvent(msgspec.Struct, frozen=True, gc=False):
    """One dispatched event. ``data`` is valid UTF-8, its lines joined by a line feed."""

    data: bytes
    event: str = ""
    """The event's type; empty where the stream did not name one."""
    id: str = ""
    """The last id that the stream gave, with this event or before it."""
    retry_ms: int | None = None
    """The reconnection time sent with this event."""


class SseSplitter:
    """Feeds on chunks of a body and gives the events that they complete.

    A body that ends without its last blank line still gives its last event, from `finish`. Bytes that are not UTF-8 are
    replaced by U+FFFD. An event over the limit ends it: `failure` is set behind the events before it, and all further
    bytes are ignored.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.failure: ProviderError | None = None
        """Why the bytes are no event stream."""
        self.has_replaced = False
        """Whether bytes that are no text were replaced."""
        self._max = max_event_bytes
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._after_cr = False
        self._at_start = True
        self._is_line_wise = False
        """Whether the stream was seen to leave out blank lines."""
        self._id = ""

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Take the next bytes of the body."""
        if self._after_cr or b"\r" in chunk:
            chunk = self._unify_line_ends(chunk)
        if not chunk or self.failure is not None:
            return []
        # A paced stream: one chunk is one event of one line.
        size = len(chunk) - 2
        if (
            chunk.startswith(b"data: ")
            and chunk.find(b"\n") == size
            and chunk[-1] == 10
            and size <= self._max
            and chunk.isascii()
            and not (self._pending or self._at_start)
        ):
            return [SseEvent(chunk[6:size], "", self._id)]
        if self._pending:
            self._is_line_wise = self._is_line_wise or self._is_seam(chunk)
            end = b"\n" if self._is_line_wise else b"\n\n"
            # Only the seam between what is kept and the chunk can hold a blank line that neither side shows.
            if end not in chunk and not (chunk[0] == 10 and self._pending[-1][-1] == 10):
                self._keep(chunk)
                return []
            self._pending.append(chunk)
            chunk = b"".join(self._pending)
            self._pending.clear()
            self._pending_bytes = 0
        if self._at_start:
            if len(chunk) < 3 and _BOM.startswith(chunk):
                self._keep(chunk)
                return []
            self._at_start = False
            if chunk[:3] == _BOM:
                chunk = chunk[3:]
        if self._is_line_wise or b"}\ndata:" in chunk or b"}\nevent:" in chunk:
            self._is_line_wise = self._is_line_wise or _SEAM.search(chunk) is not None
            if self._is_line_wise:
                chunk = _WHOLE_LINE.sub(rb"\1\n\n", chunk)
        *blocks, rest = chunk.split(b"\n\n")
        events: list[SseEvent] = []
        is_ascii = chunk.isascii()
        if is_ascii and len(chunk) <= self._max and _are_data_lines(chunk, len(blocks), rest):
            last_id = self._id
            events = [SseEvent(block[6:], "", last_id) for block in blocks]
            blocks = []
        for block in blocks:
            # What nearly every event of a model looks like: one line of data.
            if is_ascii and block.startswith(b"data: ") and b"\n" not in block and len(block) <= self._max:
                events.append(SseEvent(block[6:], "", self._id))
            elif block and not self._parse(block, events):
                return events
        if rest:
            self._keep(rest)
        return events

    def finish(self) -> list[SseEvent]:
        """The body is over: give its last event if nothing but the blank line is missing."""
        block = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        if self._at_start and block[:3] == _BOM:
            block = block[3:]
        if self.failure is not None or not block or _is_cut(block):
            # A body cut inside a character is no protocol error: the missing end says more than the half character.
            return []
        events: list[SseEvent] = []
        self._parse(block.rstrip(b"\n"), events)
        return events

    def _unify_line_ends(self, chunk: bytes) -> bytes:
        # A CR at the end of a chunk already ended its line; the LF that may follow belongs to it.
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[0] == 10:
                chunk = chunk[1:]
        if chunk and chunk[-1] == 13:
            self._after_cr = True
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _is_seam(self, chunk: bytes) -> bool:
        """Whether a whole event without its blank line ends here, since the next one begins."""
        if not self._pending[-1].endswith(b"}\n"):
            return False
        return _NEXT_DATA.match(chunk) is not None or (
            chunk.startswith(b"event:") and self._pending[0].startswith(b"event:")
        )

    def _keep(self, piece: bytes) -> None:
        self._pending.append(piece)
        self._pending_bytes += len(piece)
        # One more for the line end that an event may still carry.
        if self._pending_bytes > self._max + 1:
            self._fail("Event too large", f"One event of the stream is over {self._max} bytes.")

    def _parse(self, block: bytes, events: list[SseEvent]) -> bool:
        """Append the block's event, if it has one; False if the block ends the stream."""
        if len(block) > self._max:
            self._fail("Event too large", f"One event of the stream is over {self._max} bytes.")
            return False
        if not block.isascii() and not _is_utf8(block):
            # Half a character, from servers that stream by token.
            block, self.has_replaced = block.decode(errors="replace").encode(), True
        # In formats that name their events: the name, then one line of data.
        first, _, second = block.partition(b"\n")
        if first.startswith(b"event: ") and second.startswith(b"data: ") and b"\n" not in second:
            events.append(SseEvent(second[6:], first[7:].decode(), self._id))
        else:
            self._parse_lines(block, events)
        return True

    def _parse_lines(self, block: bytes, events: list[SseEvent]) -> None:
        data: list[bytes] = []
        event = ""
        retry: int | None = None

        def end() -> None:
            nonlocal event, retry
            if data:
                events.append(SseEvent(data[0] if len(data) == 1 else b"\n".join(data), event, self._id, retry))
                data.clear()
            event, retry = "", None

        for line in _lines(block):
            if line[:1] in (b"{", b"["):
                # Data that lack their name.
                end()
                data.append(line)
                end()
                continue
            name, _, value = line.partition(b":")
            if name not in _NAMES:
                name = name.strip(_BEFORE).lower()
            if value[:1] == b" ":
                value = value[1:]
            if name == b"data":
                if data and data[-1].endswith(b"}") and value[:1] in (b"{", b"["):
                    # No JSON goes on so: the blank line between two events is missing.
                    end()
                data.append(value)
            elif name == b"event":
                if data and event and data[-1].endswith(b"}"):
                    end()
                event = value.decode()
            elif name == b"id":
                if b"\0" not in value:
                    self._id = value.decode()
            elif name == b"retry" and value.isdigit():
                retry = int(value[:12])
        end()

    def _fail(self, title: str, detail: str) -> None:
        self.failure = ProviderError(FailureReason.PROVIDER_PROTOCOL, title, detail)
        self._pending.clear()


def starts_as_events(head: bytes) -> bool | None:
    """Whether a body that begins so holds events; None where that cannot be told yet."""
    start = head.lstrip(_BEFORE)[:8].lower()
    if not start:
        return None
    if start[:1] in (b":", b"{", b"[") or start.startswith(_BEGINNINGS):
        return True
    return None if any(one.startswith(start) for one in _BEGINNINGS) else False


def _lines(block: bytes) -> list[bytes]:
    """The lines of a block; JSON without any names, laid out over several lines, is one."""
    if block[:1] in (b"{", b"[") and b"\n" in block and is_json(block):
        return [block]
    return block.split(b"\n")


def _are_data_lines(chunk: bytes, num_blocks: int, rest: bytes) -> bool:
    """Whether each block is one line of data: counted in the chunk, since a look at each costs more than its split."""
    return (
        chunk.startswith(b"data: ")
        and chunk.count(b"\n\ndata: ") == num_blocks - (not rest.startswith(b"data: "))
        and chunk.count(b"\n") - rest.count(b"\n") == 2 * num_blocks
    )


def _is_cut(block: bytes) -> bool:
    """Whether it ends inside a character."""
    decoder = _Utf8Decoder(errors="replace")
    decoder.decode(block)
    return bool(decoder.getstate()[0])


def _is_utf8(block: bytes) -> bool:
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True

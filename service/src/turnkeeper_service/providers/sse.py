"""Server-sent events out of bytes: pure, incremental, and the same however the bytes are cut."""

from __future__ import annotations

import msgspec

from turnkeeper_service.providers.base import FailureReason, ProviderError

MAX_EVENT_BYTES = 8 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


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

    A body that ends without its last blank line still gives its last event, from `finish`. An event that is not UTF-8
    or over the limit ends it: `failure` is set behind the events before it, and all further bytes are ignored.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.failure: ProviderError | None = None
        """Why the bytes are no event stream."""
        self._max = max_event_bytes
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._after_cr = False
        self._at_start = True
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
            # Only the seam between what is kept and the chunk can hold a blank line that neither side shows.
            if b"\n\n" not in chunk and not (chunk[0] == 10 and self._pending[-1][-1] == 10):
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
        if self.failure is not None or not block or not _is_utf8(block):
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
            self._fail("Invalid UTF-8", "The stream holds bytes that are not UTF-8.")
            return False
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
        for line in block.split(b"\n"):
            name, _, value = line.partition(b":")
            if value[:1] == b" ":
                value = value[1:]
            if name == b"data":
                data.append(value)
            elif name == b"event":
                event = value.decode()
            elif name == b"id":
                if b"\0" not in value:
                    self._id = value.decode()
            elif name == b"retry" and value.isdigit():
                retry = int(value[:12])
        if data:
            events.append(SseEvent(data[0] if len(data) == 1 else b"\n".join(data), event, self._id, retry))

    def _fail(self, title: str, detail: str) -> None:
        self.failure = ProviderError(FailureReason.PROVIDER_PROTOCOL, title, detail)
        self._pending.clear()


def _are_data_lines(chunk: bytes, num_blocks: int, rest: bytes) -> bool:
    """Whether each block is one line of data: counted in the chunk, since a look at each costs more than its split."""
    return (
        chunk.startswith(b"data: ")
        and chunk.count(b"\n\ndata: ") == num_blocks - (not rest.startswith(b"data: "))
        and chunk.count(b"\n") - rest.count(b"\n") == 2 * num_blocks
    )


def _is_utf8(block: bytes) -> bool:
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True

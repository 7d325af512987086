"""What a child process writes: lines on its standard output, and complaints on its standard error."""

from __future__ import annotations

from collections import deque

import structlog

log = structlog.get_logger(__name__)

KEPT_LINES = 20
MAX_LINE_BYTES = 2000
KEPT_BYTES = 4096
"""Of the start and the end of a line that is too long, to tell which call it answers."""


class Complaints:
    """The last lines that a child process wrote to its standard error.

    They are told where it did not come up. Later they may hold what a call said, and go to the debug log only.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._rest = b""
        self.last: deque[str] = deque(maxlen=KEPT_LINES)

    def take(self, data: bytes) -> None:
        """Some bytes of it."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-MAX_LINE_BYTES:]
        for line in lines:
            self._line(line)

    def end(self) -> None:
        """There are no more."""
        if self._rest:
            self._line(self._rest)
        self._rest = b""

    def _line(self, line: bytes) -> None:
        said = line[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip()
        self.last.append(said)
        log.debug("a tool server writes to its standard error", server=self._server, line=said)


class Lines:
    """What a child writes, line by line; at most one line's limit is held beside the line that is being read."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.whole: deque[tuple[bytes, bool]] = deque()
        """Lines, each with whether it was too long: then these are its start and its end."""
        self.num_bytes = 0
        self._parts: list[bytes] = []
        self._length = 0
        self._start = b""

    def take(self, data: bytes) -> None:
        """Some bytes of it."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._grow(end)
            self.end()
        self._grow(rest)

    def _grow(self, data: bytes) -> None:
        if not data:
            return
        self._parts.append(data)
        self._length += len(data)
        if self._length > self.limit:
            joined = b"".join(self._parts)
            self._start = self._start or joined[:KEPT_BYTES]
            self._parts = [joined[-KEPT_BYTES:]]

    def end(self) -> None:
        """A line ends here, or all of it."""
        line = b"".join(self._parts)
        is_cut = bool(self._start)
        if is_cut:
            line = self._start + b"\n" + line
        if line:
            self.whole.append((line, is_cut))
            self.num_bytes += len(line)
        self._parts, self._length, self._start = [], 0, b""

    def next(self) -> tuple[bytes, bool]:
        """The first line that was not taken yet."""
        line, is_cut = self.whole.popleft()
        self.num_bytes -= len(line)
        return line, is_cut

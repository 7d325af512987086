"""Lines of standard input as they come, from a terminal, a pipe or a file, without a thread."""

from __future__ import annotations

import asyncio
import codecs
import os
import sys
from collections import deque
from typing import Protocol, Self

# A terminal gives no longer line, and cuts what is longer.
TERMINAL_LINE_BYTES = 4095
MAX_WAITING_LINES = 1024
"""Lines that are read ahead; a pipe waits for its reader beyond."""
MAX_LINE_CHARACTERS = 16 << 20
"""A line that does not end is cut there; a server takes no prompt of this length."""


class Input(Protocol):
    """Lines that somebody says."""

    max_bytes: int
    """A line of so many bytes was cut."""
    is_stopped: bool
    """Whether it was told to stop, and did not come to the end."""

    def stop(self) -> None:
        """End the iteration now."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(self, *_: object) -> None: ...

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> str: ...


class Lines:
    """An asynchronous iterator of lines. It ends at the end of the input, or when it is told to stop."""

    def __init__(self, descriptor: int) -> None:
        """Read nothing yet; `async with` does."""
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._lines: deque[str] = deque()
        self._grown = asyncio.Event()
        self._is_file = self._is_waited_for = self._is_at_end = False
        self.is_stopped = False
        self.max_bytes = TERMINAL_LINE_BYTES if os.isatty(descriptor) else sys.maxsize

    async def __aenter__(self) -> Self:
        self._wait_for_more()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._wait_no_more()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not (self._lines or self._is_at_end or self.is_stopped):
            if self._is_file:
                self._read()
                continue
            self._wait_for_more()
            self._grown.clear()
            await self._grown.wait()
        if self.is_stopped or not self._lines:
            raise StopAsyncIteration
        return self._lines.popleft()

    def stop(self) -> None:
        """End the iteration now."""
        self.is_stopped = True
        self._wait_no_more()
        self._grown.set()

    def _read(self) -> None:
        """Take what is there."""
        try:
            read = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        except OSError:
            # A terminal that was hung up.
            read = b""
        *lines, self._rest = (self._rest + self._decoder.decode(read, final=not read)).split("\n")
        self._lines.extend(line.removesuffix("\r") for line in lines)
        if self._rest and (not read or len(self._rest) > MAX_LINE_CHARACTERS):
            self._lines.append(self._rest)
            self._rest = ""
        self._is_at_end = not read
        if self._is_at_end or len(self._lines) >= MAX_WAITING_LINES:
            self._wait_no_more()
        self._grown.set()

    def _wait_for_more(self) -> None:
        if self._is_waited_for or self._is_file:
            return
        try:
            asyncio.get_running_loop().add_reader(self._descriptor, self._read)
            self._is_waited_for = True
        except PermissionError:
            # A plain file is always readable, which is why it cannot be waited for.
            self._is_file = True

    def _wait_no_more(self) -> None:
        if self._is_waited_for:
            self._is_waited_for = False
            asyncio.get_running_loop().remove_reader(self._descriptor)

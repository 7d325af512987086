"""Lines of standard input as they come, from a terminal, a pipe or a file, without a thread."""

from __future__ import annotations

import asyncio
import codecs
import os
from typing import Self


class Lines:
    """An asynchronous iterator of lines. It ends at the end of the input, or when it is told to stop."""

    def __init__(self, descriptor: int) -> None:
        """Read nothing yet; `with` does."""
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._is_registered = False
        self.is_stopped = False
        """Whether it was told to stop, and did not come to the end."""

    def __enter__(self) -> Self:
        try:
            asyncio.get_running_loop().add_reader(self._descriptor, self._readable)
            self._is_registered = True
        except PermissionError:
            # A plain file is always readable, which is why it cannot be waited for.
            while self._readable():
                pass
        return self

    def __exit__(self, *_: object) -> None:
        self._unregister()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        line = await self._lines.get()
        if line is None or self.is_stopped:
            raise StopAsyncIteration
        return line

    def stop(self) -> None:
        """End the iteration now."""
        self.is_stopped = True
        self._unregister()
        self._lines.put_nowait(None)

    def _readable(self) -> bool:
        """Take what is there; False at the end."""
        try:
            read = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return True
        except OSError:
            # A terminal that was hung up.
            read = b""
        *lines, self._rest = (self._rest + self._decoder.decode(read, final=not read)).split("\n")
        for line in lines:
            self._lines.put_nowait(line.removesuffix("\r"))
        if read:
            return True
        self._unregister()
        if self._rest:
            self._lines.put_nowait(self._rest)
        self._lines.put_nowait(None)
        return False

    def _unregister(self) -> None:
        if self._is_registered:
            self._is_registered = False
            asyncio.get_running_loop().remove_reader(self._descriptor)

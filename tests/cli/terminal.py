"""The command in a terminal, with somebody at its keyboard."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import sys
import termios
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

# Makes the terminal the one that Ctrl-C of its keyboard comes from, then becomes the command.
CONTROLLED = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A terminal with the command in it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen = ""
        self._grown = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    async def shows(self, text: str) -> None:
        """Wait until a text is shown after what was waited for last."""
        try:
            async with asyncio.timeout(30):
                while text not in self._seen:
                    self._grown.clear()
                    await self._grown.wait()
        except TimeoutError:
            raise AssertionError(f"{text!r} is not in {self._seen!r}") from None
        self._seen = self._seen.split(text, 1)[1]

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _read(self) -> None:
        try:
            self._seen += os.read(self._descriptor, 65536).decode()
        except OSError:
            asyncio.get_running_loop().remove_reader(self._descriptor)
        self._grown.set()


@asynccontextmanager
async def terminal(environ: Mapping[str, str], *arguments: str) -> AsyncIterator[tuple[Terminal, Process]]:
    """A terminal with the command in it, and the command."""
    outer, inner = pty.openpty()
    attributes = termios.tcgetattr(inner)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(inner, termios.TCSANOW, attributes)
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", CONTROLLED, sys.executable, "-m", "turnkeeper.cli", *arguments],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
        env={**environ, "TERM": "dumb"},
    )
    os.close(inner)
    shown = Terminal(outer)
    try:
        yield shown, process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        shown.close()

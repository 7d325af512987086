"""The command in a terminal, with somebody at its keyboard."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import sys
import termios
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import pyte

# Makes the terminal the one that Ctrl-C of its keyboard comes from, then becomes the command.
CONTROLLED = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


COLUMNS, ROWS = 60, 24


class Display(pyte.Screen):
    """What a terminal displays; it says where its cursor is to programs that ask."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(COLUMNS, ROWS)
        self._descriptor = descriptor

    def write_process_input(self, data: str) -> None:
        os.write(self._descriptor, data.encode())


class Terminal:
    """A terminal with the command in it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen = ""
        self._display = Display(descriptor)
        self._stream = pyte.ByteStream(self._display)
        self._grown = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    @property
    def rows(self) -> list[str]:
        """What is displayed, without the empty rows below it."""
        rows = [row.rstrip() for row in self._display.display]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    async def displays(self, *rows: str) -> None:
        """Wait until the last rows of the display are these."""
        await self._until(lambda: self.rows[-len(rows) :] == list(rows), lambda: f"{rows!r} does not end {self.rows!r}")

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    async def shows(self, text: str) -> None:
        """Wait until a text is shown after what was waited for last."""
        await self._until(lambda: text in self._seen, lambda: f"{text!r} is not in {self._seen!r}")
        self._seen = self._seen.split(text, 1)[1]

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    async def _until(self, holds: Callable[[], bool], wrong: Callable[[], str]) -> None:
        try:
            async with asyncio.timeout(30):
                while not holds():
                    self._grown.clear()
                    await self._grown.wait()
        except TimeoutError:
            raise AssertionError(wrong()) from None

    def _read(self) -> None:
        try:
            read = os.read(self._descriptor, 65536)
        except OSError:
            asyncio.get_running_loop().remove_reader(self._descriptor)
        else:
            self._seen += read.decode(errors="replace")
            self._stream.feed(read)
        self._grown.set()


@asynccontextmanager
async def terminal(
    environ: Mapping[str, str], *arguments: str, kind: str = "dumb"
) -> AsyncIterator[tuple[Terminal, Process]]:
    """A terminal with the command in it, and the command; a dumb one only ever adds to what it shows."""
    outer, inner = pty.openpty()
    termios.tcsetwinsize(inner, (ROWS, COLUMNS))
    attributes = termios.tcgetattr(inner)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(inner, termios.TCSANOW, attributes)
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", CONTROLLED, sys.executable, "-m", "turnkeeper.cli", *arguments],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
        env={**environ, "TERM": kind},
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

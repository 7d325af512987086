"""The real server, as a process that a test may kill and start again on the same data and port."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

START_SECONDS = 60.0


class RealServer:
    """A server on a data directory of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        self._arguments = arguments
        self._process: Process | None = None
        self.address = ""

    async def start(self) -> None:
        """Come to serve; the second time where it served the first."""
        arguments = ["--grpc-address", self.address or "127.0.0.1:0", "--http-address", "127.0.0.1:0"]
        arguments += ["--data-dir", str(self._folder), "--model", "scripted/echo", *self._arguments]
        log = (self._folder.parent / f"{self._folder.name}.log").open("ab")
        with log:
            self._process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", "turnkeeper_service", "serve", *arguments],
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith("TURNKEEPER_")},
            )
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), START_SECONDS)
        words = line.decode().split()
        assert words[:1] == ["listening"], line
        self.address = words[1].removeprefix("grpc=")

    async def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.communicate()
            self._process = None

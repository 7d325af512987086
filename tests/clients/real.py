"""The real server, as a process that a test may kill and start again on the same data and port."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 60.0


def _command(folder: Path, address: str, arguments: Sequence[str]) -> list[str]:
    where = ["--grpc-address", address, "--http-address", "127.0.0.1:0", "--data-dir", str(folder)]
    return [sys.executable, "-m", "turnkeeper_service", "serve", *where, "--model", "scripted/echo", *arguments]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TURNKEEPER_")}


def _address(line: bytes) -> str:
    words = line.decode().split()
    assert words[:1] == ["listening"], line
    return words[1].removeprefix("grpc=")


def _kept_address() -> str:
    """A free address whose port nobody is given for a connection of his own, so that it is free again after a kill."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return f"127.0.0.1:{port}"
    raise AssertionError("no port is free")


@contextmanager
def lasting_server(folder: Path, *arguments: str, **environ: str) -> Iterator[str]:
    """A server for all tests of a module, which belongs to no event loop; its address."""
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        process = subprocess.Popen(
            _command(folder, "127.0.0.1:0", arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**_environment(), **environ},
        )
    try:
        assert process.stdout is not None
        yield _address(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


class RealServer:
    """A server on a data directory of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        self._arguments = arguments
        self._process: Process | None = None
        self.address = ""

    async def start(self) -> None:
        """Come to serve; the second time where it served the first."""
        log = (self._folder.parent / f"{self._folder.name}.log").open("ab")
        with log:
            self._process = await asyncio.create_subprocess_exec(
                *_command(self._folder, self.address or _kept_address(), self._arguments),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=log,
                env=_environment(),
            )
        assert self._process.stdout is not None
        self.address = _address(await asyncio.wait_for(self._process.stdout.readline(), START_SECONDS))

    async def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.communicate()
            self._process = None

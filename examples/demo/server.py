"""The server as a process of its own, which can be killed and started again on the same port and data."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import time
from pathlib import Path

from .vendor import clean_environment

START_SECONDS = 30.0
STOP_SECONDS = 15.0


class ServerError(Exception):
    """The server did not come to serve, or did not go."""


class ServerProcess:
    """`turnkeeper serve` on embedded SQLite in a folder."""

    def __init__(self, folder: Path, config: str) -> None:
        self.address = "127.0.0.1:0"
        """Where it serves; known from the first start on, and kept."""
        self.pid = 0
        self._log = folder / "server.log"
        self._config = folder / "turnkeeper.toml"
        self._config.write_text(config)
        self._data = folder / "data"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> list[str]:
        """The last lines of its log."""
        return self._log.read_text(errors="replace").splitlines()[-20:] if self._log.exists() else []

    async def start(self) -> float:
        """Start it; returns the seconds until it served. Raises ServerError."""
        began = time.monotonic()
        flags = {
            "--config": self._config,
            "--data-dir": self._data,
            "--grpc-address": self.address,
            "--http-address": "127.0.0.1:0",
            "--log-format": "text",
        }
        words = [str(word) for flag in flags.items() for word in flag]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "turnkeeper.cli", "serve", *words),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=clean_environment(),
            )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                line = (await self._process.stdout.readline()).decode()
        except TimeoutError:
            raise ServerError(f"the server does not serve after {START_SECONDS:.0f} s") from None
        found = re.match(r"listening grpc=(\S+) ", line)
        if found is None:
            raise ServerError("the server does not start")
        self.address = found[1]
        return time.monotonic() - began

    async def kill(self) -> None:
        """`kill -9`."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> int:
        """Ask it to drain and go, as an operator does; returns its exit code."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                await self.kill()
                raise ServerError(f"the server has not gone {STOP_SECONDS:.0f} s after SIGTERM") from None
        return self._process.returncode or 0

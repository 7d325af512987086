"""A server in a process of its own: to be killed, to be signalled, to be weighed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[3]
ENDS_WITHIN = 30.0
"""Seconds after which a process that was told to end is a hang."""


class ServerProcess:
    """`turnkeeper serve` on free ports. Killed at the end of the context, if it has not ended by then."""

    def __init__(
        self, data_dir: Path, *flags: str, log: Path | None = None, module: str = "turnkeeper_service"
    ) -> None:
        self.grpc_address = ""
        self.http_address = ""
        command = [sys.executable, "-m", module, "serve", "--data-dir", str(data_dir)]
        command += ["--port", "0", "--http-address", "127.0.0.1:0", "--log-format", "json", *flags]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TURNKEEPER_")}
        path = log or data_dir.with_name(data_dir.name + ".log")
        with path.open("ab") as stderr:
            self._process = subprocess.Popen(
                command, cwd=path.parent, env=environ, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        self._log = path

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """What it wrote to stderr so far."""
        return self._log.read_text()

    def serving(self) -> ServerProcess:
        """Wait until it serves."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("listening "), f"it does not serve: {line!r} {self.log}"
        fields = dict(field.split("=") for field in line.split()[1:])
        self.grpc_address, self.http_address = fields["grpc"], fields["http"]
        return self

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def ended(self) -> int:
        """Wait until it has ended by itself; its exit code, below zero for a signal."""
        code = self._process.wait(timeout=ENDS_WITHIN)
        self._close()
        return code

    def kill(self) -> None:
        """End it as a power cut does. Idempotent."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        if self._process.stdout is not None:
            self._process.stdout.close()

    def rss_bytes(self) -> int:
        """The memory that it holds."""
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

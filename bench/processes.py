"""Processes under measurement: each on its own core, watched from outside by what the kernel counts."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from examples.upstream.dialects import CHAT, DIALECTS

from .usage import Usage, Watch

SERVER_CORE = 0
LOAD_CORE = 1
START_LIMIT = 60.0
"""Seconds until a process that does not start is a failure."""
ANSWER_LIMIT = 120.0
"""Seconds until one that does not answer is."""

ROOT = Path(__file__).resolve().parent.parent
_CORES = frozenset(os.sched_getaffinity(0))


def pin(core: int) -> None:
    """Keep this process on one core; where there is no such core this does nothing."""
    if core in _CORES:
        os.sched_setaffinity(0, {core})


def on_core(core: int) -> list[str]:
    """What a command begins with that is to run on one core."""
    return ["taskset", "-c", str(core)] if core in _CORES else []


class Process:
    """A child process that prints one line when it is ready."""

    def __init__(
        self, arguments: Sequence[str], core: int, ready: str, cwd: Path | None = None, checkout: Path = ROOT
    ) -> None:
        # The sources of the checkout that was asked for, whichever one the environment was made in.
        sources = (checkout, checkout / "service/src", checkout / "clients/python/src")
        python = sys.executable if checkout == ROOT else str(checkout / ".venv/bin/python")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sources))}
        for name in [name for name in environment if name.startswith("TURNKEEPER_")]:
            del environment[name]
        # An installed server does not compile its modules at every start.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.started_at = time.perf_counter()
        self._process = subprocess.Popen(
            [*on_core(core), python, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if not os.environ.get("BENCH_STDERR") else None,
            cwd=cwd or checkout,
            env=environment,
        )
        self.pid = self._process.pid
        self.watch = Watch(self.pid)
        self.line = self._wait(ready, START_LIMIT)
        self.start_seconds = time.perf_counter() - self.started_at

    def ask(self, line: str, answer: str) -> str:
        """Write a line to it, and wait for the line that begins with its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()
        return self._wait(answer, ANSWER_LIMIT)

    def _wait(self, ready: str, limit: float) -> str:
        assert self._process.stdout is not None
        deadline = time.perf_counter() + limit
        text = b""
        while time.perf_counter() < deadline:
            if not select.select([self._process.stdout], [], [], 1.0)[0]:
                continue
            piece = os.read(self._process.stdout.fileno(), 65536)
            if not piece:
                break
            text += piece
            for line in text.decode(errors="replace").splitlines():
                if line.startswith(ready):
                    return line
        self.stop()
        raise RuntimeError(f"{self._process.args!r} did not say {ready!r}; BENCH_STDERR=1 shows why")

    def used(self) -> Usage:
        """What all its threads have used so far, those that have ended too."""
        return self.watch.total()

    def rss_kib(self) -> int:
        """Resident memory now, with what the allocator keeps."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise RuntimeError("no VmRSS")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it the hard way."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """End it, politely first; its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return self._process.wait()


def service(
    data_dir: Path,
    *,
    upstream: str = "",
    arguments: Sequence[str] = (),
    profile: Path | None = None,
    checkout: Path = ROOT,
) -> Process:
    """The server on a free port, a provider per wire format at ``upstream``; the address is in `address_of`."""
    data_dir.mkdir(parents=True, exist_ok=True)
    config = data_dir / "bench.toml"
    text = '[limits]\nmax_running_turns_per_tenant = 256\n[defaults]\nmodel = "scripted/echo"\n'
    # What is measured is a turn; its baselines make no title beside it.
    text += "generate_titles = false\n"
    if upstream:
        for name, wire_format in {"up": CHAT, **dict(zip(DIALECTS, DIALECTS, strict=True))}.items():
            text += f'[providers.{name}]\nformat = "{wire_format}"\nbase_url = "{upstream}/v1"\n'
    config.write_text(text)
    command = ["serve", "--config", str(config), "--data-dir", str(data_dir), "--port", "0"]
    command += ["--http-address", "127.0.0.1:0", "--log-level", "error", "--drain-timeout", "0", *arguments]
    module = ["-m", "turnkeeper_service"] if profile is None else ["-m", "bench.profiled", str(profile)]
    return Process([*module, *command], SERVER_CORE, "listening ", data_dir, checkout)


def baseline(name: str, *arguments: str) -> Process:
    """A baseline of `bench.baselines`, where the server would be."""
    return Process(["-m", f"bench.baselines.{name}", *arguments], SERVER_CORE, "listening ")


def upstream() -> Process:
    """The loopback model, beside the load."""
    return Process(["-m", "bench.upstream"], LOAD_CORE, "listening ")


def address_of(process: Process) -> str:
    """Where a process listens: HOST:PORT."""
    return process.line.split("grpc=")[1].split()[0]

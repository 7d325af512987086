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

SERVER_CORE = 0
LOAD_CORE = 1
START_LIMIT = 60.0
"""Seconds until a process that does not start is a failure."""

_TICKS = os.sysconf("SC_CLK_TCK")


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

    def __init__(self, arguments: Sequence[str], core: int, ready: str, cwd: Path | None = None) -> None:
        root = Path(__file__).resolve().parent.parent
        # This checkout, whichever one the environment was made in.
        sources = (root, root / "service/src", root / "clients/python/src")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sources))}
        for name in [name for name in environment if name.startswith("TURNKEEPER_")]:
            del environment[name]
        # An installed server does not compile its modules at every start.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.started_at = time.perf_counter()
        self._process = subprocess.Popen(
            [*on_core(core), sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if not os.environ.get("BENCH_STDERR") else None,
            cwd=cwd or root,
            env=environment,
        )
        self.pid = self._process.pid
        self.line = self._wait(ready)
        self.start_seconds = time.perf_counter() - self.started_at

    def _wait(self, ready: str) -> str:
        assert self._process.stdout is not None
        deadline = self.started_at + START_LIMIT
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

    def cpu_seconds(self) -> float:
        """User and system time so far, of all its threads; in ticks of 10 ms on most kernels."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

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
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self._process.wait()


def service(
    data_dir: Path, *, upstream: str = "", arguments: Sequence[str] = (), profile: Path | None = None
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
    return Process([*module, *command], SERVER_CORE, "listening ", cwd=data_dir)


def baseline(name: str, *arguments: str) -> Process:
    """A baseline of `bench.baselines`, where the server would be."""
    return Process(["-m", f"bench.baselines.{name}", *arguments], SERVER_CORE, "listening ")


def upstream() -> Process:
    """The loopback model, beside the load."""
    return Process(["-m", "bench.upstream"], LOAD_CORE, "listening ")


def address_of(process: Process) -> str:
    """Where a process listens: HOST:PORT."""
    return process.line.split("grpc=")[1].split()[0]

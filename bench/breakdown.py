"""Where the CPU of a turn goes: the server's main thread under cProfile, its own time by module.

A profiled call costs about twice a plain one, so the shares are of the profile, not of a plain run: they tell where to
look. What the writer's thread and gRPC's poller use is not in it; `by_thread` tells that, of a plain run.
"""

from __future__ import annotations

import pstats
import signal
import tempfile
from collections import defaultdict
from pathlib import Path

from . import load
from .pairs import MODEL
from .processes import Process, service, upstream
from .report import Report
from .slices import by_workers
from .usage import Usage

_PACKAGES = ("turnkeeper_service", "turnkeeper_core", "turnkeeper", "grpc", "aiohttp", "httpx_aiohttp", "httpx")
MAIN = "the main thread, with the loop"
OTHERS = "the store's writer and readers, gRPC's poller"
CORE = "threads of gRPC's core"

SESSIONS = 600

Function = tuple[str, int, str]
"""As cProfile names one: file, line, name."""


async def breakdown(report: Report, seconds: float) -> None:
    """Print the threads of a plain run, then the modules of a profiled one."""
    report.section("Where the CPU of a turn goes, 32 at a time")
    with upstream() as model, tempfile.TemporaryDirectory() as directory:
        url = model.line.split()[1]
        with service(Path(directory) / "plain", upstream=url) as server:
            async with load.connect(server) as client:
                one = load.turn(client, await client.sessions("s", SESSIONS), MODEL)
                await by_workers(server, one, 32, 0.3)
                before = by_thread(server)
                measure = await by_workers(server, one, 32, seconds)
                after = by_thread(server)
        for name, total in after.items():
            used = total - before[name]
            text = f"{used.cpu_seconds / measure.count * 1e6:6.0f} µs, {used.switches / measure.count:5.1f} switches"
            writes = f", {used.disk_writes / measure.count:.1f} writes to the disk" if used.disk_writes else ""
            report.note(f"{text} per turn{writes}  {name}")
        file = Path(directory) / "profile"
        with service(Path(directory) / "profiled", upstream=url, profile=file) as server:
            async with load.connect(server) as client:
                one = load.turn(client, await client.sessions("s", SESSIONS), MODEL)
                await by_workers(server, one, 32, 0.3)
                server.signal(signal.SIGUSR1)
                measure = await by_workers(server, one, 32, seconds)
        shares = by_module(file)
    total_seconds = sum(shares.values())
    report.note(f"main thread by module, own time, under the profiler ({measure.count} turns):")
    for name, own in sorted(shares.items(), key=lambda item: -item[1])[:28]:
        report.note(f"{own / total_seconds * 100:6.1f} %  {name}")


def by_thread(process: Process) -> dict[str, Usage]:
    """What the main thread used, Python's others, and those of gRPC's core."""
    found = {MAIN: Usage(), OTHERS: Usage(), CORE: Usage()}
    for index, (task, used) in enumerate(sorted(process.watch.threads().items())):
        command = Path(f"/proc/{process.pid}/task/{task}/comm").read_text().strip()
        is_core = command in ("event_engine", "default-executo", "resolver-execut")
        name = CORE if is_core else OTHERS if index else MAIN
        found[name] += used
    return found


def by_module(file: Path) -> dict[str, float]:
    """Own seconds by module. What is written in C counts for the module that called it."""
    found: defaultdict[str, float] = defaultdict(float)
    stats: dict[Function, tuple[int, int, float, float, dict[Function, tuple[int, int, float, float]]]]
    stats = pstats.Stats(str(file)).stats  # type: ignore[attr-defined]
    for function, (_, _, own, _, callers) in stats.items():
        if function[0] != "~":
            found[_module(function[0])] += own
            continue
        known = 0.0
        for caller, (_, _, seconds, _) in callers.items():
            found[_module(caller[0])] += seconds
            known += seconds
        found["called by the loop"] += own - known
    return found


def _module(path: str) -> str:
    parts = Path(path).parts
    for package in _PACKAGES:
        if package in parts:
            inside = parts[parts.index(package) :]
            return "/".join(inside[:3]) if package == "turnkeeper_service" else package
    return "called by the loop" if path == "~" else Path(path).name

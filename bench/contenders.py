"""Those that are compared: the service, its baselines, and the service of another checkout, all alive at once."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from . import load
from .load import Client
from .processes import Process, service, upstream
from .report import Report
from .slices import Effort, Rounds

SERVICE, BEFORE = "service", "before"

Starts = Mapping[str, Callable[[], Process]]
Alive = dict[str, tuple[Process, Client]]


def services(directory: Path, effort: Effort, url: str = "") -> dict[str, Callable[[], Process]]:
    """The service, and that of the other checkout, if one was named, each on a data directory of its own."""
    found: dict[str, Callable[[], Process]] = {SERVICE: partial(service, directory / SERVICE, upstream=url)}
    if effort.before is not None:
        found[BEFORE] = partial(service, directory / BEFORE, upstream=url, checkout=effort.before)
    return found


@asynccontextmanager
async def alive(starts: Starts) -> AsyncIterator[Alive]:
    """All processes, each with a client."""
    async with AsyncExitStack() as stack:
        found: Alive = {}
        for name, start in starts.items():
            process = stack.enter_context(start())
            found[name] = process, await stack.enter_async_context(load.connect(process))
        yield found


@asynccontextmanager
async def workplace() -> AsyncIterator[tuple[Path, str]]:
    """A directory, and the address of a model."""
    with upstream() as model, tempfile.TemporaryDirectory() as directory:
        yield Path(directory), model.line.split()[1]


async def sessions(servers: Alive, count: int) -> Sequence[str]:
    """The same sessions at each service; the baselines know none."""
    for name in (SERVICE, BEFORE):
        if name in servers:
            await servers[name][1].sessions("s", count)
    return [f"s-{number}" for number in range(count)]


def against(report: Report, name: str, rounds: Rounds, goals: Mapping[str, float | None]) -> None:
    """The service beside each baseline, and beside what it was before."""
    for other, goal in goals.items():
        report.pair(name, rounds, SERVICE, other, goal)
    if BEFORE in rounds:
        report.pair(name, rounds, SERVICE, BEFORE)

"""What a turn and an accept cost where there is a hundred times as much around them: history, line, sessions."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from . import load
from .load import Client
from .processes import Process, service
from .report import Report
from .slices import Effort, Slice, Unit, by_workers, compared

LITTLE, MUCH = "little", "100 times as much"
MODEL = "scripted/echo"
DIRECTIVE = f'{{"tokens": {load.TOKENS}, "usage": {{"input_tokens": 1, "output_tokens": {load.TOKENS}}}}}'
"""With the usage given, as by a vendor: the scripted model would count the words of all that it was sent."""
ANSWER = "".join(f"w{number} " for number in range(load.TOKENS))
TURNS, RUNS, SESSIONS = 200, 2_000, 5_000
"""Turns in a history, runs in a line, sessions in a process; beside two, some twenty, and fifty."""
WORKERS = 8
GOAL = 1.2
UNBOUNDED = ("--set", "limits.max_queued_runs_per_session=1000000", "--set", "limits.max_open_runs=1000000")


async def scale(report: Report, effort: Effort) -> None:
    """Compare CPU; a provider's request is left out, since what is sent grows with the history."""
    report.section("CPU beside the same with 100 times the history, the line, the sessions, scripted provider")
    await _histories(report, effort)
    await _lines(report, effort)
    await _sessions(report, effort)


async def _histories(report: Report, effort: Effort) -> None:
    with tempfile.TemporaryDirectory() as directory, service(Path(directory)) as server:
        async with load.connect(server) as client:
            long = await client.sessions("long", WORKERS)
            await asyncio.gather(*(_times(TURNS, _turn(client, [name])) for name in long))
            # So many that none of them grows long.
            short = await client.sessions("short", int((effort.rounds + 1) * max(200, 600 * effort.seconds)) // 3)
            slices = {
                LITTLE: _slice(server, _turn(client, short), effort),
                MUCH: _slice(server, _turn(client, long), effort),
            }
            await _compare(report, effort, "a turn, by its history", slices)


async def _lines(report: Report, effort: Effort) -> None:
    with tempfile.TemporaryDirectory() as directory, service(Path(directory), arguments=UNBOUNDED) as server:
        async with load.connect(server) as client:
            long = await client.sessions("long", 4)
            short = await client.sessions("short", 64)
            await load.hold_floors(client, [*long, *short])
            filling = [load.submit(client, [name]) for name in long for _ in range(WORKERS)]
            await asyncio.gather(*(_times(RUNS // WORKERS, one) for one in filling))
            slices = {
                LITTLE: _slice(server, load.submit(client, short), effort),
                MUCH: _slice(server, load.submit(client, long), effort),
            }
            await _compare(report, effort, "an accept, by its line", slices)


async def _sessions(report: Report, effort: Effort) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with service(directory / "few") as few, service(directory / "many") as many:
            async with load.connect(few) as first, load.connect(many) as second:
                names = await first.sessions("s", SESSIONS // 100)
                await second.sessions("s", SESSIONS)
                slices = {
                    LITTLE: _slice(few, _turn(first, names), effort),
                    MUCH: _slice(many, _turn(second, names), effort),
                }
                await _compare(report, effort, "a turn, by the sessions of its process", slices)


def _turn(client: Client, names: Sequence[str]) -> Unit:
    return load.turn(client, names, MODEL, DIRECTIVE, ANSWER)


def _slice(server: Process, one: Unit, effort: Effort) -> Slice:
    return partial(by_workers, server, one, WORKERS, effort.seconds)


async def _times(count: int, one: Unit) -> None:
    for _ in range(count):
        await one()


async def _compare(report: Report, effort: Effort, name: str, slices: Mapping[str, Slice]) -> None:
    rounds = await compared(slices, effort)
    report.variants(name, rounds, "times")
    ratios = [much.cpu_us / little.cpu_us for much, little in zip(rounds[MUCH], rounds[LITTLE], strict=True)]
    report.figure(f"{name}: {MUCH} / {LITTLE}, CPU each", ratios, "", GOAL)

"""Figures of the service that have no counterpart: start, memory, cancel, resume, recovery."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from . import load, waits
from .processes import baseline, service, upstream
from .report import Report
from .slices import by_workers

IDLE_SESSIONS = 6000
WARM_SESSIONS = 8000
"""More than the service keeps for their next call, and enough to fill the page caches of SQLite."""
OPEN_RUNS = 10_000
EVENTS = 10_000
STREAMS = 64
PACE_MS = 20


async def process(report: Report, runs: int) -> None:
    """Start, resident memory at rest, and what idle sessions add to it."""
    report.section("The process")
    starts: list[float] = []
    rests: list[float] = []
    idles: list[float] = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as directory, service(Path(directory)) as server:
            starts.append(server.start_seconds)
            rests.append(server.rss_kib() / 1024)
            async with load.connect(server) as client:
                await client.sessions("warm", WARM_SESSIONS)
                before = server.rss_kib()
                await client.sessions("idle", IDLE_SESSIONS)
                idles.append((server.rss_kib() - before) * 1024 / IDLE_SESSIONS)
    report.figure("start to SERVING", starts, "s", 2.0)
    report.figure("resident memory at rest", rests, "MiB", 120.0)
    report.figure("memory per idle session", idles, "bytes", 64.0)


async def cancels(report: Report, runs: int) -> None:
    """From a cancel to the terminal, on a quiet server and beside 64 paced streams."""
    report.section("Cancel to terminal, scripted provider in the middle of an answer")
    p50: dict[int, list[float]] = {0: [], 64: []}
    p99: dict[int, list[float]] = {0: [], 64: []}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as directory, service(Path(directory)) as server:
            async with load.connect(server) as client:
                names = await client.sessions("s", 64)
                for streams in p50:
                    # Fifty tokens per second on each, for longer than the cancels take.
                    beside = asyncio.ensure_future(load.conversations(client, names[:streams], 150, pace_ms=20))
                    found = await waits.cancels(server, 1, 200)
                    await beside
                    p50[streams].append(load.percentile(found, 0.5) * 1e3)
                    p99[streams].append(load.percentile(found, 0.99) * 1e3)
    for streams in p50:
        report.figure(f"cancel to terminal beside {streams} paced streams, p50", p50[streams], "ms", None)
        report.figure(f"cancel to terminal beside {streams} paced streams, p99", p99[streams], "ms", 50.0)


async def streams(report: Report, runs: int) -> None:
    """What paced streams add to a server that is warm."""
    report.section(f"Memory of {STREAMS} paced streams")
    memory: list[float] = []
    for _ in range(runs):
        with (
            upstream() as model,
            tempfile.TemporaryDirectory() as directory,
            service(Path(directory), upstream=model.line.split()[1]) as server,
        ):
            async with load.connect(server) as client:
                names = await client.sessions("s", 4 * STREAMS)
                # What a server reads once, the list of prices above all, is no stream's.
                await by_workers(server, load.turn(client, names, f"up/tokens-{load.TOKENS}"), 8, 0.5)
                before = server.rss_kib()
                length = load.TOKENS * PACE_MS / 1000
                one = load.turn(client, names, f"up/paced-{load.TOKENS}-{PACE_MS}")
                await by_workers(server, one, STREAMS, length, length)
                memory.append((server.rss_kib() - before) / STREAMS)
    report.figure("memory per paced stream", memory, "KiB", 100.0)


async def resume(report: Report, runs: int) -> None:
    """A log read again from its start, beside a server that only writes as many events."""
    report.section(f"Resume of {EVENTS:,} events on one stream, beside a bare server that writes as many")
    ours: list[float] = []
    cpu: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as directory, service(Path(directory)) as server:
        await waits.fill_log(server, "r", EVENTS)
        with baseline("bare") as writer:
            for _ in range(runs):
                used = server.used()
                count, seconds = await waits.resumed(server, "r-0")
                cpu.append((server.used() - used).cpu_seconds / count * 1e6)
                ours.append(seconds / count * EVENTS * 1e3)
                count, seconds = await waits.resumed(writer, str(EVENTS))
                bare.append(seconds / count * EVENTS * 1e3)
    report.figure(f"{EVENTS:,} events resumed", ours, "ms", 100.0)
    report.figure(f"{EVENTS:,} events written by a bare server", bare, "ms", None)
    report.figure("CPU per resumed event", cpu, "µs", None)


async def recovery(report: Report, runs: int) -> None:
    """A killed process with many open runs starts again."""
    report.section(f"Recovery of {OPEN_RUNS:,} open runs after a kill")
    starts: list[float] = []
    for _ in range(min(runs, 3)):
        with tempfile.TemporaryDirectory() as directory:
            first = service(Path(directory))
            try:
                await waits.fill_line(first, OPEN_RUNS)
            finally:
                first.kill()
            with service(Path(directory)) as second:
                starts.append(second.start_seconds)
                # Let it settle, so that its end is an orderly one.
                await asyncio.sleep(0.2)
    report.figure(f"start to SERVING with {OPEN_RUNS:,} open runs", starts, "s", 4.0)

"""Streams of ``Converse`` beside a server that only writes, in paced slices and as fast as they go."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from . import load
from .contenders import SERVICE, alive, services, sessions
from .figures import PACE_MS, STREAMS
from .load import Client
from .processes import Process, baseline
from .report import Report
from .slices import Effort, Measure, Slice, compared

WRITER = "bare writer"
LEAST_SECONDS = 0.2
"""Of a slice: ten messages on each stream."""
LEAD = 15
"""Messages of each stream before what is paced is measured: receipts and events are among the first."""


async def paced(process: Process, client: Client, names: Sequence[str], seconds: float) -> Measure:
    """Messages of streams while all of them are in their middle; they end by themselves."""
    seconds = max(seconds, LEAST_SECONDS)
    received = dict.fromkeys(names, 0)
    is_under_way = asyncio.Event()

    def count(name: str) -> None:
        received[name] += 1
        if received[name] == LEAD and all(number >= LEAD for number in received.values()):
            is_under_way.set()

    tokens = 2 * LEAD + int(seconds / PACE_MS * 1000)
    streams = [load.conversation(client, name, tokens, PACE_MS, partial(count, name)) for name in names]
    together = asyncio.gather(*streams)
    # A stream that fails ends the wait too.
    together.add_done_callback(lambda _: is_under_way.set())
    await is_under_way.wait()
    before, begun, start = process.used(), sum(received.values()), time.perf_counter()
    await asyncio.sleep(seconds)
    used, came, elapsed = process.used() - before, sum(received.values()) - begun, time.perf_counter() - start
    await together
    return Measure(came, came / elapsed, used)


async def fast(process: Process, client: Client, names: Sequence[str], seconds: float) -> Measure:
    """Streams as fast as they go, for some such time; what is counted are tokens, of which a message may hold many."""
    tokens = max(20, int(400 * seconds))
    before, start = process.used(), time.perf_counter()
    await load.conversations(client, names, tokens, pace_ms=0.0001)
    count = tokens * len(names)
    return Measure(count, count / (time.perf_counter() - start), process.used() - before)


async def conversations(report: Report, effort: Effort) -> None:
    """Streams of deltas beside a server that only writes."""
    report.section(f"Converse, {STREAMS} streams, scripted provider, beside a bare writer")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with alive({WRITER: partial(baseline, "bare"), **services(directory, effort)}) as servers:
            names = await sessions(servers, STREAMS)
            for title, kind, goal in (("50 tokens/s per stream", paced, 0.6), ("as fast as it goes", fast, None)):
                slices: dict[str, Slice] = {
                    one: partial(kind, process, client, names, effort.seconds)
                    for one, (process, client) in servers.items()
                }
                rounds = await compared(slices, effort)
                report.variants(title, rounds, "messages" if kind is paced else "tokens")
                for other in rounds.keys() - {SERVICE}:
                    report.pair(title, rounds, SERVICE, other, goal if other == WRITER else None, rates=kind is fast)

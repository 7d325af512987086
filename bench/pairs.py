"""The service beside its baselines. In each run a pair is measured back to back, so that a slow minute meets both."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import load
from .load import Measure
from .processes import baseline, service, upstream
from .report import Report
from .waits import first_tokens_direct

MODEL = f"up/tokens-{load.TOKENS}"
SESSIONS = 600


async def turns(report: Report, runs: int, seconds: float) -> None:
    """Whole turns beside the relay, at 1, 32 and 64 at a time."""
    report.section(f"Turns of {load.TOKENS} tokens from a loopback SSE upstream, through Run, beside a bare relay")
    for workers, goal in ((1, None), (32, 0.6), (64, None)):
        ours: list[Measure] = []
        bare: list[Measure] = []
        with upstream() as model, tempfile.TemporaryDirectory() as directory:
            url = model.line.split()[1]
            for number in range(runs):
                with baseline("relay", url) as relay:
                    names = [f"s-{n}" for n in range(SESSIONS)]
                    bare.append(await load.turns(relay, workers, seconds, names, MODEL))
                data = Path(directory) / str(number)
                with service(data, upstream=url) as server:
                    async with load.connect(server) as client:
                        names = await client.sessions("s", SESSIONS)
                    ours.append(await load.turns(server, workers, seconds, names, MODEL))
        report.pair(f"{workers} at a time", ours, bare, "turns", goal)
        if workers == 32:
            report.figure("CPU per turn at 32", [one.cpu_us / 1000 for one in ours], "ms", 1.7)
        tokens = [one.cpu_us / load.TOKENS for one in ours]
        report.figure(f"{workers} at a time: CPU per token", tokens, "µs", None)


async def submits(report: Report, runs: int, seconds: float) -> None:
    """Durable accepts beside a bare unary of the same size."""
    report.section("SubmitRun, durable, 64 at a time, into lines whose floor is taken, beside a bare unary")
    ours: list[Measure] = []
    bare: list[Measure] = []
    names = [f"s-{number}" for number in range(64)]
    with tempfile.TemporaryDirectory() as directory:
        for number in range(runs):
            with baseline("bare") as server:
                bare.append(await load.submits(server, 64, seconds, names))
            data = Path(directory) / str(number)
            with service(data) as server:
                async with load.connect(server) as client:
                    await client.sessions("s", len(names))
                    await load.hold_floors(client, names)
                ours.append(await load.submits(server, 64, seconds, names))
    report.pair("SubmitRun", ours, bare, "calls", 0.5)
    report.figure("SubmitRun acknowledged, p50", [load.percentile(one.waits, 0.5) * 1e3 for one in ours], "ms", None)
    report.figure("SubmitRun acknowledged, p99", [load.percentile(one.waits, 0.99) * 1e3 for one in ours], "ms", None)


async def conversations(report: Report, runs: int, seconds: float) -> None:
    """Streams of deltas beside an echo and beside a server that only writes."""
    report.section("Converse, 64 streams, scripted provider, beside a bare echo (one in, one out) and a bare writer")
    count = max(100, int(400 * seconds))
    tokens: list[Measure] = []
    messages: list[Measure] = []
    echoes: list[Measure] = []
    writes: list[Measure] = []
    paced: tuple[list[Measure], list[Measure]] = ([], [])
    names = [f"s-{number}" for number in range(64)]
    with tempfile.TemporaryDirectory() as directory:
        for number in range(runs):
            with baseline("bare") as server:
                echoes.append(await load.echoes(server, 64, seconds))
                writes.append((await load.conversations(server, 64, count, names))[0])
                paced[1].append((await load.conversations(server, 64, int(50 * seconds), names, pace_ms=20))[0])
            with service(Path(directory) / str(number)) as server:
                async with load.connect(server) as client:
                    await client.sessions("s", len(names))
                sent, made = await load.conversations(server, 64, count, names)
                messages.append(sent)
                tokens.append(made)
                paced[0].append((await load.conversations(server, 64, int(50 * seconds), names, pace_ms=20))[0])
    # As fast as they go, the service makes one message of the tokens that come while a write is under way: neither its
    # tokens nor its messages are the echo's. Paced, both write the same messages, and only CPU can differ.
    report.pair("tokens of Converse, messages of the echo", tokens, echoes, "messages", None)
    report.pair("tokens of Converse, messages of the writer", tokens, writes, "messages", None)
    report.pair("gRPC messages of Converse and of the echo", messages, echoes, "messages", None)
    report.figure(
        "tokens per gRPC message", [a.count / b.count for a, b in zip(tokens, messages, strict=True)], "", None
    )
    report.pair("50 tokens/s per stream, beside the writer", *paced, "messages", None, cpu_goal=0.8)


async def first_tokens(report: Report, runs: int, seconds: float) -> None:
    """Time to the first token, through the service and straight from the upstream."""
    report.section("Time to first token, 64 paced streams (50 tokens/s each), beside httpx straight to the upstream")
    p50: list[float] = []
    p99: list[float] = []
    cpu: list[float] = []
    memory: list[float] = []
    with upstream() as model, tempfile.TemporaryDirectory() as directory:
        url = model.line.split()[1]
        paced = f"paced-{load.TOKENS}-20"
        for number in range(runs):
            direct = await first_tokens_direct(url, paced, 64, seconds)
            data = Path(directory) / str(number)
            with service(data, upstream=url) as server:
                async with load.connect(server) as client:
                    names = await client.sessions("s", SESSIONS)
                # What a server reads once, the list of prices above all, is no stream's and delays only the first.
                await load.turns(server, 8, 0.5, names, MODEL)
                before = server.rss_kib()
                measure = await load.turns(server, 64, seconds, names, f"up/{paced}", spread=1.3)
                grown = server.rss_kib() - before
            p50.append((load.percentile(measure.waits, 0.5) - load.percentile(direct, 0.5)) * 1e3)
            p99.append((load.percentile(measure.waits, 0.99) - load.percentile(direct, 0.99)) * 1e3)
            report.note(f"run {number + 1}: direct {_both(direct)}; service {_both(measure.waits)}; ")
            per_token = measure.cpu_us / load.TOKENS
            report.note(f"  {per_token:.0f} µs of CPU per token, {grown / 64:.0f} KiB of memory per stream")
            cpu.append(per_token)
            memory.append(grown / 64)
    report.figure("added time to first token, p50", p50, "ms", 2.0)
    report.figure("added time to first token, p99", p99, "ms", 10.0)
    report.figure("CPU per paced token", cpu, "µs", None)
    report.figure("memory per paced stream", memory, "KiB", 100.0)


def _both(waits: Sequence[float]) -> str:
    return f"p50 {load.percentile(waits, 0.5) * 1e3:.2f} ms, p99 {load.percentile(waits, 0.99) * 1e3:.2f} ms"

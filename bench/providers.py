"""The adapters of the wire formats: the cost of a token beside a bare reader, and how soon a cancel closes a socket."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from examples.upstream.dialects import DIALECTS
from turnkeeper.v1 import run_service_pb2 as pb

from . import load
from .contenders import BEFORE
from .processes import ROOT, SERVER_CORE, Process, service, upstream
from .report import Report
from .slices import Effort, Measure, Slice, compared
from .upstream import Connection

STREAMS = 64
PACED_TOKENS = 64


async def costs(report: Report, effort: Effort) -> None:
    """CPU per token of 64 streams: at 50 tokens a second each, as they come in production, and as fast as it goes."""
    report.section(f"The adapters at {STREAMS} streams, beside aiohttp with a split and a typed decode, CPU per token")
    with upstream() as model, ExitStack() as stack:
        url = model.line.split()[1]
        for wire_format in DIALECTS:
            kinds = {"adapter": ROOT, "bare": ROOT, **({BEFORE: effort.before} if effort.before else {})}
            readers = {
                kind: stack.enter_context(_reader(kind, wire_format, url, checkout)) for kind, checkout in kinds.items()
            }
            for name, asked, rounds in (
                ("paced", f"paced-{PACED_TOKENS}-20 {STREAMS} 1 0.5", max(1, effort.rounds // 4)),
                ("burst", f"block-600 {STREAMS} 4 0", effort.rounds),
            ):
                slices: dict[str, Slice] = {kind: partial(_read, process, asked) for kind, process in readers.items()}
                title = f"{wire_format}, {name}"
                found = await compared(slices, effort, rounds)
                report.variants(title, found, "tokens")
                for other, goal in (("bare", 1.5), (BEFORE, None)):
                    pairs = zip(found["adapter"], found.get(other, ()), strict=False)
                    if ratios := [one.cpu_us / two.cpu_us for one, two in pairs]:
                        report.figure(f"{title}: adapter / {other}, CPU per token", ratios, "", goal)


def _reader(kind: str, wire_format: str, url: str, checkout: Path) -> Process:
    reader = "bare" if kind == "bare" else "adapter"
    arguments = ["-m", "bench.provider_reader", reader, wire_format, url]
    return Process(arguments, SERVER_CORE, "ready", checkout=checkout)


async def _read(process: Process, asked: str) -> Measure:
    before, start = process.used(), time.perf_counter()
    count = int(process.ask(asked, "read ").split()[1])
    return Measure(count, count / (time.perf_counter() - start), process.used() - before)


class Watched(Connection):
    """A connection of the vendor's that says when it is closed."""

    def __init__(self, closed: asyncio.Queue[float]) -> None:
        super().__init__()
        self._closed = closed

    def connection_lost(self, error: Exception | None) -> None:
        """Note the time."""
        super().connection_lost(error)
        self._closed.put_nowait(time.perf_counter())


async def sockets(report: Report, runs: int) -> None:
    """From the call that cancels a run in the middle of its answer to the vendor's end of the socket."""
    report.section("Cancel of a run to the end of its vendor's socket, one at a time, on a quiet server")
    closed: asyncio.Queue[float] = asyncio.Queue()
    vendor = await asyncio.get_running_loop().create_server(lambda: Watched(closed), "127.0.0.1", 0)
    host, port = vendor.sockets[0].getsockname()[:2]
    with (
        tempfile.TemporaryDirectory() as directory,
        service(Path(directory), upstream=f"http://{host}:{port}") as server,
    ):
        async with load.connect(server) as client:
            for wire_format in DIALECTS:
                (session,) = await client.sessions(wire_format, 1)
                measured = [await _cancels(client, closed, session, f"{wire_format}/hang-3") for _ in range(runs)]
                for share in (0.5, 0.99):
                    values = [load.percentile(waits, share) * 1000 for waits in measured]
                    report.figure(f"{wire_format}: cancel to socket closed, p{share * 100:g}", values, "ms", None)
    vendor.close()
    await vendor.wait_closed()


async def _cancels(client: load.Client, closed: asyncio.Queue[float], session: str, model: str) -> list[float]:
    """Seconds, of a hundred cancels."""
    waits: list[float] = []
    while len(waits) < 100:
        call: Any = client.run(load.prompt(session, "Tell me everything, please.", model))
        run_id, begin = "", 0.0
        async for response in call:
            items = pb.RunResponse.FromString(response).items
            run_id = next((item.receipt.run.run_id for item in items if item.HasField("receipt")), run_id)
            if not begin and any(item.HasField("delta") for item in items):
                begin = time.perf_counter()
                request = pb.CancelRunsRequest(scope=pb.CancelScope(run_id=run_id))
                await client.cancel(request.SerializeToString())
        waits.append(await closed.get() - begin)
    return waits

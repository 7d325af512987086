"""What those who look cost the others: a heartbeat's lateness beside calls that look at a session with a long line."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio

from turnkeeper.v1 import run_service_pb2 as pb
from turnkeeper.v1 import session_service_pb2 as sessions_pb

from . import load
from .processes import LOAD_CORE, Process, address_of, service
from .report import Report
from .slices import Effort

IN_LINE = 10_000
PAGE = 500
INTERVAL = 0.015
"""Seconds between heartbeats: so often that a second holds enough of them for a percentile."""
SECONDS = 3.0
"""Of listening, with and without the others."""
PROMPT = "wait here"

Look = Callable[[], Awaitable[object]]


def looks(channel: grpc.aio.Channel, session: str, run_id: str) -> dict[str, Look]:
    """Each way to look at the session, as one call after another makes it."""

    def unary(service: str, method: str) -> Any:
        return channel.unary_unary(f"/turnkeeper.v1.{service}/{method}")

    list_runs, get_run = unary("RunService", "ListRuns"), unary("RunService", "GetRun")
    get_session, submit = unary("SessionService", "GetSession"), unary("RunService", "SubmitRun")
    page_token = ""

    async def pages() -> None:
        nonlocal page_token
        request = pb.ListRunsRequest(session_id=session, page_size=PAGE, page_token=page_token)
        page_token = pb.ListRunsResponse.FromString(await list_runs(request.SerializeToString())).next_page_token

    async def converse() -> None:
        call: Any = channel.stream_stream("/turnkeeper.v1.RunService/Converse")()
        await call.write(pb.ConverseRequest(open=pb.OpenFrame(session_id=session)).SerializeToString())
        await call.read()
        call.cancel()

    return {
        "a page": pages,
        "a run": lambda: get_run(pb.GetRunRequest(run_id=run_id).SerializeToString()),
        "the session": lambda: get_session(sessions_pb.GetSessionRequest(session_id=session).SerializeToString()),
        "a replay": lambda: submit(load.prompt(session, PROMPT, run_id=run_id)),
        "a stream": converse,
    }


async def listened(listener: Process, seconds: float) -> list[float]:
    """Seconds between heartbeats."""
    answer = await asyncio.to_thread(listener.ask, f"listen {seconds}", "gaps ")
    gaps: list[float] = json.loads(answer.removeprefix("gaps "))
    return gaps


async def observers(report: Report, effort: Effort) -> None:
    """Listen alone and beside everybody who looks, in turns."""
    report.section(f"A heartbeat beside those who look at a line of {IN_LINE:,}")
    grown: list[float] = []
    alone: list[float] = []
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as directory, _server(Path(directory)) as server:
        async with load.connect(server) as client:
            await client.sessions("line", 1)
            await client.sessions("quiet", 1)
            await load.hold_floors(client, ["line-0"])
            await _fill(client)
            address = address_of(server)
            with Process(["-m", "bench.heartbeats", address, "quiet-0"], LOAD_CORE, "listening") as listener:
                async with grpc.aio.insecure_channel(address) as channel:
                    calls = looks(channel, "line-0", f"r{IN_LINE // 2}")
                    for _ in range(effort.runs):
                        quiet = load.percentile(await listened(listener, SECONDS), 0.99) * 1e3
                        is_over = asyncio.Event()
                        beside = [asyncio.ensure_future(_look(calls[name], name, counts, is_over)) for name in calls]
                        busy = load.percentile(await listened(listener, SECONDS), 0.99) * 1e3
                        is_over.set()
                        await asyncio.gather(*beside)
                        alone.append(quiet)
                        grown.append(busy - quiet)
    seconds = SECONDS * effort.runs
    report.note(", ".join(f"{name} {count / seconds:,.0f}/s" for name, count in counts.items()))
    report.figure("time between two heartbeats alone, p99", alone, "ms", None)
    report.figure("the same beside them: p99 grows by", grown, "ms", 5.0)


def _server(directory: Path) -> Process:
    interval = f"server.heartbeat_interval_seconds={INTERVAL}"
    return service(directory, arguments=["--set", interval])


async def _fill(client: load.Client) -> None:
    numbers = iter(range(IN_LINE))

    async def work() -> None:
        for number in numbers:
            await client.submit(load.prompt("line-0", PROMPT, run_id=f"r{number}"))

    await asyncio.gather(*(work() for _ in range(32)))


async def _look(look: Look, name: str, counts: dict[str, int], is_over: asyncio.Event) -> None:
    while not is_over.is_set():
        await look()
        counts[name] = counts.get(name, 0) + 1

"""Waits of a single client: the first token without the service, a cancel's terminal, a log read again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import grpc.aio
import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport

from turnkeeper.v1 import event_pb2
from turnkeeper.v1 import run_service_pb2 as pb

from . import load
from .processes import Process


async def first_tokens_direct(url: str, model: str, streams: int, seconds: float) -> list[float]:
    """Seconds to the first bytes of the body, httpx on the transport that the service uses."""
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar())
    transport = AiohttpTransport(client=session)
    body = msgspec.json.encode({"model": model, "stream": True, "messages": [{"role": "user", "content": "hello"}]})
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    waits: list[float] = []
    start = time.perf_counter()

    async def work(number: int, client: httpx.AsyncClient) -> None:
        await asyncio.sleep(1.3 * number / streams)
        while time.perf_counter() - start < seconds:
            begin = time.perf_counter()
            first = 0.0
            async with client.stream("POST", f"{url}/v1/chat/completions", content=body, headers=headers) as response:
                async for _ in response.aiter_raw():
                    first = first or time.perf_counter() - begin
            waits.append(first)

    async with httpx.AsyncClient(transport=transport, timeout=60) as client:
        await asyncio.gather(*(work(number, client) for number in range(streams)))
    return waits


async def cancels(process: Process, workers: int, count: int) -> list[float]:
    """Seconds from the call that cancels a run in the middle of its answer to the run's terminal on its stream."""
    waits: list[float] = []
    async with load.connect(process) as client:
        names = await client.sessions("c", workers)

        async def work(name: str) -> None:
            while len(waits) < count:
                call: Any = client.run(load.prompt(name, '{"tokens": 3, "hang": true}', "scripted/echo"))
                run_id = ""
                begin = 0.0
                last = b""
                async for last in call:
                    items = pb.RunResponse.FromString(last).items
                    run_id = next((item.receipt.run.run_id for item in items if item.HasField("receipt")), run_id)
                    if not begin and any(item.HasField("delta") for item in items):
                        begin = time.perf_counter()
                        request = pb.CancelRunsRequest(scope=pb.CancelScope(run_id=run_id))
                        await client.cancel(request.SerializeToString())
                waits.append(time.perf_counter() - begin)
                outcome = pb.RunResponse.FromString(last).items[-1].event.run_finished.outcome
                if outcome.status != event_pb2.OUTCOME_STATUS_CANCELLED:
                    raise RuntimeError(f"not cancelled: {outcome}")

        await asyncio.gather(*(work(name) for name in names))
    return waits


async def fill_log(process: Process, name: str, num_events: int) -> None:
    """Give a session so many events without a model: runs that wait in line, and one cancel of them all."""
    async with load.connect(process) as client:
        await client.sessions(name, 1)
        session = f"{name}-0"
        await load.hold_floors(client, [session])
        waiting = num_events // 6 + 1

        async def work(share: int) -> None:
            for _ in range(share):
                await client.submit(load.prompt(session, "x" * 40))

        await asyncio.gather(*(work(-(-waiting // 32)) for _ in range(32)))
        scope = pb.CancelScope(session_id=session)
        await client.cancel(pb.CancelRunsRequest(scope=scope, wait=True).SerializeToString())


async def resumed(process: Process, session: str) -> tuple[int, float]:
    """Events read again from the start, and the seconds that it took."""
    request = pb.WatchSessionRequest(session_id=session, after_seq=0, is_history_only=True)
    async with load.connect(process) as client:
        begin = time.perf_counter()
        count = 0
        call = client.watch(request.SerializeToString())
        while (response := await call.read()) is not grpc.aio.EOF:
            count += len(pb.WatchSessionResponse.FromString(response).items)
        return count, time.perf_counter() - begin


async def fill_line(process: Process, count: int) -> None:
    """Leave so many runs open, over a hundred sessions: one on each floor, the rest in line."""
    async with load.connect(process) as client:
        names = await client.sessions("o", 100)
        await load.hold_floors(client, names)
        share = (count - len(names)) // len(names)

        async def work(name: str) -> None:
            for _ in range(share):
                await client.submit(load.prompt(name, "wait here"))

        await asyncio.gather(*(work(name) for name in names))

"""Signs of life on quiet streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.service.harness import LIMIT, Harness, serving, submission
from tests.service.manual_clock import ManualClock
from tests.service.wire.talk import Talk
from turnkeeper.v1 import admin_service_pb2, run_service_pb2

LOOK = 5.0
"""A third of the interval: how often the server looks for quiet streams."""
INTERVAL = 15.0


async def look(server: Harness, clock: ManualClock) -> None:
    """Let the server look once, and let what it wrote before that leave."""
    await clock.armed(LOOK, clock.num_begun(LOOK))
    await server.admin.GetStats(admin_service_pb2.GetStatsRequest())
    times = clock.num_begun(LOOK) + 1
    clock.advance(LOOK)
    await clock.armed(LOOK, times)


async def read_until_beat(call: Any) -> tuple[list[Any], Any]:
    """What comes before the next heartbeat, and that."""
    before: list[Any] = []
    async with asyncio.timeout(LIMIT):
        while True:
            response = await call.read()
            item = response if isinstance(response, run_service_pb2.WatchTenantResponse) else response.item
            if item.HasField("heartbeat"):
                return before, item.heartbeat
            before.append(item)


async def watch_session(server: Harness) -> Any:
    call = server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="s"))
    await call.initial_metadata()
    return call


async def watch_tenant(server: Harness) -> Any:
    call = server.runs.WatchTenant(run_service_pb2.WatchTenantRequest())
    await call.initial_metadata()
    return call


async def converse(server: Harness) -> Any:
    return (await Talk.open(server, "s")).call


async def run(server: Harness) -> Any:
    call = server.runs.Run(run_service_pb2.RunRequest(submission=submission("s", '{"gate": "g"}', run_id="r")))
    async with asyncio.timeout(LIMIT):
        while not (await call.read()).item.event.HasField("step_started"):
            pass
    return call


@pytest.mark.parametrize("opened", [watch_session, watch_tenant, converse, run])
@pytest.mark.asyncio
async def test_a_quiet_stream_beats_within_every_interval(tmp_path: Path, opened: Callable[[Harness], Any]) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await server.session("s")
        await clock.armed(LOOK)
        call = await opened(server)
        newest = (await server.history("s"))[-1].seq
        last = clock.monotonic()
        for _ in range(4):
            while True:
                await look(server, clock)
                if clock.monotonic() - last > LOOK:
                    break
            before, beat = await read_until_beat(call)
            assert before == []
            assert clock.monotonic() - last <= INTERVAL
            if opened is not watch_tenant:
                assert beat.seq == newest
            last = clock.monotonic()
        call.cancel()


@pytest.mark.asyncio
async def test_a_stream_that_sends_does_not_beat_and_a_beat_has_the_newest_seq(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await server.session("s")
        await clock.armed(LOOK)
        call = await watch_session(server)
        for number in range(6):
            # Something is sent between every two looks, for twice the interval: no beat is due.
            await server.submit("s", run_id=f"r{number}")
            async with asyncio.timeout(LIMIT):
                while True:
                    item = (await call.read()).item
                    assert not item.HasField("heartbeat")
                    if item.event.HasField("run_finished"):
                        break
            await look(server, clock)
        await look(server, clock)
        before, beat = await read_until_beat(call)
        assert before == []
        assert beat.seq == (await server.history("s"))[-1].seq
        call.cancel()


@pytest.mark.asyncio
async def test_a_reader_that_filters_everything_out_is_told_how_far_the_log_is(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await server.session("s")
        await clock.armed(LOOK)
        wanted = run_service_pb2.WatchFilter(run_ids=["nobody"])
        call = server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="s", filter=wanted))
        await call.initial_metadata()
        await server.submit("s", run_id="r")
        await server.terminals("s", ["r"])
        await look(server, clock)
        await look(server, clock)
        before, beat = await read_until_beat(call)
        assert before == []
        assert beat.seq == (await server.history("s"))[-1].seq
        call.cancel()


@pytest.mark.asyncio
async def test_how_far_readers_are_behind_is_counted_at_every_look(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server, aiohttp.ClientSession() as http:
        await server.session("s")
        await clock.armed(LOOK)
        call = await watch_session(server)
        lines: list[str] = []
        for number in (1, 2):
            await look(server, clock)
            response = await http.get(f"http://{server.server.http_address}/metrics")
            lines = (await response.text()).splitlines()
            assert f"turnkeeper_subscriber_lag_events_count {number}.0" in lines
        # It has read everything, both times.
        assert 'turnkeeper_subscriber_lag_events_bucket{le="0.0"} 2.0' in lines
        call.cancel()

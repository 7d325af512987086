"""Sessions that nothing has happened in for long are deleted, if the configuration says so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.service.harness import LIMIT, Harness, load_settings, reason, serving
from tests.service.manual_clock import ManualClock
from turnkeeper.v1 import session_service_pb2
from turnkeeper_service.settings.layers import SettingsError

DAY = 86_400.0
HOUR = 3_600.0


async def sessions(server: Harness) -> list[str]:
    """The sessions that there are."""
    response = await server.sessions.ListSessions(session_service_pb2.ListSessionsRequest())
    return [session.session_id for session in response.sessions]


async def until(server: Harness, wanted: list[str]) -> None:
    """Wait until these sessions are left."""
    async with asyncio.timeout(LIMIT):
        while await sessions(server) != wanted:
            pass


@pytest.mark.asyncio
async def test_idle_sessions_are_deleted_and_no_others(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock, retention__idle_session_days="30") as server:
        for session_id in "idle", "used", "waits":
            await server.session(session_id)
            await server.submit(session_id, "hello", f"first-{session_id}")
            await server.terminals(session_id, [f"first-{session_id}"])
        server.places.hold("turn", "held")
        await server.submit("waits", "hello", "held")
        clock.advance(20 * DAY)
        await server.submit("used", "hello", "later")
        await server.terminals("used", ["later"])
        assert await sessions(server) == ["idle", "used", "waits"]
        clock.advance(10 * DAY + HOUR)
        await until(server, ["used", "waits"])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.submit("idle", "hello")
        assert reason(caught.value) == "SESSION_NOT_FOUND"
        # As after DeleteSession: how its runs ended is kept for a day, without what was said.
        kept = (await server.run_view("first-idle")).outcome
        assert (kept.num_steps, kept.text) == (1, "")
        server.places.release("turn", "held")
        assert (await server.terminals("waits", ["held"]))["held"].text == "hello"
        clock.advance(20 * DAY)
        await until(server, ["waits"])
    # Also those whose time came while no server ran.
    clock.advance(31 * DAY)
    async with serving(tmp_path, clock=clock, retention__idle_session_days="30") as server:
        await until(server, [])


@pytest.mark.asyncio
async def test_nothing_is_deleted_unless_it_is_said(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await server.session("s")
        await clock.armed(HOUR)
        clock.advance(4_000 * DAY)
        await clock.armed(HOUR, 2)
        assert await sessions(server) == ["s"]


@pytest.mark.parametrize("days", ["0", "-1", "soon"])
def test_a_time_that_is_none_is_refused(tmp_path: Path, days: str) -> None:
    with pytest.raises(SettingsError, match="idle_session_days"):
        load_settings(tmp_path, retention__idle_session_days=days)

"""What sessions that nobody uses hold in memory."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path

import pytest

from tests.service.harness import LIMIT, serving, submission
from tests.service.manual_clock import ManualClock
from turnkeeper.v1 import run_service_pb2
from turnkeeper_service.events.log import OpenMessage
from turnkeeper_service.runs.session.table import WARM_BYTES

pytestmark = pytest.mark.asyncio


def closed_messages() -> list[OpenMessage]:
    """Messages that are whole and that somebody still holds."""
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, OpenMessage) and one.closed]


async def test_what_idle_sessions_hold_is_bounded_in_bytes(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        answer = json.dumps({"text": ["x" * 60_000]})

        async def use(number: int) -> None:
            await server.session(f"s{number}", system_prompt="p" * 300_000)
            await server.submit(f"s{number}", answer, f"r{number}")
            await server.terminals(f"s{number}", [f"r{number}"])

        for number in range(60):
            await use(number)
        table = server.server.runs.table
        held = sum(session.num_bytes for session in table)
        assert 0 < held <= WARM_BYTES
        assert 10 < len(table) < 60
        # One that was let go is as it was.
        await server.submit("s0", "again", "again")
        assert (await server.terminals("s0", ["again"]))["again"].text == "again"


async def test_closed_messages_are_held_by_nobody_once_their_readers_have_them(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await server.session("s")
        watching = server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="s", after_seq=0))
        for number in range(12):
            # One that is longer than what a log keeps is read from the store by its readers.
            text = "x" * (2_000_000 if number % 4 == 0 else 300_000)
            await server.submit("s", json.dumps({"text": [text]}), f"r{number}")
            async with asyncio.timeout(LIMIT):
                while True:
                    item = (await watching.read()).item
                    if item.event.run_id == f"r{number}" and item.event.HasField("run_finished"):
                        break
        # What was to be flushed is told that it need not be.
        clock.advance(1.0)
        assert sum(one.num_bytes for one in closed_messages()) <= 1 << 20
        watching.cancel()
        made = submission("s", json.dumps({"text": ["y" * 300_000]}), "last")
        async for _ in server.runs.Run(run_service_pb2.RunRequest(submission=made)):
            pass
        async with asyncio.timeout(LIMIT):
            session = server.server.runs.table.get(("default", "s"))
            while session is not None and session.log.num_readers:
                await server.run_view("last")
        clock.advance(1.0)
        assert closed_messages() == []

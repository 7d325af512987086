"""Plain functions as tools: what blocks in a thread blocks nothing else, and its late result is recorded."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path

import grpc.aio
import pytest

from tests.service.failure.process import ServerProcess
from tests.service.failure.remote import connected
from tests.service.failure.stories import is_valid, reason_of
from tests.service.harness import LIMIT
from tests.service.manual_clock import ManualClock
from tests.service.turns.scenes import Tools, calls, result_text, scene, script
from turnkeeper_service.tools import threads


class Blocking:
    """A plain function that waits in its thread until it is let go."""

    def __init__(self, tools: Tools, name: str = "slow") -> None:
        self._may_go = threading.Event()
        self._begun = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.num_begun = 0
        tools.add(name, self._body)

    def _body(self) -> str:
        self.num_begun += 1
        self._loop.call_soon_threadsafe(self._begun.set)
        assert self._may_go.wait(LIMIT)
        return "at last"

    async def begun(self) -> None:
        """Wait until it runs."""
        async with asyncio.timeout(LIMIT):
            await self._begun.wait()

    def let_go(self) -> None:
        """Let it end."""
        self._may_go.set()


@pytest.mark.asyncio
async def test_what_a_thread_says_after_a_cancel_is_recorded_and_never_applied(tmp_path: Path) -> None:
    clock, tools = ManualClock(), Tools()
    slow = Blocking(tools)
    async with scene(tmp_path, tools, clock=clock) as on:
        await on.server.submit("s", script(calls("slow"), "never"), "r")
        await slow.begun()
        await on.server.cancel(run_id="r")
        await clock.armed(2.0)
        clock.advance(2.0)
        assert reason_of(await on.watch.terminal("r")) == "CANCELLED/USER"
        assert on.server.server.runs.parts.num_detached == 1
        # The line moves while it still blocks.
        await on.server.submit("s", "next", "next")
        assert (await on.watch.terminal("next")).text == "next"
        slow.let_go()
        late = (await on.watch.seen("r", "tool_call_late_result")).tool_call_late_result.result
        assert (late.tool_call_id, result_text(late)) == ("id-slow", "at last")
        found = (await on.results())["id-slow"]
        assert found.is_synthetic
        assert is_valid(await on.server.messages("s"))
        await on.idle()


@pytest.mark.asyncio
async def test_what_a_thread_says_after_its_timeout_is_recorded(tmp_path: Path) -> None:
    clock, tools = ManualClock(), Tools()
    slow = Blocking(tools)
    async with scene(tmp_path, tools, clock=clock) as on:
        await on.server.submit("s", script(calls("slow"), "done"), "r")
        await slow.begun()
        await clock.armed(120.0)
        clock.advance(120.0)
        await clock.armed(2.0)
        clock.advance(2.0)
        assert (await on.watch.terminal("r")).text == "done"
        slow.let_go()
        late = (await on.watch.seen("r", "tool_call_late_result")).tool_call_late_result.result
        assert result_text(late) == "at last"
        assert result_text((await on.results())["id-slow"]) == "the tool did not answer within 120 seconds"


@pytest.mark.asyncio
async def test_a_cancel_in_the_grace_after_a_timeout_loses_no_late_result(tmp_path: Path) -> None:
    clock, tools = ManualClock(), Tools()
    slow = Blocking(tools)
    async with scene(tmp_path, tools, clock=clock) as on:
        await on.server.submit("s", script(calls("slow"), "never"), "r")
        await slow.begun()
        await clock.armed(120.0)
        clock.advance(120.0)
        await clock.armed(2.0)
        await on.server.cancel(run_id="r")
        await clock.armed(2.0, 2)
        clock.advance(2.0)
        assert reason_of(await on.watch.terminal("r")) == "CANCELLED/USER"
        slow.let_go()
        late = (await on.watch.seen("r", "tool_call_late_result")).tool_call_late_result.result
        assert result_text(late) == "at last"


@pytest.mark.asyncio
async def test_threads_that_never_end_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MAX_THREADS", 1)
    tools = Tools()
    slow = Blocking(tools)
    async with scene(tmp_path, tools) as on:
        await on.server.session("t")
        await on.server.submit("t", script(calls("slow"), "first"), "other")
        await slow.begun()
        await on.server.submit("s", script(calls("slow"), "done"), "r")
        assert (await on.watch.terminal("r")).text == "done"
        found = (await on.results())["id-slow"]
        assert (found.is_error, result_text(found)) == (True, "1 calls of plain functions run already")
        slow.let_go()
        assert (await on.server.terminals("t", ["other"]))["other"].text == "first"
        assert slow.num_begun == 1


NEVER = '''
"""Tools of a server."""
import threading


def never() -> str:
    """Never ends."""
    threading.Event().wait()
    return ""
'''


@pytest.mark.asyncio
async def test_a_thread_that_never_ends_does_not_keep_the_server_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "never_tools.py").write_text(NEVER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    flags = ["--set", 'tools.functions=["never_tools:never"]', "--set", "server.drain_timeout_seconds=0"]
    flags += ["--set", "defaults.cancel_grace_seconds=0"]
    with ServerProcess(tmp_path / "data", *flags) as process:
        async with connected(process.serving()) as server:
            await server.session("s")
            run = server.runs.Run(server.run_request("s", script(calls("never"), "never"), "r"))
            async for item in run:
                if item.item.event.HasField("tool_call_started"):
                    break
            process.signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError):
                async for _ in run:
                    pass
        assert process.ended() == 0

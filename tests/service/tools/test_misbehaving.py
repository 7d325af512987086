"""Holders of calls that do what they should not: each ends as specified, in bounded time and memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.service.failure.remote import BIG, NARROW
from tests.service.harness import Harness, serving
from tests.service.manual_clock import ManualClock
from tests.service.tools.holders import SAFE, Client, Worker, result, tool, unheld
from tests.service.turns.scenes import Scene, call, calls, result_text, scene, script
from turnkeeper.v1 import event_pb2, run_service_pb2, tool_service_pb2
from turnkeeper_service.tools.remote import tenant_tools

GRACE = 30.0
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]


async def serve(server: Harness, kind: str, name: str = "me", *tools: Any) -> Client | Worker:
    """A client or worker that serves the tool ``look``, or others."""
    served: Any = Client if kind == "client" else Worker
    holder: Client | Worker = await served.serve(server, *(tools or ("look",)), name=name)
    return holder


async def refused(holder: Client | Worker, given: tool_service_pb2.ToolInvocationResult) -> tuple[int, str]:
    """The code and the words with which a result is refused."""
    if isinstance(holder, Client):
        error: Any = (await holder.talk.ask("refused", tool_result=given)).error
    else:
        await holder.send("refused", result=given)
        error = (await holder.until(lambda item: item.HasField("error"))).error
    assert error.frame_id == "refused"
    return error.code, error.message


async def lates(on: Scene) -> list[str]:
    """The late results recorded until now."""
    await on.watch.quiet()
    late = [event.tool_call_late_result for event in on.watch.events if event.HasField("tool_call_late_result")]
    return [result_text(one.result) for one in late]


@pytest.mark.parametrize("kind", ["client", "worker"])
@pytest.mark.asyncio
async def test_who_never_had_a_lease_cannot_answer_under_it(tmp_path: Path, kind: str) -> None:
    async with scene(tmp_path) as on:
        other = await serve(on.server, kind, "other", "something")
        me = await serve(on.server, kind)
        await on.server.submit("s", script(calls("look"), "done"), "r")
        invocation = await me.invoked()
        expected = (NOT_FOUND, f"you never had a lease {invocation.lease_id!r}")
        assert await refused(other, result(invocation, "mine")) == expected
        assert not await me.answer(invocation, "seen")
        assert (await on.watch.terminal("r")).text == "done"
        # Nor afterwards; and none of it is in the log.
        assert await refused(other, result(invocation, "mine")) == expected
        assert result_text((await on.results())["id-look"]) == "seen"
        assert await lates(on) == []


@pytest.mark.parametrize("kind", ["client", "worker"])
@pytest.mark.asyncio
async def test_who_lost_a_lease_to_another_is_late_while_the_other_still_has_it(tmp_path: Path, kind: str) -> None:
    clock = ManualClock()
    async with scene(tmp_path, clock=clock) as on:
        me = await serve(on.server, kind, "me", tool("look", replay_class=SAFE))
        await on.server.submit("s", script(calls("look"), "done"), "r")
        first = await me.invoked()
        other = await serve(on.server, kind, "other", tool("look", replay_class=SAFE))
        lose(me)
        await unheld(on.server, "me")
        clock.advance(GRACE)
        second = await other.invoked()
        me = await serve(on.server, kind, "me", "something")
        assert await me.answer(first, "too late")
        assert await me.answer(first, "still too late")
        assert not await other.answer(second, "seen")
        assert (await on.watch.terminal("r")).text == "done"
        assert await other.answer(second, "twice")
        assert await lates(on) == ["too late"]


def lose(holder: Client | Worker) -> None:
    """Lose a stream."""
    if isinstance(holder, Client):
        holder.lose()
    else:
        holder.kill()


@pytest.mark.parametrize("kind", ["client", "worker"])
@pytest.mark.asyncio
async def test_a_lease_of_an_earlier_process_is_refused(tmp_path: Path, kind: str) -> None:
    async with scene(tmp_path) as on:
        me = await serve(on.server, kind)
        await on.server.submit("s", script(calls("look"), "done"), "r")
        old = await me.invoked()
    async with scene(tmp_path, is_new=False) as on:
        me = await serve(on.server, kind)
        again = await me.invoked()
        assert again.attempt == 2
        assert (await refused(me, result(old, "old")))[0] == NOT_FOUND
        assert not await me.answer(again, "seen")
        await on.watch.terminal(again.run_id)
        assert await lates(on) == []


@pytest.mark.parametrize("kind", ["client", "worker"])
@pytest.mark.asyncio
async def test_a_flood_of_answers_to_nothing_is_refused_one_by_one_and_disturbs_nobody(
    tmp_path: Path, kind: str
) -> None:
    """It reads nothing meanwhile; what it is told is bounded, so its frames wait, and others' calls do not."""
    async with scene(tmp_path) as on, narrow(on.server, kind, "unused") as flood:
        given = tool_service_pb2.ToolInvocationResult(lease_id="x" * 100)

        async def write() -> None:
            for number in range(2000):
                await flood.send(f"n{number}", given)

        writing = asyncio.ensure_future(write())
        me = await serve(on.server, kind)
        await on.server.submit("s", script(calls("look"), "done"), "r")
        await me.answer(await me.invoked(), "seen")
        assert (await on.watch.terminal("r")).text == "done"
        for number in range(2000):
            assert await flood.error() == (f"n{number}", NOT_FOUND)
        await writing


class Narrow:
    """A holder on a connection of its own, whose windows stay small; it reads only when it is told to."""

    def __init__(self, kind: str, call: Any) -> None:
        self._kind = kind
        self.call = call

    async def send(self, frame_id: str, given: tool_service_pb2.ToolInvocationResult) -> None:
        """Write a result."""
        if self._kind == "client":
            await self.call.write(run_service_pb2.ConverseRequest(frame_id=frame_id, tool_result=given))
        else:
            await self.call.write(tool_service_pb2.ServeToolsRequest(frame_id=frame_id, result=given))

    async def item(self) -> Any:
        """The next item."""
        response = await self.call.read()
        return response.item if self._kind == "client" else response

    async def error(self) -> tuple[str, int]:
        """The next error."""
        while not (item := await self.item()).HasField("error"):
            pass
        return item.error.frame_id, item.error.code


@asynccontextmanager
async def narrow(server: Harness, kind: str, tool_name: str) -> AsyncIterator[Narrow]:
    """Serve a tool over a narrow connection."""
    async with grpc.aio.insecure_channel(server.server.grpc_address, options=[*NARROW, *BIG]) as channel:
        apart = Harness(server.server, channel, server.gates, server.places)
        if kind == "client":
            client = await Client.serve(apart, tool_name, name="narrow")
            yield Narrow(kind, client.talk.call)
            client.lose()
        else:
            worker = await Worker.serve(apart, tool_name, name="narrow")
            yield Narrow(kind, worker.call)
            worker.kill()


@pytest.mark.parametrize("kind", ["client", "worker"])
@pytest.mark.asyncio
async def test_who_does_not_read_is_not_told_of_calls_that_are_over(tmp_path: Path, kind: str) -> None:
    clock = ManualClock()
    large = "x" * 300_000
    num = 12
    async with scene(tmp_path, clock=clock) as on, narrow(on.server, kind, "look") as idle:
        for number in range(num):
            answer = {"tool_calls": [call("look", f"id-{number}", text=large)]}
            await on.server.submit("s", script(answer, "done"), f"r{number}")
            await clock.armed(120.0, number + 1)
            clock.advance(120.0)
            assert (await on.watch.terminal(f"r{number}")).text == "done"
        await on.server.submit("s", script(calls("look"), "done"), "last")
        # What had not been written to it when its call ended is never written.
        invoked: list[str] = []
        while "last" not in invoked:
            item = await idle.item()
            given = item.tool_invocation if kind == "client" else item.invocation
            if given.run_id:
                invoked.append(given.run_id)
        assert len(invoked) <= 4, invoked
        await on.server.cancel(run_id="last")
        await on.watch.terminal("last")


@pytest.mark.asyncio
async def test_nothing_is_kept_of_what_calls_said_that_are_over(tmp_path: Path) -> None:
    """Late answers are told apart from made-up ones by ids alone."""
    async with scene(tmp_path, limits__max_tool_result_bytes="1000") as on:
        worker = await Worker.serve(on.server, "look")
        before = 0
        for number in range(40):
            # What the machinery needs for one, it has had after some.
            before = resident() if number == 10 else before
            await on.server.submit("s", script(calls("look"), "done"), f"r{number}")
            assert not await worker.answer(await worker.invoked(), "y" * 8_000_000)
            await on.watch.terminal(f"r{number}")
        assert resident() - before < 150 << 20, "30 results of 8 MB are kept"
        worker.kill()


def resident() -> int:
    """The memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.asyncio
async def test_of_too_many_lost_holders_the_first_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenant_tools, "MAX_AWAY", 2)
    clock = ManualClock()
    async with scene(tmp_path, clock=clock) as on:
        first = await Worker.serve(on.server, "look", name="first", grace=1e6)
        await on.server.submit("s", script(calls("look"), "done"), "r")
        await first.invoked()
        for name in ("first", "second", "third"):
            worker = first if name == "first" else await Worker.serve(on.server, f"of_{name}", name=name, grace=1e6)
            worker.kill()
            await unheld(on.server, name)
        assert (await on.watch.terminal("r")).text == "done"
        assert result_text((await on.results())["id-look"]) == (
            "the client that ran 'look' was lost; whether it took effect is unknown"
        )
        assert on.offered() == ["of_second", "of_third"]


@pytest.mark.parametrize("kind", ["client", "worker"])
@pytest.mark.asyncio
async def test_a_holder_that_is_there_twice_gets_what_is_open_and_answers_once(tmp_path: Path, kind: str) -> None:
    """A second stream under the same name takes the place of the first, which may still be open on this side."""
    async with scene(tmp_path) as on:
        me = await serve(on.server, kind)
        await on.server.submit("s", script(calls("look"), "done"), "r")
        first = await me.invoked()
        twin = await serve(on.server, kind)
        second = await twin.invoked()
        assert (second.lease_id, second.attempt) == (first.lease_id, 2)
        assert not await me.answer(first, "by the first")
        assert await twin.answer(second, "by the second")
        assert (await on.watch.terminal("r")).text == "done"
        assert result_text((await on.results())["id-look"]) == "by the first"
        assert await lates(on) == ["by the second"]
        # The end of the first is not the end of the second.
        lose(me)
        await on.server.submit("s", script(calls("look"), "done"), "next")
        assert not await twin.answer(await twin.invoked(), "seen")
        assert (await on.watch.terminal("next")).status == event_pb2.OUTCOME_STATUS_COMPLETED


@pytest.mark.parametrize("kind", ["client", "worker"])
@pytest.mark.asyncio
async def test_a_stream_that_is_cancelled_once_more_while_it_ends_is_lost_all_the_same(
    tmp_path: Path, kind: str
) -> None:
    """Its frames end and its call is cancelled in either order, and one may come while the other is dealt with."""
    async with serving(tmp_path) as server:
        await server.session("s")
        await serve(server, kind)
        wire = server.server._wire
        assert wire is not None
        (stream,) = wire._gatekeeper.calls._tasks
        stream.cancel()
        await asyncio.sleep(0)
        stream.cancel()
        await unheld(server, "me")

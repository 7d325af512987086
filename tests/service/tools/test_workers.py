"""Workers over ServeTools: many sessions of one tenant, how much at a time, and what their loss leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.service.dispatch.script import reply
from tests.service.dispatch.watch import watching
from tests.service.failure.stories import reason_of
from tests.service.harness import LIMIT, reason, serving, submission
from tests.service.manual_clock import ManualClock
from tests.service.tools.holders import SAFE, Client, Worker, offer, result, tool, unheld
from tests.service.turns.scenes import calls, result_text, scene, script
from tests.service.wire.tokens import Caller, token_of, write_token_file
from turnkeeper.v1 import run_service_pb2, session_service_pb2, tool_service_pb2, tool_service_pb2_grpc

GRACE = 30.0


@pytest.mark.asyncio
async def test_a_worker_serves_two_sessions_at_the_same_time(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.server.session("t")
        worker = await Worker.serve(on.server, "look")
        await on.server.submit("s", script(calls("look"), "done s"), "rs")
        await on.server.submit("t", script(calls("look"), "done t"), "rt")
        got = {one.session_id: one for one in (await worker.invoked(), await worker.invoked())}
        assert {key: one.run_id for key, one in got.items()} == {"s": "rs", "t": "rt"}
        started = (await on.watch.seen("rs", "tool_call_started")).tool_call_started
        assert (started.executor, started.lease_id) == ("worker", got["s"].lease_id)
        # The later one first: neither waits for the other.
        assert not await worker.answer(got["t"], "seen t")
        assert (await on.server.terminals("t", ["rt"]))["rt"].text == "done t"
        assert not await worker.answer(got["s"], "seen s")
        assert (await on.watch.terminal("rs")).text == "done s"
        assert result_text((await on.results("rs"))["id-look"]) == "seen s"
        worker.kill()


@pytest.mark.asyncio
async def test_a_worker_serves_its_own_tenant_only(tmp_path: Path) -> None:
    async with serving(tmp_path, **write_token_file(tmp_path)) as server:
        metadata = (("authorization", f"Bearer {token_of('walt')}"),)
        worker = await Worker.serve(server, "look", metadata=metadata)
        alice, bob = Caller(server.channel, "alice"), Caller(server.channel, "bob")
        outcomes, served = {}, []
        for who, session_id in ((bob, "b"), (alice, "a")):
            await who.call(
                "SessionService.CreateSession", session_service_pb2.CreateSessionRequest(session_id=session_id)
            )
            request = run_service_pb2.RunRequest(submission=submission(session_id, script(calls("look"), "done"), "r"))
            stream = who.call("RunService.Run", request)
            async with asyncio.timeout(LIMIT):
                async for response in stream:
                    event = response.item.event
                    if event.HasField("tool_call_started"):
                        invocation = await worker.invoked()
                        served.append(invocation.session_id)
                        await worker.send(result=result(invocation, "seen"))
                    if event.HasField("run_finished"):
                        outcomes[session_id] = reason_of(event.run_finished.outcome)
        # To the other tenant the tool does not exist: its model is told so, and nobody is asked.
        assert outcomes == {"b": "COMPLETED/ANSWERED", "a": "COMPLETED/ANSWERED"}
        assert served == ["a"]
        assert sum(item.HasField("invocation") for item in worker.items) == 1
        # Who may only read serves nothing.
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Worker.serve(server, "look", metadata=(("authorization", f"Bearer {token_of('anna')}"),))
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
        worker.kill()


@pytest.mark.asyncio
async def test_a_worker_has_no_more_calls_at_a_time_than_it_takes(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        sessions = ["s", "t", "u"]
        for session_id in sessions[1:]:
            await on.server.session(session_id)
        worker = await Worker.serve(on.server, "look", max_concurrent=2)
        for session_id in sessions:
            await on.server.submit(session_id, script(calls("look"), "done"), f"r{session_id}")
        first, second = await worker.invoked(), await worker.invoked()
        # The third is started and waits for one of them; an answer to a frame that comes after it shows that.
        assert len({first.session_id, second.session_id}) == 2
        waiting = ({"s", "t", "u"} - {first.session_id, second.session_id}).pop()
        async with watching(on.server, waiting) as watch:
            await watch.seen(f"r{waiting}", "tool_call_started")
        await worker.send(offer_tools=offer("look"))
        item = await worker.until(lambda item: item.HasField("tools") or item.HasField("invocation"))
        assert item.HasField("tools")
        await worker.answer(first, "seen")
        third = await worker.invoked()
        assert third.session_id == waiting
        assert third.attempt == 1
        for one in (second, third):
            await worker.answer(one, "seen")
        for session_id in sessions:
            assert (await on.server.terminals(session_id, [f"r{session_id}"]))[f"r{session_id}"].text == "done"
        worker.kill()


@pytest.mark.asyncio
async def test_a_worker_killed_in_mid_call_leaves_an_error_result(tmp_path: Path) -> None:
    clock = ManualClock()
    async with scene(tmp_path, clock=clock) as on:
        worker = await Worker.serve(on.server, "look", grace=5)
        await on.server.submit("s", script(calls("look"), "done"), "r")
        await worker.invoked()
        worker.kill()
        await unheld(on.server, "worker")
        clock.advance(5)
        assert (await on.watch.terminal("r")).text == "done"
        text = "the client that ran 'look' was lost; whether it took effect is unknown"
        assert result_text((await on.results())["id-look"]) == text


@pytest.mark.asyncio
async def test_a_call_that_may_be_run_again_goes_to_another_worker(tmp_path: Path) -> None:
    clock = ManualClock()
    async with scene(tmp_path, clock=clock) as on:
        safe = tool("look", replay_class=SAFE)
        worker = await Worker.serve(on.server, safe, name="one")
        await on.server.submit("s", script(calls("look"), "done"), "r")
        first = await worker.invoked()
        other = await Worker.serve(on.server, safe, name="two")
        worker.kill()
        await unheld(on.server, "one")
        clock.advance(GRACE)
        again = await other.invoked()
        assert (again.attempt, again.idempotency_key) == (2, first.idempotency_key)
        await other.answer(again, "seen")
        assert (await on.watch.terminal("r")).text == "done"
        other.kill()


@pytest.mark.asyncio
async def test_calls_are_spread_over_workers(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.server.session("t")
        one, two = await Worker.serve(on.server, "look", name="one"), await Worker.serve(on.server, "look", name="two")
        await on.server.submit("s", script(calls("look"), "done"), "rs")
        first = await one.invoked()
        await on.server.submit("t", script(calls("look"), "done"), "rt")
        second = await two.invoked()
        await one.answer(first, "seen")
        await two.answer(second, "seen")
        await on.watch.terminal("rs")
        await on.server.terminals("t", ["rt"])
        one.kill()
        two.kill()


@pytest.mark.asyncio
async def test_a_client_of_the_session_comes_before_a_worker(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        client = await Client.serve(on.server, tool("look", description="the client's"))
        worker = await Worker.serve(on.server, tool("look", description="the worker's"))
        await on.server.submit("s", script(calls("look"), "done"), "r")
        await client.answer(await client.invoked(), "the client's")
        await on.watch.terminal("r")
        assert [one.description for one in on.requests[0].tools] == ["the client's"]
        assert (await on.watch.seen("r", "tool_call_started")).tool_call_started.executor == "me"
        client.lose()
        worker.kill()


@pytest.mark.asyncio
async def test_a_cancelled_run_takes_its_call_back_from_a_worker(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        worker = await Worker.serve(on.server, "look", max_concurrent=1)
        await on.server.session("t")
        await on.server.submit("s", script(calls("look"), "never"), "r")
        invocation = await worker.invoked()
        await on.server.submit("t", script(calls("look"), "done"), "rt")
        await on.server.cancel(run_id="r")
        back = await worker.until(lambda item: item.HasField("cancelled"))
        assert back.cancelled.lease_id == invocation.lease_id
        assert reason_of(await on.watch.terminal("r")) == "CANCELLED/USER"
        # What waited behind it has its turn.
        following = await worker.invoked()
        assert following.session_id == "t"
        assert await worker.answer(invocation, "too late")
        late = await on.watch.seen("r", "tool_call_late_result")
        assert result_text(late.tool_call_late_result.result) == "too late"
        await worker.answer(following, "seen")
        await on.server.terminals("t", ["rt"])
        worker.kill()


@pytest.mark.asyncio
async def test_a_bad_frame_of_a_worker_is_answered_and_the_stream_goes_on(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        worker = await Worker.serve(on.server, "look")
        await worker.send("f1", result=tool_service_pb2.ToolInvocationResult(lease_id="nothing"))
        await worker.send("f2", offer_tools=offer("not a name"))
        await worker.send("f3", open=tool_service_pb2.OpenWorker(worker_id="again"))
        await worker.send("f4")
        errors = [(await worker.until(lambda item: item.HasField("error"))).error for _ in range(4)]
        assert [(one.frame_id, one.code) for one in errors] == [("f1", 5), ("f2", 3), ("f3", 3), ("f4", 3)]
        await on.server.submit("s", script(calls("look"), "done"), "r")
        await worker.answer(await worker.invoked(), "seen")
        assert (await on.watch.terminal("r")).text == "done"
        worker.kill()


@pytest.mark.asyncio
async def test_a_worker_has_to_open_its_stream_first(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        stub = tool_service_pb2_grpc.ToolServiceStub(server.channel)
        call = stub.ServeTools(iter([tool_service_pb2.ServeToolsRequest(offer_tools=offer("look"))]))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert reason(refused.value) == "FIRST_FRAME_NOT_OPEN"


@pytest.mark.asyncio
async def test_a_worker_shows_signs_of_life_and_its_stream_ends_with_the_server(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        worker = await Worker.serve(server, "look")
        # What it was told last may have been noted as written only now: the second look cannot miss it.
        for look in (1, 2):
            await clock.armed(5.0, look)
            clock.advance(15.0)
        await worker.until(lambda item: item.HasField("heartbeat"))
        await server.session("s")
        await server.submit("s", reply("fine"), "r")
        assert (await server.terminals("s", ["r"]))["r"].text == "fine"
        await server.server.close()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await worker.until(lambda item: False)
        assert (ended.value.code(), reason(ended.value)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")

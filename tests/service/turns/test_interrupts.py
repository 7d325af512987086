"""Stopping and cutting a turn (U-11 to U-13): what still runs, what the history keeps, what the next request holds."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.service.dispatch.script import at_gate, provider, reply
from tests.service.dispatch.stage import held, in_line, open_run
from tests.service.failure.stories import finished, kinds, reason_of
from tests.service.harness import LIMIT, Harness, Places, details, reason, serving
from tests.service.manual_clock import ManualClock
from tests.service.turns.scenes import STEER, STOP, Scene, Tools, calls, result_text, said, scene, script
from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2
from turnkeeper_service.store.faults import Faults
from turnkeeper_service.store.sqlite import SqliteStore


@pytest.mark.spec("subturns:T76")
@pytest.mark.asyncio
async def test_a_cancel_up_to_a_sequence_spares_what_came_after_it(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        sequence = await held(on.server, "first")
        scope = run_service_pb2.CancelScope()
        scope.up_to.session_id, scope.up_to.accept_sequence = "s", sequence
        done = await on.server.runs.CancelRuns(run_service_pb2.CancelRunsRequest(scope=scope))
        assert [run.run_id for run in done.receipt.runs] == ["first"]
        await on.server.submit("s", "follow-up", "second")
        on.server.places.release("dispatch", "first")
        assert reason_of(await on.watch.terminal("first")) == "CANCELLED/USER"
        assert (await on.watch.terminal("second")).text == "follow-up"
        assert [on.told(index) for index in range(len(on.requests))] == [["follow-up"]]
        await on.idle()


@pytest.mark.spec("subturns:T80")
@pytest.mark.asyncio
async def test_a_stop_during_a_batch_takes_one_last_step_without_tools(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("slow")
    tools.quick("second", "third")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("slow", "second", "third"), "so far"), "r")
        await tools.gates.reached("slow")
        await on.server.cancel(run_id="r", mode=STOP)
        tools.gates.open("slow")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/STOPPED", "so far", 2)
        assert tools.ran == ["slow"]
        assert (len(on.requests), on.offered(0), on.offered(1)) == (2, ["second", "slow", "third"], [])
        stopped = "skipped: the run was asked to stop"
        assert on.told()[-1] == f"slow: slow is done | second: {stopped} | third: {stopped}"
        await on.idle()


@pytest.mark.spec("subturns:T106")
@pytest.mark.asyncio
async def test_a_hint_of_a_stop_can_be_read_and_is_told_to_the_last_step(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("slow")
    tools.quick("second")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("slow", "second"), "so far"), "r")
        await tools.gates.reached("slow")
        await on.server.cancel(run_id="r", mode=STOP, hint="say what you have")
        requested = (await on.watch.seen("r", "run_cancel_requested")).run_cancel_requested
        assert (requested.mode, requested.hint) == (STOP, "say what you have")
        assert (await on.server.run_view("r")).cancel == requested
        # The first stop stands.
        await on.server.cancel(run_id="r", mode=STOP, hint="never told")
        tools.gates.open("slow")
        assert reason_of(await on.watch.terminal("r")) == "COMPLETED/STOPPED"
        skipped = "second: skipped: the run was asked to stop"
        assert on.told()[2:] == [f"slow: slow is done | {skipped}", "say what you have"]
        assert (on.sent()[-1].role, on.offered()) == (content_pb2.ROLE_USER, [])
        messages = await on.server.messages("s")
        hints = [one for one in messages if one.origin == content_pb2.MESSAGE_ORIGIN_STOP_HINT]
        assert [(said(one), one.run_id, one.in_context) for one in hints] == [("say what you have", "r", True)]
        # It is one of the run's messages for good; the next run's model is told it too.
        await on.server.submit("s", "next", "next")
        await on.watch.terminal("next")
        assert on.told()[3:] == ["say what you have", "say what you have", "next"]


@asynccontextmanager
async def held_back(data_dir: Path, tools: Tools) -> AsyncIterator[Scene]:
    """The next server; the run ``r`` goes on only when its requests are recorded."""
    places = Places()
    places.hold("turn", "r")
    async with scene(data_dir, tools, is_new=False, places=places) as on:
        places.release("turn", "r")
        yield on


@pytest.mark.spec("subturns:T106")
@pytest.mark.parametrize("is_told", [False, True])
@pytest.mark.asyncio
async def test_a_hint_is_told_once_and_after_a_restart_too(tmp_path: Path, is_told: bool) -> None:
    tools = Tools()
    tools.held("slow", is_replay_safe=True)
    hint = reply("so far", gate="last")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("slow")), "r")
        await tools.gates.reached("slow")
        await on.server.cancel(run_id="r", mode=STOP, hint=hint)
        if is_told:
            tools.gates.open("slow")
            await at_gate(on.server, "last")
    tools.gates.open("slow")
    tools.gates.open("last")
    async with held_back(tmp_path, tools) as on:
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text) == ("COMPLETED/STOPPED", "so far")
        assert (await on.watch.seen("r", "run_cancel_requested")).run_cancel_requested.hint == hint
        assert on.told()[1:] == ["call slow", "slow: slow is done", hint]
        assert [said(one) for one in await on.server.messages("s")].count(hint) == 1


@pytest.mark.asyncio
async def test_a_hint_that_comes_while_the_step_runs_is_told_when_the_step_is_run_again(tmp_path: Path) -> None:
    gates = Tools().gates
    async with scene(tmp_path, Tools(gates)) as on:
        await on.server.submit("s", reply("so far", gate="g"), "r")
        await at_gate(on.server, "g")
        await on.server.cancel(run_id="r", mode=STOP, hint="be short")
    gates.open("g")
    async with held_back(tmp_path, Tools(gates)) as on:
        assert reason_of(await on.watch.terminal("r")) == "COMPLETED/STOPPED"
        assert on.told()[1:] == ["be short"]


@pytest.mark.parametrize(
    ("fields", "path"),
    [({"hint": "why"}, "hint"), ({"mode": STOP, "hint": "x" * 16_385}, "hint")],
    ids=["without a stop", "too long"],
)
@pytest.mark.asyncio
async def test_a_hint_that_nobody_could_be_told_is_refused(tmp_path: Path, fields: dict[str, Any], path: str) -> None:
    async with scene(tmp_path) as on:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await on.server.cancel("s", **fields)
        assert (refused.value.code(), reason(refused.value)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert details(refused.value)["BadRequest"].field_violations[0].field == path


@pytest.mark.asyncio
async def test_calls_of_the_last_step_of_a_stop_are_not_run(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("slow")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("slow"), {**calls("slow"), "text": "once more"}, "never"), "r")
        await tools.gates.reached("slow")
        await on.server.cancel(run_id="r", mode=STOP)
        tools.gates.open("slow")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text) == ("COMPLETED/STOPPED", "once more")
        assert tools.ran == ["slow"]
        await on.server.submit("s", "next", "next")
        assert (await on.watch.terminal("next")).text == "next"


@pytest.mark.asyncio
async def test_a_stop_beyond_the_step_limit_still_has_its_last_step(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("slow")
    async with scene(tmp_path, tools, session={"max_steps": 2}) as on:
        await on.server.submit("s", script(calls("slow"), "the end"), "r")
        await tools.gates.reached("slow")
        await on.server.cancel(run_id="r", mode=STOP)
        # A steer that comes now is bound to nothing that would still fold it: it is a run of its own.
        await on.server.submit("s", "later", "steer", delivery=STEER)
        tools.gates.open("slow")
        assert reason_of(await on.watch.terminal("r")) == "COMPLETED/STOPPED"
        assert (await on.watch.terminal("steer")).text == "later"


@pytest.mark.asyncio
async def test_a_stop_becomes_an_abort_where_the_tool_takes_too_long(tmp_path: Path) -> None:
    clock, tools = ManualClock(), Tools()
    tools.held("slow")
    async with scene(tmp_path, tools, clock=clock) as on:
        await on.server.submit("s", script(calls("slow"), "never"), "r")
        await tools.gates.reached("slow")
        await on.server.cancel(run_id="r", mode=STOP)
        await clock.armed(30.0)
        clock.advance(30.0)
        assert reason_of(await on.watch.terminal("r")) == "CANCELLED/USER"
        assert len(on.requests) == 1


@pytest.mark.spec("subturns:T81")
@pytest.mark.parametrize("rollback", [True, False])
@pytest.mark.asyncio
async def test_an_abort_in_a_tool_leaves_the_history_or_takes_the_turn_out_of_it(
    tmp_path: Path, rollback: bool
) -> None:
    tools = Tools()
    tools.held("slow")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", "before", "before")
        await on.watch.terminal("before")
        earlier = [said(message) for message in await on.server.messages("s") if message.in_context]
        await on.server.submit("s", script(calls("slow"), "never"), "r")
        await tools.gates.reached("slow")
        await on.server.cancel(run_id="r", rollback=rollback)
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.actor) == ("CANCELLED/USER", "anonymous")
        assert (tools.ran, len(on.requests)) == (["slow"], 2)
        all_messages = await on.server.messages("s")
        in_context = [said(message) for message in all_messages if message.in_context]
        assert len(all_messages) == 5
        assert (in_context == earlier) is rollback
        result = (await on.results())["id-slow"]
        assert (result.is_error, result.is_synthetic) == (True, True)
        assert "tool_call_cancelled" in on.watch.of("r")
        await on.idle()
        await on.server.submit("s", "after", "after")
        assert (await on.watch.terminal("after")).text == "after"
        assert len(on.told()) == (3 if rollback else 6)


@pytest.mark.spec("subturns:T82")
@pytest.mark.asyncio
async def test_a_cancel_of_the_session_ends_the_tool_and_drops_the_line(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("slow")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("slow"), "never"), "r")
        await tools.gates.reached("slow")
        await on.server.submit("s", "queued", "queued")
        await on.server.submit("s", "steered", "steered", delivery=STEER)
        receipt = await on.server.cancel("s")
        assert [run.run_id for run in receipt.runs] == ["r", "queued", "steered"]
        for run_id in ("r", "queued", "steered"):
            assert reason_of(await on.watch.terminal(run_id)) == "CANCELLED/USER"
        assert len(on.requests) == 1
        assert (in_line(on.server), open_run(on.server)) == ([], "")
        await on.idle()
        assert (await on.watch.quiet()).keys() == {"r", "queued", "steered"}


@pytest.mark.spec("dispatch:G-18")
@pytest.mark.asyncio
async def test_after_a_cancel_in_a_tool_the_next_request_has_each_result_after_its_call(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("one")
    tools.held("two")
    tools.quick("three")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("one", "two", "three"), "never"), "r")
        await tools.gates.reached("two")
        await held(on.server, "follow-up", text="follow-up")
        await on.server.cancel(run_id="r")
        await on.watch.terminal("r")
        on.server.places.release("dispatch", "follow-up")
        assert (await on.watch.terminal("follow-up")).text == "follow-up"
        # The recorder has checked the order; here is what it is.
        cancelled = "the run was cancelled before this call had a result"
        assert on.told()[1:] == [
            "call one | call two | call three",
            f"one: one is done | two: {cancelled} | three: {cancelled}",
            "follow-up",
        ]


@pytest.mark.spec("subturns:T103", "subturns:T107")
@pytest.mark.asyncio
async def test_an_abort_ends_a_run_whose_model_never_answers(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        # The run is held where its turn begins: the abort can be read there, before it is carried out.
        on.server.places.hold("turn", "held")
        await on.server.submit("s", reply("never", hang=True), "r")
        await on.watch.seen("r", "step_started")
        await on.server.cancel(run_id="r")
        outcome = await on.watch.terminal("r")
        assert reason_of(outcome) == "CANCELLED/USER"
        view = await on.server.run_view("r")
        assert (view.cancel.mode, view.cancel.reason) == (
            event_pb2.CANCEL_MODE_ABORT,
            event_pb2.OUTCOME_REASON_USER,
        )
        assert provider(on.server).num_open == 0
        await on.server.submit("s", "hello", "held")
        await on.server.places.reached("turn", "held")
        await on.server.cancel(run_id="held")
        view = await on.server.run_view("held")
        assert (view.state, view.cancel.mode) == (run_service_pb2.RUN_STATE_RUNNING, event_pb2.CANCEL_MODE_ABORT)
        assert [hold.label for hold in view.holds][-1] == "cancelling"
        on.server.places.release("turn", "held")
        assert reason_of(await on.watch.terminal("held")) == "CANCELLED/USER"


@pytest.mark.spec("subturns:T105")
@pytest.mark.asyncio
async def test_a_stop_between_tool_and_answer_completes_the_run(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("look"), {"text": "the answer", "gate": "g"}, "never"), "r")
        await at_gate(on.server, "g")
        await on.server.cancel(run_id="r", mode=STOP)
        view = await on.server.run_view("r")
        assert (view.state, view.cancel.mode) == (run_service_pb2.RUN_STATE_RUNNING, STOP)
        on.server.gates.open("g")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/STOPPED", "the answer", 2)
        assert len(on.requests) == 2


def handled(server: Harness, method: str) -> dict[str, int]:
    """How many calls of a method the server has ended, by status code."""
    with urllib.request.urlopen(f"http://{server.server.http_address}/metrics") as response:
        text = response.read().decode()
    lines = [line for line in text.splitlines() if line.startswith("grpc_server_handled_total{") and method in line]
    found = [re.search(r'grpc_code="(\w+)".* (\d+)', line) for line in lines]
    return {match[1]: int(match[2]) for match in found if match is not None}


@pytest.mark.spec("dispatch:X-13")
@pytest.mark.asyncio
async def test_a_cancelled_call_bad_input_and_a_busy_session_are_never_internal(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.server.submit("s", reply("slow", gate="g"), "r")
        await at_gate(on.server, "g")
        # A call that waits in the server and is cancelled by its client: the server ends it as cancelled.
        request = run_service_pb2.WatchSessionRequest(session_id="s", after_seq=0)
        call = on.server.runs.WatchSession(request)
        async with asyncio.timeout(LIMIT):
            await call.read()
        call.cancel()
        assert await call.code() == grpc.StatusCode.CANCELLED
        with pytest.raises(grpc.aio.AioRpcError) as bad:
            await on.server.submit("s", "", "x y")
        assert bad.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as busy:
            await on.server.submit("s", "now", delivery=event_pb2.DELIVERY_REJECT)
        assert (busy.value.code(), reason(busy.value)) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_BUSY")
        async with asyncio.timeout(LIMIT):
            while not (codes := await asyncio.to_thread(handled, on.server, "WatchSession")):
                await on.server.run_view("r")
        assert codes == {"Canceled": 1}
        on.server.gates.open("g")
        await on.watch.terminal("r")


@pytest.mark.asyncio
async def test_a_tool_that_ignores_its_cancel_is_detached_and_its_late_result_only_recorded(tmp_path: Path) -> None:
    clock, tools = ManualClock(), Tools()

    async def stubborn() -> str:
        tools.ran.append("stubborn")
        while True:
            try:
                await tools.gates.wait("stubborn")
                return "much too late"
            except asyncio.CancelledError:
                tools.ran.append("ignored")

    tools.add("stubborn", stubborn)
    async with scene(tmp_path, tools, clock=clock) as on:
        await on.server.submit("s", script(calls("stubborn"), "never"), "r")
        await tools.gates.reached("stubborn")
        await on.server.submit("s", "behind", "behind")
        await on.server.cancel(run_id="r")
        await clock.armed(2.0)
        assert "run_finished" not in kinds(await on.server.history("s"))
        clock.advance(2.0)
        assert reason_of(await on.watch.terminal("r")) == "CANCELLED/USER"
        assert (await on.watch.terminal("behind")).text == "behind"
        assert on.server.server.runs.parts.num_detached == 1
        before = [said(message) for message in await on.server.messages("s")]
        tools.gates.open("stubborn")
        late = await on.watch.seen("r", "tool_call_late_result")
        assert result_text(late.tool_call_late_result.result) == "much too late"
        assert late.tool_call_late_result.result.tool_call_id == "id-stubborn"
        assert tools.ran == ["stubborn", "ignored"]
        await on.server.submit("s", "sentinel", "sentinel")
        await on.watch.terminal("sentinel")
        assert [said(message) for message in await on.server.messages("s")][: len(before)] == before
        assert "much too late" not in " ".join(on.told())
        assert on.server.server.runs.parts.num_detached == 0


@pytest.mark.asyncio
async def test_a_tool_that_fails_after_it_was_detached_harms_nobody(tmp_path: Path) -> None:
    clock, tools = ManualClock(), Tools()

    async def stubborn() -> str:
        while True:
            try:
                await tools.gates.wait("stubborn")
                raise OSError("the disk is gone")
            except asyncio.CancelledError:
                continue

    tools.add("stubborn", stubborn)
    async with scene(tmp_path, tools, clock=clock) as on:
        await on.server.submit("s", script(calls("stubborn"), "never"), "r")
        await tools.gates.reached("stubborn")
        await on.server.cancel(run_id="r")
        await clock.armed(2.0)
        clock.advance(2.0)
        await on.watch.terminal("r")
        tools.gates.open("stubborn")
        assert (await on.watch.quiet()).keys() == {"r"}
        assert "tool_call_late_result" not in on.watch.of("r")
        assert not on.server.server.failure.done()


@pytest.mark.asyncio
async def test_an_abort_that_was_asked_for_in_a_tool_is_carried_out_after_a_kill(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("slow")
    tools.quick("second")
    faults = Faults()
    faults.fail("before", when=lambda commit: bool(commit.finish_runs), error=lambda: sqlite3.OperationalError("gone"))
    store = SqliteStore(tmp_path, faults=faults)
    async with serving(tmp_path, store=store, gates=tools.gates, tools=tools.offered) as server:
        await server.session("s")
        await server.submit("s", script(calls("slow", "second"), "never"), "r")
        await tools.gates.reached("slow")
        await server.cancel(run_id="r")
        async with asyncio.timeout(LIMIT):
            await asyncio.shield(server.server.failure)
    async with serving(tmp_path, tools=tools.offered) as server:
        assert reason_of((await server.terminals("s", ["r"]))["r"]) == "CANCELLED/USER"
        tool = (await server.messages("s"))[-1]
        assert (tool.role, len(tool.parts)) == (content_pb2.ROLE_TOOL, 2)
        await server.submit("s", "next", "next")
        assert (await server.terminals("s", ["next"]))["next"].text == "next"
        assert finished(await server.history("s")).keys() == {"r", "next"}
        assert tools.ran == ["slow"]

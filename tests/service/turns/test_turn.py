"""One turn: its steps, its tools, its end, and what it tells."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import grpc.aio
import pytest

from tests.service.dispatch.script import at_gate, provider, reply
from tests.service.failure.stories import finished, kinds, reason_of, text_of
from tests.service.harness import LIMIT, FlatRuns, reason, serving, submission
from tests.service.turns.scenes import Tools, call, calls, result_text, scene, script
from turnkeeper.v1 import content_pb2, run_service_pb2, session_service_pb2
from turnkeeper_service.store.faults import Faults
from turnkeeper_service.store.sqlite import SqliteStore
from turnkeeper_service.tools.functions import EndTurn


@pytest.mark.spec("subturns:T90")
@pytest.mark.asyncio
async def test_a_turn_starts_with_its_prompt_and_no_steps(tmp_path: Path) -> None:
    async with scene(tmp_path, session={"system_prompt": "be brief"}) as on:
        on.server.places.hold("turn", "r")
        await on.server.submit("s", reply("hi", gate="g"), "r")
        await on.server.places.reached("turn", "r")
        assert kinds(await on.server.history("s"), "r") == ["run_accepted"]
        assert on.requests == []
        on.server.places.release("turn", "r")
        await at_gate(on.server, "g")
        assert on.told() == [reply("hi", gate="g")]
        assert (await on.watch.seen("r", "step_started")).step_started.step == 1
        on.server.gates.open("g")
        assert (await on.watch.terminal("r")).num_steps == 1


@pytest.mark.spec("subturns:T91", "subturns:T100", "subturns:T101")
@pytest.mark.asyncio
async def test_a_plain_answer_ends_the_turn_after_one_call_and_no_tool(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", "hello there", "r")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/ANSWERED", "hello there", 1)
        assert on.offered() == ["look"]
        assert (len(on.requests), tools.ran) == (1, [])
        assert not any(kind.startswith("tool_") for kind in on.watch.of("r"))


@pytest.mark.spec("subturns:T92")
@pytest.mark.asyncio
async def test_a_turn_whose_end_cannot_be_stored_does_not_look_completed(tmp_path: Path) -> None:
    faults = Faults()
    faults.fail("before", when=lambda commit: bool(commit.finish_runs), error=lambda: sqlite3.OperationalError("gone"))
    async with serving(tmp_path, store=SqliteStore(tmp_path, faults=faults)) as server:
        await server.session("s")
        stream = server.runs.Run(run_service_pb2.RunRequest(submission=submission("s", "hello", "r")))
        seen: list[str | None] = []

        async def read() -> None:
            async for response in stream:
                seen.append(response.item.event.WhichOneof("payload"))

        with pytest.raises(grpc.aio.AioRpcError) as lost:
            await asyncio.wait_for(read(), LIMIT)
        assert reason(lost.value) == "STORE_UNAVAILABLE"
        assert "step_started" in seen
        assert "run_finished" not in seen
        async with asyncio.timeout(LIMIT):
            await asyncio.shield(server.server.failure)
    async with serving(tmp_path) as server:
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (reason_of(outcome), outcome.text) == ("COMPLETED/ANSWERED", "hello")
        assert finished(await server.history("s")).keys() == {"r"}


@pytest.mark.spec("subturns:T93", "subturns:T110")
@pytest.mark.asyncio
async def test_a_turn_with_one_tool_tells_exactly_these_events(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look", "other")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("look"), "seen"), "r")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/ANSWERED", "seen", 2)
        assert tools.ran == ["look"]
        assert on.watch.of("r") == [
            "run_accepted",
            "run_started",
            "message_committed",
            "step_started",
            "message_committed",
            "step_finished",
            "tool_call_requested",
            "tool_call_started",
            "tool_call_finished",
            "message_committed",
            "step_started",
            "message_committed",
            "step_finished",
            "run_finished",
        ]
        events = [event for event in on.watch.events if event.run_id == "r"]
        assert len({event.turn_id for event in events[1:]}) == 1
        assert events[1].turn_id
        requested, started, ended = events[6:9]
        assert requested.tool_call_requested.message_id == events[4].message_committed.message.message_id
        assert requested.tool_call_requested.tool_call.name == "look"
        assert (started.tool_call_started.tool_call_id, started.tool_call_started.executor) == ("id-look", "server")
        assert result_text(ended.tool_call_finished.result) == "look is done"


@pytest.mark.spec("subturns:T102")
@pytest.mark.asyncio
async def test_the_last_step_that_is_allowed_has_no_tools(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look")
    async with scene(tmp_path, tools, session={"max_steps": 2}) as on:
        await on.server.submit("s", script(calls("look"), "that is all"), "r")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/STEP_LIMIT", "that is all", 2)
        assert [on.offered(0), on.offered(1)] == [["look"], []]


@pytest.mark.asyncio
async def test_calls_of_a_step_that_had_no_tools_are_not_run_and_have_results(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look")
    async with scene(tmp_path, tools, session={"max_steps": 2}) as on:
        await on.server.submit("s", script(calls("look")), "r")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.num_steps) == ("COMPLETED/STEP_LIMIT", 2)
        assert tools.ran == ["look"]
        # The next request is checked for its results; so is this one's end.
        await on.server.submit("s", "next", "next")
        assert (await on.watch.terminal("next")).text == "next"
        assert on.told()[-2] == "look: no tools may be used now"


@pytest.mark.asyncio
async def test_a_run_may_be_allowed_fewer_steps_than_its_session(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("look"), "never"), "none", max_steps=0)
        outcome = await on.watch.terminal("none")
        assert (reason_of(outcome), outcome.num_steps, on.requests) == ("COMPLETED/STEP_LIMIT", 0, [])
        await on.server.submit("s", script("only this"), "one", max_steps=1)
        assert reason_of(await on.watch.terminal("one")) == "COMPLETED/STEP_LIMIT"
        assert on.offered() == []


@pytest.mark.asyncio
async def test_a_tool_ends_the_turn_and_the_calls_behind_it_are_skipped(tmp_path: Path) -> None:
    tools = Tools()

    async def end() -> EndTurn:
        tools.ran.append("end")
        return EndTurn("good night")

    tools.add("end", end)
    tools.quick("never")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script({**calls("end", "never"), "text": "I stop"}, "never said"), "r")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/TOOL_ENDED", "I stop", 1)
        assert tools.ran == ["end"]
        results = await on.results()
        assert result_text(results["id-end"]) == "good night"
        assert result_text(results["id-never"]) == "skipped: an earlier result ended the turn"
        await on.server.submit("s", "next", "next")
        assert (await on.watch.terminal("next")).text == "next"


@pytest.mark.asyncio
async def test_the_tools_of_a_session_change_at_the_next_step(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("look")
    tools.quick("other")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("look"), calls("look"), "done"), "r")
        await tools.gates.reached("look")
        request = session_service_pb2.UpdateSessionRequest(session_id="s")
        request.settings.tools.append("other")
        request.update_mask.paths.append("tools")
        await on.server.sessions.UpdateSession(request)
        tools.gates.open("look")
        assert (await on.watch.terminal("r")).text == "done"
        assert [on.offered(index) for index in range(3)] == [["look", "other"], ["other"], ["other"]]
        assert tools.ran == ["look"]
        assert on.told()[-1] == "look: there is no tool 'look'"


@pytest.mark.asyncio
async def test_a_session_without_tools_offers_none(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look")
    async with scene(tmp_path, tools, session={"is_tool_free": True}) as on:
        await on.server.submit("s", "hello", "r")
        await on.watch.terminal("r")
        assert on.offered() == []


@pytest.mark.asyncio
async def test_a_call_where_no_tools_are_offered_is_answered_and_the_model_asked_once_more(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.server.submit("s", script(calls("look"), "done without"), "r")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/ANSWERED", "done without", 2)
        assert on.offered() == []
        assert on.told()[-1] == "look: there is no tool 'look'"
        assert (await on.results())["id-look"].is_error
        # One that insists is a loop, and a last step stays the last one.
        await on.server.submit("s", script(*[calls("look")] * 9), "loop")
        assert reason_of(await on.watch.terminal("loop")) == "FAILED/TOOL_LOOP"
        await on.server.submit("s", script({**calls("look"), "text": "so far"}, "never"), "last", max_steps=1)
        outcome = await on.watch.terminal("last")
        assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/STEP_LIMIT", "so far", 1)
        await on.idle()


@pytest.mark.asyncio
async def test_a_turn_holds_say_what_it_waits_for(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("look")
    tools.quick("ask", needs_approval=True)
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("look", "ask"), {"text": "x", "gate": "g"}), "r")
        await tools.gates.reached("look")
        assert [hold.label for hold in (await on.server.run_view("r")).holds] == ["turn", "tool look"]
        tools.gates.open("look")
        asked = (await on.watch.seen("r", "approval_requested")).approval_requested
        assert [hold.label for hold in (await on.server.run_view("r")).holds] == ["turn", "approval of ask"]
        answer = session_service_pb2.AnswerApprovalRequest(
            session_id="s", approval_id=asked.approval_id, is_allowed=True
        )
        await on.server.sessions.AnswerApproval(answer)
        await at_gate(on.server, "g")
        assert [hold.label for hold in (await on.server.run_view("r")).holds] == ["turn", "model"]
        on.server.gates.open("g")
        await on.watch.terminal("r")


@pytest.mark.asyncio
async def test_calls_of_several_steps_may_have_the_same_id(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look")
    async with scene(tmp_path, tools) as on:
        # The adapter mints ids where the provider sends none; they are unique in their message only.
        step = {"tool_calls": [call("look")]}
        await on.server.submit("s", script(step, step, "done"), "r")
        assert (await on.watch.terminal("r")).text == "done"
        assert tools.ran == ["look", "look"]
        ids = [
            part.tool_call.tool_call_id
            for message in await on.server.messages("s")
            for part in message.parts
            if part.HasField("tool_call")
        ]
        assert ids == ["call_0", "call_0"]


@pytest.mark.asyncio
async def test_the_kill_of_a_batch_between_two_calls_runs_only_the_second(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("first")
    tools.quick("second", needs_approval=True)
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("first", "second"), "done"), "r", pre_approved_tools=["nothing"])
        await on.watch.seen("r", "approval_requested")
    assert tools.ran == ["first"]
    async with serving(tmp_path, tools=tools.offered) as server:
        asked = next(event for event in await server.history("s") if event.HasField("approval_requested"))
        await server.sessions.AnswerApproval(
            session_service_pb2.AnswerApprovalRequest(
                session_id="s", approval_id=asked.approval_requested.approval_id, is_allowed=True
            )
        )
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/ANSWERED", "done", 2)
        assert tools.ran == ["first", "second"]
        assert provider(server).num_calls == 1
        tool = next(one for one in await server.messages("s") if one.role == content_pb2.ROLE_TOOL)
        assert [result_text(part.tool_result) for part in tool.parts] == ["first is done", "second is done"]
        assert text_of((await server.messages("s"))[-1]) == "done"


@pytest.mark.asyncio
async def test_results_that_are_together_too_long_for_a_message_are_left_out(tmp_path: Path) -> None:
    tools = Tools()
    tools.add("t", lambda: "x" * 1_000_000)
    many = {"tool_calls": [call("t", f"id{number}") for number in range(18)]}
    async with serving(tmp_path, tools=tools.offered) as server:
        await server.session("s")
        options = [("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(server.server.grpc_address, options=options) as channel:
            told = run_service_pb2.RunRequest(submission=submission("s", script(many, "done"), "r"))
            # Every event can be sent, the one that holds all results too.
            events = [one.item.event async for one in FlatRuns(channel).Run(told) if one.item.HasField("event")]
    assert events[-1].run_finished.outcome.text == "done"
    (message,) = [
        event.message_committed.message
        for event in events
        if event.message_committed.message.role == content_pb2.ROLE_TOOL
    ]
    results = [part.tool_result for part in message.parts]
    assert [result.is_error for result in results] == [False] * 10 + [True] * 8
    assert "together too long" in result_text(results[-1])

"""Steering: prompts that join a turn that is running, at its fold points (U-20 to U-22)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.service.dispatch.script import at_gate, provider, reply
from tests.service.dispatch.stage import in_line, open_run
from tests.service.failure.stories import kinds, reason_of
from tests.service.harness import load_settings, reason, serving
from tests.service.turns.scenes import STEER, Scene, Tools, calls, scene, script, texts
from turnkeeper.v1 import content_pb2, event_pb2, session_service_pb2
from turnkeeper_service.settings.layers import SettingsError
from turnkeeper_service.tools.functions import EndTurn

FOLDED = event_pb2.OUTCOME_STATUS_FOLDED
ASSISTANT = content_pb2.ROLE_ASSISTANT
UNSET = session_service_pb2.STEERING_MODE_UNSPECIFIED
ALL = session_service_pb2.STEERING_MODE_ALL
ONE = session_service_pb2.STEERING_MODE_ONE


@pytest.mark.spec("subturns:T61")
@pytest.mark.asyncio
async def test_all_steers_are_folded_at_once_and_in_order_after_the_answer(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.server.submit("s", reply("first answer", gate="g", gate_after=1), "r")
        await at_gate(on.server, "g")
        for number in (1, 2, 3):
            receipt = await on.server.submit("s", f"m{number}", f"s{number}", delivery=STEER)
            assert receipt.steers_run_id == "r"
        on.server.gates.open("g")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/ANSWERED", "m3", 2)
        assert len(on.requests) == 2
        assert on.told()[1:] == ["first answer", "m1", "m2", "m3"]
        assert [run_id for run_id in on.watch.terminals() if run_id != "r"] == ["s1", "s2", "s3"]
        assert texts(await on.server.messages("s"), ASSISTANT) == ["first answer", "m3"]


async def read_mode(on: Scene) -> session_service_pb2.SteeringMode.ValueType:
    """The session's steering mode."""
    found: session_service_pb2.GetSessionResponse = await on.server.sessions.GetSession(
        session_service_pb2.GetSessionRequest(session_id="s")
    )
    return found.session.settings.steering_mode


async def set_mode(on: Scene, mode: session_service_pb2.SteeringMode.ValueType) -> None:
    """Change the session's steering mode."""
    request = session_service_pb2.UpdateSessionRequest(
        session_id="s", settings=session_service_pb2.SessionSettings(steering_mode=mode)
    )
    request.update_mask.paths.append("steering_mode")
    await on.server.sessions.UpdateSession(request)


async def steered(on: Scene, count: int) -> None:
    """The run ``r``, whose model is held at the gate ``g``, and so many steers ``m1``, ``m2`` ... bound to it."""
    await on.server.submit("s", reply("first answer", gate="g", gate_after=1), "r")
    await at_gate(on.server, "g")
    for number in range(1, count + 1):
        await on.server.submit("s", f"m{number}", f"s{number}", delivery=STEER)


@pytest.mark.spec("subturns:T60")
@pytest.mark.asyncio
async def test_one_steer_at_a_time_is_a_step_each(tmp_path: Path) -> None:
    async with scene(tmp_path, session={"steering_mode": ONE}) as on:
        await steered(on, 3)
        on.server.gates.open("g")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/ANSWERED", "m3", 4)
        said = ["first answer", "m1", "m1", "m2", "m2", "m3"]
        assert [on.told(index)[1:] for index in (1, 2, 3)] == [said[:2], said[:4], said]
        folds = [on.watch.terminals()[f"s{number}"].fold for number in (1, 2, 3)]
        assert [(fold.into_run_id, fold.step) for fold in folds] == [("r", 2), ("r", 3), ("r", 4)]
        assert list(on.watch.terminals()) == ["s1", "s2", "s3", "r"]
        assert texts(await on.server.messages("s"), ASSISTANT) == ["first answer", "m1", "m2", "m3"]


@pytest.mark.asyncio
async def test_one_steer_at_a_time_skips_the_batch_that_each_interrupts(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("slow")
    tools.quick("second")
    async with scene(tmp_path, tools, session={"steering_mode": ONE}) as on:
        await on.server.submit("s", script(calls("slow", "second"), "never said"), "r")
        await tools.gates.reached("slow")
        for number in (1, 2):
            await on.server.submit("s", f"m{number}", f"s{number}", delivery=STEER)
        tools.gates.open("slow")
        assert (await on.watch.terminal("r")).text == "m2"
        assert tools.ran == ["slow"]
        assert on.told(1)[2:] == ["slow: slow is done | second: skipped: a message of the user came first", "m1"]
        assert on.told(2)[4:] == ["m1", "m2"]


@pytest.mark.asyncio
async def test_steers_one_at_a_time_beyond_the_bound_of_steps_have_their_own_turns(tmp_path: Path) -> None:
    async with scene(tmp_path, session={"steering_mode": ONE, "max_steps": 1}, limits__max_steered_steps="2") as on:
        await steered(on, 3)
        on.server.gates.open("g")
        assert (await on.watch.terminal("r")).num_steps == 3
        assert (await on.watch.terminal("s3")).text == "m3"
        folded = [run_id for run_id, outcome in on.watch.terminals().items() if outcome.status == FOLDED]
        assert folded == ["s1", "s2"]


@pytest.mark.spec("subturns:T63", "subturns:T68")
@pytest.mark.parametrize(("before", "after"), [("ONE", "ALL"), ("ALL", "ONE")])
@pytest.mark.asyncio
async def test_a_change_of_the_mode_can_be_read_and_counts_from_the_next_fold_point(
    tmp_path: Path, before: str, after: str
) -> None:
    mode = session_service_pb2.SteeringMode
    values = mode.Value(f"STEERING_MODE_{before}"), mode.Value(f"STEERING_MODE_{after}")
    async with scene(tmp_path, session={"steering_mode": values[0]}) as on:
        await steered(on, 2)
        assert await read_mode(on) == values[0]
        await set_mode(on, values[1])
        assert await read_mode(on) == values[1]
        on.server.gates.open("g")
        outcome = await on.watch.terminal("r")
        assert outcome.num_steps == (2 if after == "ALL" else 3)
        assert on.told(1)[1:] == ["first answer", "m1", "m2"][: 3 if after == "ALL" else 2]


@pytest.mark.spec("subturns:T66", "subturns:T68", "subturns:T69")
@pytest.mark.parametrize(
    ("setting", "of_session", "num_steps"),
    [
        pytest.param({}, UNSET, 2, id="unset is all"),
        pytest.param({"defaults__steering_mode": "one"}, UNSET, 3, id="the server's default"),
        pytest.param({"defaults__steering_mode": "all"}, UNSET, 2, id="said in the settings"),
        pytest.param({"defaults__steering_mode": "one"}, ALL, 2, id="the session's own"),
    ],
)
@pytest.mark.asyncio
async def test_the_mode_comes_from_the_session_or_the_settings(
    tmp_path: Path,
    setting: dict[str, Any],
    of_session: session_service_pb2.SteeringMode.ValueType,
    num_steps: int,
) -> None:
    async with scene(tmp_path, session={"steering_mode": of_session}, **setting) as on:
        await steered(on, 2)
        assert await read_mode(on) == of_session
        on.server.gates.open("g")
        assert (await on.watch.terminal("r")).num_steps == num_steps


@pytest.mark.spec("subturns:T66")
@pytest.mark.asyncio
async def test_a_mode_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="steering_mode"):
        load_settings(tmp_path, defaults__steering_mode="one-at-a-time")
    async with serving(tmp_path) as server:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.session("s", steering_mode=7)
        assert (refused.value.code(), reason(refused.value)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


@pytest.mark.spec("subturns:T62")
@pytest.mark.asyncio
async def test_a_fold_point_without_steers_gives_nothing(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("look")
    tools.quick("again")
    async with scene(tmp_path, tools) as on:
        # Four fold points: before each step, and after the last; a steer is there at the second alone.
        await on.server.submit("s", script(calls("look"), "never said"), "r")
        await tools.gates.reached("look")
        await on.server.submit("s", script(calls("again"), "done"), "steer", delivery=STEER)
        tools.gates.open("look")
        outcome = await on.watch.terminal("r")
        assert (outcome.text, outcome.num_steps) == ("done", 3)
        assert on.told(2) == [*on.told(1), "call again", "again: again is done"]
        assert on.watch.of("r").count("message_committed") == 7
        assert await on.watch.quiet() == {"steer": on.watch.terminals()["steer"], "r": outcome}


@pytest.mark.spec("subturns:T64")
@pytest.mark.asyncio
async def test_steers_that_come_while_steps_begin_are_neither_lost_nor_doubled(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look")
    names = [f"m{number}" for number in range(10)]
    async with scene(tmp_path, tools, limits__max_steered_steps="100") as on:
        await on.server.submit("s", reply("go", gate="g"), "r")
        await at_gate(on.server, "g")

        async def steer(name: str) -> None:
            await on.server.submit("s", name, name, delivery=STEER)

        # Half of them while the model's stream stands, half while the turn takes steps as fast as it can.
        await asyncio.gather(*map(steer, names[:5]))
        on.server.gates.open("g")
        await asyncio.gather(*map(steer, names[5:]))
        for run_id in ["r", *names]:
            await on.watch.terminal(run_id)
        found = await on.watch.quiet()
        assert found.keys() == {"r", *names}
        # Each was folded, or came after the end and had its own run; either way it is said once.
        assert all(found[name].status == FOLDED for name in names[:5])
        assert all(found[name].status == FOLDED or found[name].text in names for name in names[5:])
        said = texts(await on.server.messages("s"), content_pb2.ROLE_USER)
        assert [said.count(name) for name in names] == [1] * 10


@pytest.mark.spec("subturns:T65")
@pytest.mark.asyncio
async def test_a_steer_beyond_the_bound_of_the_line_is_refused(tmp_path: Path) -> None:
    async with scene(tmp_path, limits__max_queued_runs_per_session="10") as on:
        await on.server.submit("s", reply("go", gate="g"), "r")
        await at_gate(on.server, "g")
        names = [f"m{number}" for number in range(10)]
        for name in names:
            await on.server.submit("s", name, name, delivery=STEER)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await on.server.submit("s", "one too many", "eleven", delivery=STEER)
        assert (refused.value.code(), reason(refused.value)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert in_line(on.server) == names
        on.server.gates.open("g")
        await on.watch.terminal("r")
        assert on.told()[2:] == names
        assert "eleven" not in await on.watch.quiet()


@pytest.mark.spec("subturns:T67")
@pytest.mark.asyncio
async def test_a_steer_to_an_idle_session_is_a_run_in_line(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.server.places.hold("turn", "steer")
        receipt = await on.server.submit("s", "all alone", "steer", delivery=STEER)
        assert (receipt.steers_run_id, receipt.position) == ("", 0)
        await on.server.places.reached("turn", "steer")
        assert open_run(on.server) == "steer"
        on.server.places.release("turn", "steer")
        assert reason_of(await on.watch.terminal("steer")) == "COMPLETED/ANSWERED"
        assert on.told() == ["all alone"]
        assert texts(await on.server.messages("s"), content_pb2.ROLE_USER) == ["all alone"]


@pytest.mark.spec("subturns:T70", "subturns:T71")
@pytest.mark.asyncio
async def test_an_idle_session_asks_its_model_nothing_until_a_run_is_in_line(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.server.submit("s", "one", "r1")
        await on.watch.terminal("r1")
        # Something happens in it, but nothing is in line.
        await on.server.cancel("s")
        await on.idle()
        assert len(on.requests) == 1
        on.server.places.hold("dispatch", "r2")
        await on.server.submit("s", "two", "r2")
        await on.server.places.reached("dispatch", "r2")
        assert len(on.requests) == 1
        on.server.places.release("dispatch", "r2")
        assert (await on.watch.terminal("r2")).text == "two"
        assert len(on.requests) == 2


@pytest.mark.spec("subturns:T72", "subturns:T83", "subturns:T111")
@pytest.mark.asyncio
async def test_a_steer_during_the_first_tool_skips_the_rest_with_results(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("slow")
    tools.quick("second", "third")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("slow", "second", "third"), "never said"), "r")
        await tools.gates.reached("slow")
        await on.server.submit("s", "look here", "steer", delivery=STEER)
        tools.gates.open("slow")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text) == ("COMPLETED/ANSWERED", "look here")
        assert tools.ran == ["slow"]
        assert len(on.requests) == 2
        skipped = "skipped: a message of the user came first"
        assert on.told()[2:] == [
            f"slow: slow is done | second: {skipped} | third: {skipped}",
            "look here",
        ]
        results = await on.results()
        assert [(one.is_error, one.is_synthetic) for one in results.values()] == [
            (False, False),
            (True, True),
            (True, True),
        ]
        skips = [event for event in on.watch.events if event.HasField("tool_call_skipped")]
        assert [event.tool_call_skipped.result.name for event in skips] == ["second", "third"]
        # The fold is told twice over: by the steer's terminal, and by its message in the turn that took it.
        fold = on.watch.terminals()["steer"].fold
        assert (fold.into_run_id, fold.turn_id, fold.step) == ("r", skips[0].turn_id, 2)
        message = next(one for one in await on.server.messages("s") if one.message_id == fold.message_id)
        assert (message.run_id, message.parts[0].text.text) == ("steer", "look here")


@pytest.mark.asyncio
async def test_a_steer_that_came_while_the_model_answered_waits_for_the_first_tool(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("first", "second")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script({**calls("first", "second"), "gate": "g"}), "r")
        await at_gate(on.server, "g")
        await on.server.submit("s", "wait", "steer", delivery=STEER)
        on.server.gates.open("g")
        assert (await on.watch.terminal("r")).text == "wait"
        assert tools.ran == ["first"]


@pytest.mark.asyncio
async def test_a_steer_during_the_last_tool_of_a_batch_skips_nothing(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("first")
    tools.held("last")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("first", "last")), "r")
        await tools.gates.reached("last")
        await on.server.submit("s", "and then", "steer", delivery=STEER)
        tools.gates.open("last")
        assert (await on.watch.terminal("r")).text == "and then"
        assert on.told()[2:] == ["first: first is done | last: last is done", "and then"]


@pytest.mark.asyncio
async def test_a_steer_lets_parallel_calls_that_began_end_and_skips_the_rest(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("a", "b", is_parallel=True)
    tools.quick("c")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("a", "b", "c")), "r")
        await tools.gates.reached("a")
        await tools.gates.reached("b")
        await on.server.submit("s", "stop that", "steer", delivery=STEER)
        tools.gates.open("b")
        tools.gates.open("a")
        assert (await on.watch.terminal("r")).text == "stop that"
        assert tools.ran == ["a", "b"]
        assert list(await on.results()) == ["id-a", "id-b", "id-c"]


@pytest.mark.spec("subturns:T73", "subturns:T104")
@pytest.mark.asyncio
async def test_a_steer_in_line_when_the_turn_starts_is_in_its_first_request(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.server.places.hold("turn", "r")
        await on.server.submit("s", "hello", "r")
        await on.server.places.reached("turn", "r")
        await on.server.submit("s", "and this", "steer", delivery=STEER)
        on.server.places.release("turn", "r")
        assert reason_of(await on.watch.terminal("r")) == "COMPLETED/ANSWERED"
        assert [on.told(0), len(on.requests)] == [["hello", "and this"], 1]
        assert on.watch.terminals()["steer"].fold.step == 1


@pytest.mark.spec("subturns:T74", "subturns:T77")
@pytest.mark.asyncio
async def test_a_steer_while_the_answer_streams_does_not_take_it_back(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.server.submit("s", reply("half of it", gate="g", gate_after=1), "r")
        await at_gate(on.server, "g")
        await on.server.submit("s", "late", "steer", delivery=STEER)
        on.server.gates.open("g")
        outcome = await on.watch.terminal("r")
        assert (outcome.text, outcome.num_steps) == ("late", 2)
        answers = [one for one in await on.server.messages("s") if one.role == ASSISTANT]
        assert [one.status for one in answers] == [content_pb2.MESSAGE_STATUS_COMPLETE] * 2
        assert texts(answers, ASSISTANT) == ["half of it", "late"]
        assert on.told()[1:] == ["half of it", "late"]
        assert in_line(on.server) == []
        await on.idle()


@pytest.mark.asyncio
async def test_a_steer_after_a_tool_that_ends_the_turn_is_followed_by_a_step(tmp_path: Path) -> None:
    tools = Tools()

    async def end() -> EndTurn:
        tools.ran.append("end")
        await tools.gates.wait("end")
        return EndTurn("the end")

    tools.add("end", end)
    tools.quick("never")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("end", "never")), "r")
        await tools.gates.reached("end")
        await on.server.submit("s", "not yet", "steer", delivery=STEER)
        tools.gates.open("end")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text) == ("COMPLETED/ANSWERED", "not yet")
        assert tools.ran == ["end"]


@pytest.mark.asyncio
async def test_a_pending_approval_is_not_skipped_by_a_steer(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("ask", needs_approval=True)
    tools.quick("second")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("ask", "second")), "r")
        asked = (await on.watch.seen("r", "approval_requested")).approval_requested
        await on.server.submit("s", "meanwhile", "steer", delivery=STEER)
        answer = session_service_pb2.AnswerApprovalRequest(
            session_id="s", approval_id=asked.approval_id, is_allowed=True
        )
        await on.server.sessions.AnswerApproval(answer)
        assert (await on.watch.terminal("r")).text == "meanwhile"
        assert tools.ran == ["ask"]


@pytest.mark.asyncio
async def test_steered_steps_beyond_the_step_limit_are_bounded(tmp_path: Path) -> None:
    async with scene(tmp_path, session={"max_steps": 1}, limits__max_steered_steps="2") as on:
        await on.server.submit("s", reply("one", gate="g1"), "r")
        for number in (1, 2, 3):
            await at_gate(on.server, f"g{number}")
            text = reply("more", gate=f"g{number + 1}") if number < 3 else "own run"
            await on.server.submit("s", text, f"s{number}", delivery=STEER)
            on.server.gates.open(f"g{number}")
        assert (await on.watch.terminal("r")).num_steps == 3
        # The third came when no step was left: it is a run of its own, at its own place.
        assert reason_of(await on.watch.terminal("s3")).startswith("COMPLETED/")
        assert [on.watch.terminals()[one].status == FOLDED for one in ("s1", "s2", "s3")] == [True, True, False]


@pytest.mark.asyncio
async def test_a_steer_that_is_folded_after_a_restart_is_in_one_request_only(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("slow")
    tools.quick("second")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("slow", "second"), "never said"), "r")
        await tools.gates.reached("slow")
        await on.server.submit("s", "look here", "steer", delivery=STEER)
    tools = Tools()
    tools.quick("slow", "second")
    async with serving(tmp_path, gates=tools.gates, tools=tools.offered) as server:
        outcomes = await server.terminals("s", ["r", "steer"])
        assert (outcomes["steer"].status, outcomes["r"].text) == (FOLDED, "look here")
        # The first call was lost in flight, which is its result; the second had not begun, and the steer comes first.
        assert tools.ran == []
        assert provider(server).num_calls == 1
        said = texts(await server.messages("s"), content_pb2.ROLE_USER)
        assert said.count("look here") == 1
        assert kinds(await server.history("s"), "r").count("tool_call_skipped") == 1

"""Parked turns (U-3): they keep the floor, give their permit back, and go on ahead of turns that have not begun."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import duration_pb2

from tests.service.dispatch.script import at_gate, reply
from tests.service.dispatch.stage import in_line, open_run
from tests.service.dispatch.watch import watching
from tests.service.failure.stories import finished, kinds, reason_of, started_order
from tests.service.failure.test_drain import begin
from tests.service.harness import Harness
from tests.service.manual_clock import ManualClock
from tests.service.tools.holders import Client, Worker, tool
from tests.service.turns.scenes import STOP, Scene, Tools, calls, scene, script
from turnkeeper.v1 import event_pb2, run_service_pb2, session_service_pb2

AWAITING = run_service_pb2.RUN_STATE_AWAITING
WAITING = run_service_pb2.RUN_STATE_WAITING
RUNNING = run_service_pb2.RUN_STATE_RUNNING
REPLACE = event_pb2.DELIVERY_REPLACE
ONE_PERMIT: dict[str, Any] = {"limits__max_running_turns": "1"}


def asking(*names: str) -> Tools:
    """Tools that ask first."""
    tools = Tools()
    tools.quick(*names, needs_approval=True)
    return tools


async def allow(server: Harness, approval_id: str, *, is_allowed: bool = True) -> None:
    """Answer an approval of the session ``s``."""
    request = session_service_pb2.AnswerApprovalRequest(session_id="s", approval_id=approval_id, is_allowed=is_allowed)
    await server.sessions.AnswerApproval(request)


async def asked(on: Scene, run_id: str = "r") -> str:
    """Wait for a run's first approval; its id."""
    return (await on.watch.seen(run_id, "approval_requested")).approval_requested.approval_id


async def standing(server: Harness, run_id: str = "r") -> tuple[int, list[str]]:
    """A run's state, and what holds it."""
    view = await server.run_view(run_id)
    return view.state, [hold.label for hold in view.holds]


async def together(on: Scene, first: str, second: str, run_id: str = "r") -> tuple[event_pb2.Event, event_pb2.Event]:
    """Two events that were committed as one: numbered one after the other, at the same microsecond."""
    events = [await on.watch.seen(run_id, first), await on.watch.seen(run_id, second)]
    assert events[1].seq == events[0].seq + 1
    assert events[1].time == events[0].time
    return events[0], events[1]


@asynccontextmanager
async def busy(on: Scene, session_id: str = "busy") -> AsyncIterator[None]:
    """A run of another session that has a permit for the length of the block, and its terminal at the end."""
    await on.server.session(session_id)
    await on.server.submit(session_id, reply("was busy", gate=session_id), session_id)
    await at_gate(on.server, session_id)
    yield
    on.server.gates.open(session_id)
    assert (await on.server.terminals(session_id, [session_id]))[session_id].text == "was busy"


@pytest.mark.asyncio
async def test_a_session_that_waits_for_an_approval_lets_another_run(tmp_path: Path) -> None:
    tools = asking("remove")
    async with scene(tmp_path, tools, **ONE_PERMIT) as on:
        await on.server.submit("s", script(calls("remove"), "done"), "r")
        _, awaiting = await together(on, "approval_requested", "run_awaiting")
        assert list(awaiting.run_awaiting.labels) == ["approval of remove"]
        assert await standing(on.server) == (AWAITING, ["turn", "approval of remove"])
        await on.server.session("other")
        await on.server.submit("other", "hello", "other")
        assert (await on.server.terminals("other", ["other"]))["other"].text == "hello"
        await allow(on.server, await asked(on))
        _, resumed = await together(on, "approval_resolved", "run_resumed")
        assert resumed.run_resumed.cause == "approval of remove"
        assert (await on.watch.terminal("r")).text == "done"
        assert (tools.ran, on.watch.of("r").count("run_awaiting")) == (["remove"], 1)
        assert {event.turn_id for event in on.watch.events if event.run_id == "r"} == {"", awaiting.turn_id}
        assert on.server.server.runs.stats().parked_turns == 0


def gauges(server: Harness) -> dict[str, int]:
    """How many turns run, and how many runs wait for a permit or in line."""
    with urllib.request.urlopen(f"http://{server.server.http_address}/metrics") as response:
        text = response.read().decode()
    found = re.findall(r"^turnkeeper_(active_turns|queue_depth) (\d+)", text, re.MULTILINE)
    return {name: int(value) for name, value in found}


@pytest.mark.asyncio
async def test_the_metrics_count_no_parked_turn(tmp_path: Path) -> None:
    async with scene(tmp_path, asking("remove"), **ONE_PERMIT) as on:
        await on.server.submit("s", script(calls("remove"), "done"), "r")
        approval_id = await asked(on)
        assert await asyncio.to_thread(gauges, on.server) == {"active_turns": 0, "queue_depth": 0}
        async with busy(on):
            await allow(on.server, approval_id)
            assert await asyncio.to_thread(gauges, on.server) == {"active_turns": 1, "queue_depth": 1}
        await on.watch.terminal("r")
        assert await asyncio.to_thread(gauges, on.server) == {"active_turns": 0, "queue_depth": 0}


@pytest.mark.asyncio
async def test_a_parked_turn_keeps_the_floor_of_its_session(tmp_path: Path) -> None:
    async with scene(tmp_path, asking("remove")) as on:
        await on.server.submit("s", script(calls("remove"), "done"), "r")
        approval_id = await asked(on)
        receipt = await on.server.submit("s", "behind", "behind")
        assert receipt.position == 1
        assert (open_run(on.server), in_line(on.server)) == ("r", ["behind"])
        await allow(on.server, approval_id)
        assert (await on.watch.terminal("behind")).text == "behind"
        assert list(on.watch.terminals()) == ["r", "behind"]
        assert len(on.requests) == 3


@pytest.mark.asyncio
async def test_a_woken_turn_goes_on_before_one_that_has_not_begun(tmp_path: Path) -> None:
    tools = asking("remove")
    async with scene(tmp_path, tools, **ONE_PERMIT) as on:
        await on.server.submit("s", script(calls("remove"), "done"), "r")
        approval_id = await asked(on)
        async with busy(on):
            await on.server.session("new")
            await on.server.submit("new", "new", "new")
            assert await standing(on.server, "new") == (WAITING, ["permit"])
            await allow(on.server, approval_id)
            await on.watch.seen("r", "run_resumed")
            # Its tool runs in the server: not before it has its permit again.
            assert await standing(on.server) == (WAITING, ["turn", "permit"])
            assert tools.ran == []
        await on.server.terminals("new", ["new"])
        assert (await on.watch.terminal("r")).text == "done"
        assert [on.told(index)[-1] for index in (2, 3)] == ["remove: remove is done", "new"]


@pytest.mark.parametrize("is_worker", [False, True])
@pytest.mark.asyncio
async def test_a_call_of_a_tool_that_runs_elsewhere_parks_its_turn(tmp_path: Path, is_worker: bool) -> None:
    async with scene(tmp_path, **ONE_PERMIT) as on:
        holder: Any = await (Worker if is_worker else Client).serve(on.server, "look")
        await on.server.submit("s", script(calls("look"), "done"), "r")
        invocation = await holder.invoked()
        _, awaiting = await together(on, "tool_call_started", "run_awaiting")
        assert list(awaiting.run_awaiting.labels) == ["tool look"]
        async with busy(on):
            await holder.answer(invocation, "seen")
            _, resumed = await together(on, "tool_call_finished", "run_resumed")
            assert resumed.run_resumed.cause == "tool look"
            assert await standing(on.server) == (WAITING, ["turn", "permit"])
        assert (await on.watch.terminal("r")).text == "done"
        assert on.told()[-1] == "look: seen"


@pytest.mark.asyncio
async def test_a_batch_is_parked_only_while_none_of_its_calls_runs_in_the_server(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("slow", is_parallel=True)
    tools.quick("remove", is_parallel=True, needs_approval=True)
    async with scene(tmp_path, tools, **ONE_PERMIT) as on:
        client = await Client.serve(on.server, tool("look", is_parallel=True))
        await on.server.submit("s", script(calls("look", "slow", "remove"), "done"), "r")
        invocation, approval_id = await client.invoked(), await asked(on)
        await tools.gates.reached("slow")
        assert (await standing(on.server))[0] == RUNNING
        tools.gates.open("slow")
        awaiting = await on.watch.seen("r", "run_awaiting")
        assert list(awaiting.run_awaiting.labels) == ["tool look", "approval of remove"]
        before = next(event for event in on.watch.events if event.seq == awaiting.seq - 1)
        assert before.tool_call_finished.result.name == "slow"
        state, holds = await standing(on.server)
        assert (state, sorted(holds)) == (AWAITING, ["approval of remove", "tool look", "turn"])
        # One of two has come: the other is still waited for.
        await client.answer(invocation, "seen")
        assert await standing(on.server) == (AWAITING, ["turn", "approval of remove"])
        await allow(on.server, approval_id)
        assert (await on.watch.terminal("r")).text == "done"
        assert on.told()[-1] == "look: seen | slow: slow is done | remove: remove is done"
        assert [on.watch.of("r").count(kind) for kind in ("run_awaiting", "run_resumed")] == [1, 1]


@pytest.mark.asyncio
async def test_an_allowed_call_of_a_client_parks_its_turn_again(tmp_path: Path) -> None:
    async with scene(tmp_path, **ONE_PERMIT) as on:
        client = await Client.serve(on.server, tool("look", needs_approval=True), "again")
        await on.server.submit("s", script(calls("look", "again"), "done"), "r")
        approval_id = await asked(on)
        async with busy(on):
            # What begins a new wait has to have come back from the one before.
            await allow(on.server, approval_id)
            assert await standing(on.server) == (WAITING, ["turn", "permit"])
        first = await client.invoked()
        async with busy(on):
            assert await standing(on.server) == (AWAITING, ["turn", "tool look"])
        await client.answer(first, "seen")
        await client.answer(await client.invoked(), "seen again")
        assert (await on.watch.terminal("r")).text == "done"
        told = [kind for kind in on.watch.of("r") if kind in ("run_awaiting", "run_resumed")]
        assert told == ["run_awaiting", "run_resumed"] * 3


async def parked(on: Scene, *, is_woken: bool, **fields: Any) -> None:
    """The run ``r``, which waits for an approval, or is allowed to go on and has no permit; others have them all."""
    await on.server.submit("s", script(calls("remove"), "done"), "r", **fields)
    approval_id = await asked(on)
    await on.server.session("busy")
    await on.server.submit("busy", reply("was busy", gate="busy"), "busy")
    await at_gate(on.server, "busy")
    if is_woken:
        await allow(on.server, approval_id)
        await on.watch.seen("r", "run_resumed")
    assert (await standing(on.server))[0] == (WAITING if is_woken else AWAITING)


@pytest.mark.parametrize("is_woken", [False, True])
@pytest.mark.parametrize("how", ["run", "session", "replace", "deadline"])
@pytest.mark.asyncio
async def test_a_turn_without_a_permit_is_cut_at_once(tmp_path: Path, how: str, is_woken: bool) -> None:
    clock, tools = ManualClock(), asking("remove")
    async with scene(tmp_path, tools, clock=clock, **ONE_PERMIT) as on:
        await parked(on, is_woken=is_woken, run_timeout=duration_pb2.Duration(seconds=60))
        if how == "run":
            await on.server.cancel(run_id="r", wait=True)
        elif how == "session":
            await on.server.cancel("s", wait=True)
        elif how == "replace":
            receipt = await on.server.submit("s", "instead", "new", delivery=REPLACE)
            assert list(receipt.replaced_run_ids) == ["r"]
        else:
            clock.advance(60)
        outcome = await on.watch.terminal("r")
        expected = {"replace": "CANCELLED/REPLACED", "deadline": "FAILED/RUN_DEADLINE"}
        assert reason_of(outcome) == expected.get(how, "CANCELLED/USER")
        assert (tools.ran, on.server.gates.num_waiting("busy")) == ([], 1)
        stats = on.server.server.runs.stats()
        assert (stats.running_turns, stats.parked_turns, stats.waiting_turns) == (1, 0, int(how == "replace"))
        on.server.gates.open("busy")
        if how == "replace":
            assert (await on.watch.terminal("new")).text == "instead"
        assert len(await on.results()) == 1
        # Nothing is left of it: what comes next runs as ever.
        assert list(await on.watch.quiet()) == ["r", "new"][: 1 + (how == "replace")]


@pytest.mark.parametrize("is_woken", [False, True])
@pytest.mark.asyncio
async def test_a_stop_of_a_turn_without_a_permit_becomes_an_abort(tmp_path: Path, is_woken: bool) -> None:
    clock, tools = ManualClock(), asking("remove")
    async with scene(tmp_path, tools, clock=clock, **ONE_PERMIT) as on:
        await parked(on, is_woken=is_woken)
        await on.server.cancel(run_id="r", mode=STOP)
        await clock.armed(30.0)
        clock.advance(30)
        assert reason_of(await on.watch.terminal("r")) == "CANCELLED/USER"
        on.server.gates.open("busy")
        assert list(await on.watch.quiet()) == ["r"]


@pytest.mark.asyncio
async def test_a_stopped_turn_that_was_parked_takes_its_last_step(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        client = await Client.serve(on.server, "look", "again")
        await on.server.submit("s", script(calls("look", "again"), "so far"), "r")
        invocation = await client.invoked()
        await on.server.cancel(run_id="r", mode=STOP)
        assert (await standing(on.server))[1] == ["turn", "tool look", "cancelling"]
        await client.answer(invocation, "seen")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text) == ("COMPLETED/STOPPED", "so far")
        assert on.told()[-1] == "look: seen | again: skipped: the run was asked to stop"


@pytest.mark.asyncio
async def test_a_drain_does_not_wait_for_parked_turns_and_the_next_process_has_them(tmp_path: Path) -> None:
    tools = asking("remove")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("remove"), "done"), "r")
        approval_id = await asked(on)
        await on.server.server.drain(30.0)
        assert finished(await on.server.history("s")) == {}
    async with scene(tmp_path, tools, is_new=False, **ONE_PERMIT) as on:
        await on.server.session("other")
        await on.server.submit("other", "hello", "other")
        await on.server.terminals("other", ["other"])
        assert await standing(on.server) == (AWAITING, ["turn", "approval of remove"])
        await allow(on.server, approval_id)
        assert (await on.watch.terminal("r")).text == "done"
        told = kinds(await on.server.history("s"), "r")
        assert [told.count(kind) for kind in ("run_awaiting", "run_resumed", "approval_requested")] == [1, 1, 1]


@pytest.mark.asyncio
async def test_what_comes_while_the_server_drains_is_kept_and_wakes_the_turn_in_the_next(tmp_path: Path) -> None:
    tools = asking("remove")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("remove"), "done"), "r")
        approval_id = await asked(on)
        async with busy(on):
            draining = await begin(on.server)
            await allow(on.server, approval_id)
            await together(on, "approval_resolved", "run_resumed")
            assert not draining.done()
        await draining
        assert (tools.ran, len(on.requests)) == ([], 2)
    async with scene(tmp_path, tools, is_new=False) as on:
        assert (await on.watch.terminal("r")).text == "done"
        assert tools.ran == ["remove"]
        assert started_order(await on.server.history("s")) == ["r"]


@pytest.mark.asyncio
async def test_a_parked_call_keeps_its_deadline_over_a_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    look = tool("look", timeout=duration_pb2.Duration(seconds=100))
    async with scene(tmp_path, clock=clock) as on:
        client = await Client.serve(on.server, look)
        await on.server.submit("s", script(calls("look"), "done"), "r")
        first = await client.invoked()
        clock.advance(40)
    clock.advance(20)
    async with scene(tmp_path, clock=clock, is_new=False) as on:
        client = await Client.serve(on.server, look)
        again = await client.invoked()
        assert (again.attempt, again.deadline) == (2, first.deadline)
        await clock.armed(40.0)
        clock.advance(40)
        assert (await on.watch.terminal("r")).text == "done"
        assert on.told()[-1] == "look: the tool did not answer within 100 seconds"
        told = [kind for kind in on.watch.of("r") if kind in ("run_awaiting", "run_resumed")]
        assert told == ["run_awaiting", "run_resumed"]


@pytest.mark.asyncio
async def test_a_parked_call_whose_deadline_passes_while_no_process_runs_is_not_handed_out_again(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    look = tool("look", timeout=duration_pb2.Duration(seconds=100))
    async with scene(tmp_path, clock=clock) as on:
        client = await Client.serve(on.server, look)
        await on.server.submit("s", script(calls("look"), "done"), "r")
        await client.invoked()
    clock.advance(100)
    async with scene(tmp_path, clock=clock, is_new=False) as on:
        client = await Client.serve(on.server, look)
        assert (await on.watch.terminal("r")).text == "done"
        assert on.told()[-1] == "look: the tool did not answer within 100 seconds"
        assert on.watch.of("r").count("tool_call_started") == 1
        resumed = (await on.watch.seen("r", "run_resumed")).run_resumed
        assert resumed.cause == "recovery"


@pytest.mark.asyncio
async def test_many_sessions_wait_on_one_permit_and_all_end(tmp_path: Path) -> None:
    tools = asking("remove")
    names = [f"n{number}" for number in range(20)]
    async with scene(tmp_path, tools, **ONE_PERMIT) as on:

        async def converse(name: str) -> str:
            await on.server.session(name)
            await on.server.submit(name, script(calls("remove"), f"{name} is done"), name)
            async with watching(on.server, name) as watch:
                wanted = await watch.seen(name, "approval_requested")
                request = session_service_pb2.AnswerApprovalRequest(
                    session_id=name, approval_id=wanted.approval_requested.approval_id, is_allowed=True
                )
                await on.server.sessions.AnswerApproval(request)
                return (await watch.terminal(name)).text

        assert await asyncio.gather(*map(converse, names)) == [f"{name} is done" for name in names]
        stats = on.server.server.runs.stats()
        assert (stats.running_turns, stats.parked_turns, stats.waiting_turns, stats.sessions) == (0, 0, 0, 0)

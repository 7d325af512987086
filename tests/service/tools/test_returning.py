"""Clients and workers of a process that was lost: who gets their calls, and what the next step waits for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.dispatch.script import at_gate
from tests.service.failure.stories import is_valid, kinds, reason_of
from tests.service.harness import Harness
from tests.service.manual_clock import ManualClock
from tests.service.tools.holders import SAFE, Client, Worker, tool
from tests.service.turns.scenes import STOP, Scene, calls, result_text, scene, script

GRACE = 11.0
"""A grace that nothing else waits as long as."""
LOST = "the client that ran 'look' was lost; whether it took effect is unknown"


async def serve(server: Harness, kind: str, name: str, is_safe: bool = False) -> Client | Worker:
    """A client or worker that serves the tool ``look``."""
    look = tool("look", replay_class=SAFE) if is_safe else tool("look")
    if kind == "client":
        return await Client.serve(server, look, name=name, grace=GRACE)
    return await Worker.serve(server, look, name=name, grace=GRACE)


async def lose_a_call(data_dir: Path, kind: str, is_safe: bool = False) -> str:
    """A server that goes away while ``me`` runs a call; the call's key."""
    async with scene(data_dir) as on:
        me = await serve(on.server, kind, "me", is_safe)
        await on.server.submit("s", script(calls("look"), "done"), "r")
        invocation = await me.invoked()
        started = (await on.watch.seen("r", "tool_call_started")).tool_call_started
        assert (started.replay_class == SAFE, started.reconnect_grace.ToSeconds()) == (is_safe, GRACE)
        return invocation.idempotency_key


async def labels(on: Scene) -> list[str]:
    """What holds the run."""
    return [hold.label for hold in (await on.server.run_view("r")).holds]


@pytest.mark.parametrize("kind", ["client", "worker"])
@pytest.mark.asyncio
async def test_a_call_that_must_not_run_twice_goes_back_to_who_had_it(tmp_path: Path, kind: str) -> None:
    key = await lose_a_call(tmp_path, kind)
    clock = ManualClock()
    async with scene(tmp_path, clock=clock, is_new=False) as on:
        await clock.armed(GRACE)
        assert "client me" in await labels(on)
        other = await serve(on.server, kind, "other")
        clock.advance(GRACE - 1)
        me = await serve(on.server, kind, "me")
        again = await me.invoked()
        assert (again.idempotency_key, again.attempt) == (key, 2)
        assert not await me.answer(again, "seen")
        assert (await on.watch.terminal("r")).text == "done"
        assert result_text((await on.results())["id-look"]) == "seen"
        # The first call that the other one gets is one of a later run.
        await me.withdraw()
        await on.server.submit("s", script(calls("look"), "done"), "later")
        assert (await other.invoked()).run_id == "later"


@pytest.mark.parametrize("kind", ["client", "worker"])
@pytest.mark.asyncio
async def test_a_call_that_must_not_run_twice_ends_with_the_grace_of_who_had_it(tmp_path: Path, kind: str) -> None:
    await lose_a_call(tmp_path, kind)
    clock = ManualClock()
    async with scene(tmp_path, clock=clock, is_new=False) as on:
        await clock.armed(GRACE)
        await serve(on.server, kind, "other")
        clock.advance(GRACE - 1)
        assert "tool_call_finished" not in kinds(await on.server.history("s"))
        clock.advance(1)
        assert (await on.watch.terminal("r")).text == "done"
        found = (await on.results())["id-look"]
        assert (result_text(found), found.is_synthetic) == (LOST, True)
        assert is_valid(await on.server.messages("s"))
        # It was not handed out again, so it has not started again.
        assert on.watch.of("r").count("tool_call_started") == 1


@pytest.mark.parametrize("kind", ["client", "worker"])
@pytest.mark.asyncio
async def test_a_call_that_may_run_twice_goes_to_whoever_offers_its_tool(tmp_path: Path, kind: str) -> None:
    key = await lose_a_call(tmp_path, kind, is_safe=True)
    async with scene(tmp_path, is_new=False) as on:
        other = await serve(on.server, kind, "other", is_safe=True)
        again = await other.invoked()
        assert (again.idempotency_key, again.attempt) == (key, 2)
        assert not await other.answer(again, "seen")
        started = [event.tool_call_started for event in await on.server.history("s")]
        assert [one.executor for one in started if one.executor] == ["me", "other"]
        # The step that follows waits for the one that served the last one.
        await serve(on.server, kind, "me", is_safe=True)
        assert (await on.watch.terminal("r")).text == "done"


@pytest.mark.asyncio
async def test_how_often_a_call_was_handed_out_is_counted_over_restarts(tmp_path: Path) -> None:
    await lose_a_call(tmp_path, "client")
    for attempt in (2, 3):
        async with scene(tmp_path, is_new=False) as on:
            me = await Client.serve(on.server, "look", grace=GRACE)
            assert (await me.invoked()).attempt == attempt


@pytest.mark.asyncio
async def test_a_client_that_is_back_without_the_tool_is_waited_for(tmp_path: Path) -> None:
    await lose_a_call(tmp_path, "client")
    clock = ManualClock()
    async with scene(tmp_path, clock=clock, is_new=False) as on:
        await clock.armed(GRACE)
        me = await Client.serve(on.server, "other", grace=GRACE)
        assert "tool_call_finished" not in kinds(await on.server.history("s"))
        await me.offer("other", "look")
        assert not await me.answer(await me.invoked(), "seen")
        assert (await on.watch.terminal("r")).text == "done"


GATED = script({"text": "first", "gate": "g"})


async def lose_a_step(data_dir: Path, *names: str) -> None:
    """A server that goes away while a model that was offered these clients' tools answers."""
    async with scene(data_dir) as on:
        for name in names:
            await Client.serve(on.server, f"tool_of_{name}", name=name, grace=GRACE)
        await on.server.submit("s", GATED, "r")
        await at_gate(on.server, "g")
        started = (await on.watch.seen("r", "step_started")).step_started
        assert [one.name for one in started.tool_holders] == list(names)


@pytest.mark.asyncio
async def test_a_step_after_a_restart_waits_for_those_who_served_its_tools(tmp_path: Path) -> None:
    await lose_a_step(tmp_path, "me", "you")
    clock = ManualClock()
    async with scene(tmp_path, clock=clock, is_new=False) as on:
        await clock.armed(GRACE)
        assert "client me" in await labels(on)
        await Client.serve(on.server, "tool_of_me", name="me")
        await clock.armed(GRACE, 2)
        assert "client you" in await labels(on)
        assert on.requests == []
        await Client.serve(on.server, "tool_of_you", name="you")
        await at_gate(on.server, "g")
        assert on.offered() == ["tool_of_me", "tool_of_you"]
        on.server.gates.open("g")
        assert (await on.watch.terminal("r")).text == "first"


@pytest.mark.asyncio
async def test_a_step_after_a_restart_waits_no_longer_than_the_grace(tmp_path: Path) -> None:
    """It is one grace from the start of the server, however many are waited for."""
    await lose_a_step(tmp_path, "me", "you")
    clock = ManualClock()
    async with scene(tmp_path, clock=clock, is_new=False) as on:
        await clock.armed(GRACE)
        clock.advance(GRACE - 1)
        assert on.requests == []
        clock.advance(1)
        await at_gate(on.server, "g")
        assert on.offered() == []
        on.server.gates.open("g")
        assert (await on.watch.terminal("r")).text == "first"
        # Later runs of the same process wait for nobody.
        await on.server.submit("s", "next", "next")
        assert (await on.watch.terminal("next")).text == "next"


@pytest.mark.asyncio
async def test_others_run_while_a_step_waits_for_those_who_served_it(tmp_path: Path) -> None:
    await lose_a_step(tmp_path, "me")
    clock = ManualClock()
    async with scene(tmp_path, clock=clock, is_new=False, limits__max_running_turns="1") as on:
        await clock.armed(GRACE)
        await on.server.session("other")
        await on.server.submit("other", "meanwhile", "meanwhile")
        assert (await on.server.terminals("other", ["meanwhile"]))["meanwhile"].text == "meanwhile"
        assert "client me" in await labels(on)
        await Client.serve(on.server, "tool_of_me", name="me")
        await at_gate(on.server, "g")
        on.server.gates.open("g")
        assert (await on.watch.terminal("r")).text == "first"


@pytest.mark.asyncio
async def test_a_run_that_is_to_stop_waits_for_no_tools_after_a_restart(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await Client.serve(on.server, "look", grace=GRACE)
        await on.server.submit("s", GATED, "r")
        await at_gate(on.server, "g")
        await on.server.cancel(run_id="r", mode=STOP)
    clock = ManualClock()
    async with scene(tmp_path, clock=clock, is_new=False) as on:
        on.server.gates.open("g")
        assert reason_of(await on.watch.terminal("r")) == "COMPLETED/STOPPED"


@pytest.mark.asyncio
async def test_a_cancel_ends_the_wait_for_those_who_served_a_step(tmp_path: Path) -> None:
    await lose_a_step(tmp_path, "me")
    clock = ManualClock()
    async with scene(tmp_path, clock=clock, is_new=False) as on:
        await clock.armed(GRACE)
        await on.server.cancel(run_id="r")
        assert reason_of(await on.watch.terminal("r")) == "CANCELLED/USER"
        assert on.requests == []
        assert is_valid(await on.server.messages("s"))

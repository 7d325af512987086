"""Tools that a client serves over its Converse stream: leases, lost streams, late and doubled answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.dispatch.script import at_gate, provider
from tests.service.failure.stories import is_valid, reason_of
from tests.service.harness import submission
from tests.service.manual_clock import ManualClock
from tests.service.tools.holders import SAFE, Client, tool, unheld
from tests.service.turns.scenes import STEER, Scene, calls, result_text, scene, script
from turnkeeper.v1 import tool_service_pb2
from turnkeeper_service.store.slots import slot_of

GRACE = 30.0


async def late_results(on: Scene, run_id: str = "r") -> list[str]:
    """The late results recorded until now."""
    await on.watch.quiet()
    return [
        result_text(event.tool_call_late_result.result)
        for event in on.watch.events
        if event.HasField("tool_call_late_result") and event.run_id == run_id
    ]


@pytest.mark.asyncio
async def test_a_client_runs_a_call_under_a_lease(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        client = await Client.serve(
            on.server, tool("look", description="Looks", input_schema_json='{"type": "object"}')
        )
        await on.server.submit("s", script(calls("look"), "done"), "r")
        invocation = await client.invoked()
        assert [one.name for one in on.requests[0].tools] == ["look"]
        started = (await on.watch.seen("r", "tool_call_started")).tool_call_started
        assert (started.executor, started.lease_id) == ("me", invocation.lease_id)
        assert started.lease_id.startswith(f"s{slot_of('default', 's'):03x}.lease-")
        assert (invocation.session_id, invocation.run_id, invocation.attempt) == ("s", "r", 1)
        assert (invocation.tool_call.tool_call_id, invocation.tool_call.name) == ("id-look", "look")
        # What a client says of itself in a result does not count.
        given = tool_service_pb2.ToolInvocationResult(lease_id=invocation.lease_id)
        given.result.tool_call_id, given.result.name, given.result.is_synthetic = "x", "y", True
        given.result.content.add().text.text = "seen"
        await client.talk.ask("result", tool_result=given)
        assert (await on.watch.terminal("r")).text == "done"
        found = (await on.results())["id-look"]
        assert (found.name, found.is_synthetic, result_text(found)) == ("look", False, "seen")
        client.lose()


@pytest.mark.asyncio
async def test_an_answer_of_a_client_may_be_an_error_or_end_the_turn(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        client = await Client.serve(on.server, "look", "end")
        await on.server.submit("s", script(calls("look", "end"), "never"), "r")
        given = tool_service_pb2.ToolInvocationResult(lease_id=(await client.invoked()).lease_id)
        given.result.is_error = True
        given.result.content.add().text.text = "not today"
        await client.talk.ask("result", tool_result=given)
        await client.answer(await client.invoked(), "over", is_turn_end=True)
        assert reason_of(await on.watch.terminal("r")) == "COMPLETED/TOOL_ENDED"
        results = await on.results()
        assert [(result_text(one), one.is_error) for one in results.values()] == [("not today", True), ("over", False)]
        client.lose()


@pytest.mark.asyncio
async def test_a_client_that_comes_back_in_time_gets_its_call_again(tmp_path: Path) -> None:
    clock = ManualClock()
    async with scene(tmp_path, clock=clock) as on:
        client = await Client.serve(on.server, "look")
        await on.server.submit("s", script(calls("look"), "done"), "r")
        first = await client.invoked()
        client.lose()
        await unheld(on.server, "me")
        clock.advance(GRACE - 1)
        client = await Client.serve(on.server, "look")
        again = await client.invoked()
        assert (again.attempt, again.lease_id) == (2, first.lease_id)
        assert again.idempotency_key == first.idempotency_key
        assert not await client.answer(again, "seen")
        assert (await on.watch.terminal("r")).text == "done"
        # The grace that was running has stopped: time passes and nothing happens to anybody.
        clock.advance(2 * GRACE)
        await on.server.submit("s", script(calls("look"), "done"), "r2")
        assert not await client.answer(await client.invoked(), "seen again")
        await on.watch.terminal("r2")
        client.lose()


@pytest.mark.asyncio
async def test_a_client_that_is_lost_for_good_leaves_an_error_result(tmp_path: Path) -> None:
    clock = ManualClock()
    async with scene(tmp_path, clock=clock) as on:
        client = await Client.serve(on.server, "look", tool("safe", replay_class=SAFE), grace=7)
        await on.server.submit("s", script(calls("look", "safe"), {"text": "done", "gate": "g"}), "r")
        await client.invoked()
        client.lose()
        await unheld(on.server, "me")
        clock.advance(6.9)
        assert "tool_call_finished" not in [event.WhichOneof("payload") for event in await on.server.history("s")]
        clock.advance(0.2)
        await at_gate(on.server, "g")
        results = list((await on.results()).values())
        assert result_text(results[0]) == "the client that ran 'look' was lost; whether it took effect is unknown"
        assert result_text(results[1]) == "there is no tool 'safe'"
        # Its tools are gone with it.
        assert [on.offered(0), on.offered(1)] == [["look", "safe"], []]
        on.server.gates.open("g")
        await on.watch.terminal("r")


@pytest.mark.asyncio
async def test_a_call_that_may_be_run_again_goes_to_another_client(tmp_path: Path) -> None:
    clock = ManualClock()
    async with scene(tmp_path, clock=clock) as on:
        safe = tool("look", replay_class=SAFE)
        client = await Client.serve(on.server, safe, name="first")
        await on.server.submit("s", script(calls("look"), "done"), "r")
        first = await client.invoked()
        other = await Client.serve(on.server, safe, name="second")
        client.lose()
        await unheld(on.server, "first")
        clock.advance(GRACE)
        again = await other.invoked()
        assert (again.attempt, again.idempotency_key) == (2, first.idempotency_key)
        # The first one is back, too late for what it had: that is recorded and harms nobody.
        client = await Client.serve(on.server, safe, name="first")
        assert await client.answer(first, "too late")
        assert not await other.answer(again, "seen")
        assert (await on.watch.terminal("r")).text == "done"
        assert result_text((await on.results())["id-look"]) == "seen"
        assert await late_results(on) == ["too late"]
        client.lose()
        other.lose()


@pytest.mark.asyncio
async def test_a_call_made_while_its_client_is_away_waits_for_it(tmp_path: Path) -> None:
    clock = ManualClock()
    async with scene(tmp_path, clock=clock) as on:
        client = await Client.serve(on.server, "look")
        client.lose()
        await unheld(on.server, "me")
        await on.server.submit("s", script(calls("look"), "done"), "r")
        await on.watch.seen("r", "tool_call_started")
        client = await Client.serve(on.server, "look")
        invocation = await client.invoked()
        assert invocation.attempt == 1
        await client.answer(invocation, "seen")
        assert (await on.watch.terminal("r")).text == "done"
        client.lose()


@pytest.mark.asyncio
async def test_a_call_made_while_its_client_is_away_fails_when_it_is_lost_for_good(tmp_path: Path) -> None:
    clock = ManualClock()
    async with scene(tmp_path, clock=clock) as on:
        client = await Client.serve(on.server, "look")
        client.lose()
        await unheld(on.server, "me")
        await on.server.submit("s", script(calls("look"), "done"), "r")
        await clock.armed(120.0)
        clock.advance(GRACE)
        assert (await on.watch.terminal("r")).text == "done"
        assert result_text((await on.results())["id-look"]) == "the client that serves 'look' was lost"


@pytest.mark.asyncio
async def test_a_lost_client_that_had_withdrawn_its_tool_leaves_an_error_result(tmp_path: Path) -> None:
    clock = ManualClock()
    async with scene(tmp_path, clock=clock) as on:
        client = await Client.serve(on.server, "look")
        await on.server.submit("s", script(calls("look"), "done"), "r")
        await client.invoked()
        await client.offer("other")
        client.lose()
        await unheld(on.server, "me")
        clock.advance(GRACE)
        assert (await on.watch.terminal("r")).text == "done"
        assert "was lost" in result_text((await on.results())["id-look"])


@pytest.mark.asyncio
async def test_a_second_answer_is_late_and_recorded_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        client = await Client.serve(on.server, "look")
        await on.server.submit("s", script(calls("look"), "done"), "r")
        invocation = await client.invoked()
        assert not await client.answer(invocation, "first")
        assert await client.answer(invocation, "second")
        assert await client.answer(invocation, "third")
        await on.watch.terminal("r")
        assert result_text((await on.results())["id-look"]) == "first"
        assert await late_results(on) == ["second"]
        client.lose()


@pytest.mark.asyncio
async def test_two_answers_in_one_breath_are_one_result(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        client = await Client.serve(on.server, "look")
        await on.server.submit("s", script(calls("look"), "done"), "r")
        invocation = await client.invoked()
        for text in ("first", "second"):
            given = tool_service_pb2.ToolInvocationResult(lease_id=invocation.lease_id)
            given.result.content.add().text.text = text
            await client.talk.send(text, tool_result=given)
        assert not (await client.talk.answer("first")).receipt.tool_result.is_late
        assert (await client.talk.answer("second")).receipt.tool_result.is_late
        await on.watch.terminal("r")
        assert result_text((await on.results())["id-look"]) == "first"
        client.lose()


@pytest.mark.asyncio
async def test_an_answer_after_the_deadline_is_late(tmp_path: Path) -> None:
    clock = ManualClock()
    async with scene(tmp_path, clock=clock) as on:
        look = tool("look")
        look.timeout.seconds = 5
        client = await Client.serve(on.server, look)
        await on.server.submit("s", script(calls("look"), "done"), "r")
        invocation = await client.invoked()
        assert invocation.deadline.ToSeconds() == int(clock.time() + 5)
        await clock.armed(5.0)
        clock.advance(5.0)
        back = await client.taken_back()
        assert (back.lease_id, back.tool_call_id) == (invocation.lease_id, "id-look")
        assert await client.answer(invocation, "too late")
        await on.watch.terminal("r")
        assert result_text((await on.results())["id-look"]) == "the tool did not answer within 5 seconds"
        assert await late_results(on) == ["too late"]
        client.lose()


@pytest.mark.asyncio
async def test_a_cancelled_run_takes_its_call_back(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        client = await Client.serve(on.server, "look")
        await on.server.submit("s", script(calls("look"), "never"), "r")
        invocation = await client.invoked()
        await on.server.cancel(run_id="r")
        assert (await client.taken_back()).lease_id == invocation.lease_id
        assert reason_of(await on.watch.terminal("r")) == "CANCELLED/USER"
        assert await client.answer(invocation, "too late")
        assert await late_results(on) == ["too late"]
        client.lose()


@pytest.mark.asyncio
async def test_a_client_that_is_asked_about_a_lease_that_never_was_hears_so(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        given = tool_service_pb2.ToolInvocationResult(lease_id="nothing")
        client = await Client.serve(on.server, "look")
        refused = await client.talk.ask("bad", tool_result=given)
        assert "lease" in refused.error.message
        # The stream goes on, and so does a lease of another session: its id is no key to it.
        await on.server.session("other")
        stranger = await Client.serve(on.server, "look", name="stranger", session_id="other")
        await on.server.submit("s", script(calls("look"), "done"), "r")
        invocation = await client.invoked()
        given = tool_service_pb2.ToolInvocationResult(lease_id=invocation.lease_id)
        assert (await stranger.talk.ask("steal", tool_result=given)).HasField("error")
        assert not await client.answer(invocation, "mine")
        assert (await on.watch.terminal("r")).text == "done"
        client.lose()
        stranger.lose()


@pytest.mark.asyncio
async def test_a_client_that_floods_late_answers_writes_one_event(tmp_path: Path) -> None:
    async with scene(tmp_path, limits__max_tool_result_bytes="1000") as on:
        client = await Client.serve(on.server, "look")
        await on.server.submit("s", script(calls("look"), "done"), "r")
        invocation = await client.invoked()
        await client.answer(invocation, "x" * 100_000)
        for _ in range(300):
            assert await client.answer(invocation, "y" * 2000)
        await on.watch.terminal("r")
        limit = "the result is longer than 1000 bytes and was left out"
        assert result_text((await on.results())["id-look"]) == limit
        assert await late_results(on) == [limit]
        client.lose()


@pytest.mark.asyncio
async def test_a_tool_that_is_withdrawn_while_the_model_answers_has_one_result(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        client = await Client.serve(on.server, "look")
        await on.server.submit("s", script({**calls("look"), "gate": "g"}, "done"), "r")
        await at_gate(on.server, "g")
        await client.offer()
        on.server.gates.open("g")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text) == ("COMPLETED/ANSWERED", "done")
        assert on.told()[1:] == ["call look", "look: there is no tool 'look'"]
        client.lose()


@pytest.mark.asyncio
async def test_a_stream_that_is_half_closed_serves_no_tools_any_more(tmp_path: Path) -> None:
    clock = ManualClock()
    async with scene(tmp_path, clock=clock) as on:
        client = await Client.serve(on.server, "look")
        await client.talk.send("submit", submit=submission("s", script(calls("look"), "done"), "r"))
        await client.invoked()
        await client.talk.call.done_writing()
        await unheld(on.server, "me")
        clock.advance(GRACE)
        assert (await client.talk.terminal("r")).text == "done"
        assert await client.talk.rest() == []


@pytest.mark.asyncio
async def test_a_schema_that_is_none_is_an_error_result(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        bad = tool("bad", input_schema_json='{"type": "object", "properties": 5}')
        far = tool("far", input_schema_json='{"$ref": "http://127.0.0.1:9/never-fetched"}')
        client = await Client.serve(on.server, bad, far)
        await on.server.submit("s", script(calls("bad", "far"), "done"), "r")
        assert (await on.watch.terminal("r")).text == "done"
        results = (await on.results()).values()
        assert all(result_text(one).startswith("the schema of this tool cannot be used") for one in results)
        assert not any(item.HasField("tool_invocation") for item in client.talk.items)
        client.lose()


@pytest.mark.asyncio
async def test_keys_of_calls_with_the_same_id_differ_from_step_to_step(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        client = await Client.serve(on.server, "look")
        await on.server.submit("s", script(calls("look"), calls("look"), "done"), "r")
        keys = []
        for _ in range(2):
            invocation = await client.invoked()
            keys.append(invocation.idempotency_key)
            await client.answer(invocation, "seen")
        await on.watch.terminal("r")
        assert len(set(keys)) == 2
        client.lose()


@pytest.mark.asyncio
async def test_a_steer_skips_what_a_client_has_not_been_handed(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        client = await Client.serve(on.server, "a", "b")
        await on.server.submit("s", script(calls("a", "b")), "r")
        invocation = await client.invoked()
        await on.server.submit("s", "stop that", "steer", delivery=STEER)
        await client.answer(invocation, "seen")
        assert (await on.watch.terminal("r")).text == "stop that"
        assert sum(item.HasField("tool_invocation") for item in client.talk.items) == 1
        client.lose()


@pytest.mark.asyncio
async def test_a_call_in_flight_at_a_client_is_handed_out_again_after_a_kill(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        client = await Client.serve(on.server, tool("look", needs_approval=True))
        await on.server.submit("s", script(calls("look"), "done"), "r", pre_approved_tools=["look"])
        first = await client.invoked()
    async with scene(tmp_path, is_new=False) as on:
        assert on.requests == []
        client = await Client.serve(on.server, tool("look", needs_approval=True))
        again = await client.invoked()
        assert (again.attempt, again.idempotency_key) == (2, first.idempotency_key)
        # The old lease died with its process.
        assert again.lease_id != first.lease_id
        await client.answer(again, "seen")
        outcome = await on.watch.terminal("r")
        assert (outcome.text, outcome.num_steps) == ("done", 2)
        assert provider(on.server).num_calls == 1
        assert is_valid(await on.server.messages("s"))
        assert result_text((await on.results())["id-look"]) == "seen"
        client.lose()

"""Cancels, deadlines and ends that are decided while the commits before them are still on their way to the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from tests.service.dispatch.gated_store import GatedStore, cancels
from tests.service.dispatch.script import at_gate, provider, reply
from tests.service.failure.stories import reason_of
from tests.service.manual_clock import ManualClock
from tests.service.turns.scenes import Scene, Tools, calls, scene, script
from turnkeeper.v1 import event_pb2
from turnkeeper_service.store.base import Commit

STEP_STARTED = event_pb2.Event.DESCRIPTOR.fields_by_name["step_started"].number


def _accepts(commit: Commit) -> bool:
    return bool(commit.insert_runs)


async def _whole_calls(on: Scene) -> None:
    """Calls go to the server and back: what could happen meanwhile has happened."""
    for _ in range(5):
        await on.server.admin_stats()


@pytest.mark.asyncio
async def test_a_cancel_that_is_long_on_its_way_cuts_before_it_detaches(tmp_path: Path) -> None:
    """Nothing is let go that was not cut; nothing of a run comes behind its terminal."""
    clock, store = ManualClock(), GatedStore(tmp_path)
    tools = Tools()
    tools.quick("t")
    async with scene(tmp_path, tools, clock=clock, store=store) as on:
        await on.server.submit("s", script({"gate": "g", **calls("t")}, "never"), "r")
        await at_gate(on.server, "g")
        store.hold(cancels)
        cancelling = on.server.start_cancel("s")
        await store.came()
        clock.advance(5.0)
        await _whole_calls(on)
        store.release()
        await cancelling
        assert reason_of(await on.watch.terminal("r")) == "CANCELLED/USER"
        assert provider(on.server).num_open == 0, "the call was cut"
        on.server.gates.open("g")
        await on.watch.quiet()
        assert on.watch.of("r")[-1] == "run_finished"
        assert tools.ran == []


@pytest.mark.asyncio
async def test_a_deadline_that_passes_while_a_run_is_being_accepted_ends_it_once(tmp_path: Path) -> None:
    clock, store = ManualClock(), GatedStore(tmp_path)
    async with scene(tmp_path, clock=clock, store=store) as on:
        store.hold(_accepts)
        submitting = on.server.start_submit("s", reply(gate="g"), "r", run_timeout=Duration(seconds=1))
        await store.came()
        clock.advance(1.0)
        await _whole_calls(on)
        store.release()
        await submitting
        assert reason_of(await on.watch.terminal("r")) == "FAILED/RUN_DEADLINE"
        await on.watch.quiet()
        on.server.gates.open("g")
        await on.watch.quiet()
        assert on.watch.of("r")[-1] == "run_finished"
        assert on.watch.of("r").count("run_finished") == 1
        assert provider(on.server).num_open == 0
        assert not on.server.server.failure.done()


ANSWERS = {
    "approval": calls("t"),
    "lane": calls("quick"),
    "back-off": {"fail": "PROVIDER_ERROR", "retryable": True, "fail_after": 1, "text": "a b"},
}


@pytest.mark.parametrize("what", ["approval", "lane", "back-off"])
@pytest.mark.asyncio
async def test_a_turn_that_begins_to_wait_while_its_cancel_is_on_its_way_just_ends(
    what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, tools = GatedStore(tmp_path), Tools()
    tools.quick("t", needs_approval=True)
    tools.quick("quick")
    bounded = {"providers__scripted__format": "scripted", "providers__scripted__max_concurrent_calls": "1"}
    async with scene(tmp_path, tools, store=store, retries__max_retries="3", **bounded) as on:
        await on.server.submit("s", script({"gate": "g", **ANSWERS[what]}, "never"), "r")
        await at_gate(on.server, "g")
        if what == "lane":
            on.server.gates.open("g")
            store.hold(lambda commit: any(row.kind == STEP_STARTED for row in commit.events))
        else:
            store.hold(lambda commit: True)
            on.server.gates.open("g")
        await store.came()
        cancelling = on.server.start_cancel("s")
        await store.came(2)
        store.release(1)
        await _whole_calls(on)
        store.release()
        await cancelling
        assert reason_of(await on.watch.terminal("r")) == "CANCELLED/USER"
        assert provider(on.server).num_calls == 1
        await on.watch.quiet()
    assert "fault" not in "".join(capfd.readouterr())

"""Table A of the dispatch rows: reservations, marks, and what a run that never started leaves behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.service.dispatch.script import at_gate, provider, reply
from tests.service.dispatch.stage import (
    cancel_mark,
    dispositions,
    finish,
    held,
    in_line,
    open_run,
    reserved,
    rows,
    stage,
)
from tests.service.dispatch.watch import CANCELLED, COMPLETED, Watch
from tests.service.harness import Harness, submission
from turnkeeper.v1 import admin_service_pb2, event_pb2, run_service_pb2
from turnkeeper_service.runs.scheduler import UnknownRunError

CORE_KEY = ("default", "s")


async def holds(server: Harness, run_id: str) -> list[str]:
    """What keeps a run from being over, as GetRun says."""
    return [hold.label for hold in (await server.run_view(run_id)).holds]


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:A-1")
async def test_a_reservation_released_three_times_is_released_once(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        core = server.server.runs.parts.core
        await server.submit("s", reply(gate="busy"), run_id="busy")
        await at_gate(server, "busy")
        await held(server, "once")
        assert reserved(server) == 1
        assert await holds(server, "once") == ["reservation"]
        server.places.release("dispatch", "once")
        # Behind the release in the loop: when this one is reserved, that one is dispatched.
        await held(server, "other")
        assert await holds(server, "once") == ["queue"]
        assert reserved(server) == 1
        for release in (core.dispatch, core.abandon):
            with pytest.raises(UnknownRunError):
                release(CORE_KEY, "once")
            assert reserved(server) == 1, "the other run's reservation is its own"
        server.gates.open("busy")
        assert await finish(server, watch, ["other"]) == [COMPLETED]
        for release in (core.dispatch, core.abandon):
            with pytest.raises(UnknownRunError):
                release(CORE_KEY, "once")
        assert list(await watch.quiet()) == ["busy", "once", "other"]
        assert server.snapshot("s") is None, "nothing is left, and nothing below zero"


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:A-2")
async def test_two_reservations_count_two_and_each_release_takes_one(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await held(server, "first")
        assert reserved(server) == 1
        await held(server, "second")
        assert reserved(server) == 2
        assert [await holds(server, run) for run in ("first", "second")] == [["reservation"], ["reservation"]]
        assert await finish(server, watch, ["first"]) == [COMPLETED]
        assert reserved(server) == 1
        assert await finish(server, watch, ["second"]) == [COMPLETED]
        assert server.snapshot("s") is None


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:A-4")
async def test_a_cancel_of_an_idle_session_leaves_no_mark(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await server.submit("s", run_id="before")
        await watch.terminal("before")
        receipt = await server.cancel("s")
        assert dispositions(receipt) == {}
        assert server.snapshot("s") is None
        # Where there is an entry again there is no mark in it either.
        await held(server, "after")
        assert cancel_mark(server) is None
        assert await finish(server, watch, ["after"]) == [COMPLETED]


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:A-5", "dispatch:A-6")
async def test_cancels_over_a_reservation_leave_one_mark(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        sequence = await held(server, "r")
        assert cancel_mark(server) is None
        assert dispositions(await server.cancel("s")) == {"r": "COVERED"}
        assert cancel_mark(server) == sequence
        assert dispositions(await server.cancel("s")) == {"r": "COVERED"}
        assert cancel_mark(server) == sequence
        assert reserved(server) == 1, "nothing happens to it before its dispatch"
        assert await finish(server, watch, ["r"]) == [CANCELLED]
        assert server.snapshot("s") is None
        await watch.quiet()
        assert watch.of("r").count("run_cancel_requested") == 1


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:A-7")
async def test_a_run_cancelled_before_its_dispatch_makes_no_request(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await held(server, "r", text="hello")
        await server.cancel("s")
        assert cancel_mark(server) is not None
        assert await finish(server, watch, ["r"]) == [CANCELLED]
        outcome = await watch.terminal("r")
        assert outcome.reason == event_pb2.OUTCOME_REASON_USER
        assert (outcome.text, list(outcome.errors)) == ("", [])
        assert provider(server).num_calls == 0
        assert await rows(server) == [("r", "user", "hello"), ("r", "cancelled", "")]
        assert [message.in_context for message in await server.messages("s")] == [False, False]
        assert server.snapshot("s") is None


async def _reserved(server: Harness) -> None:
    await held(server, "r", text="hello")
    await server.cancel(run_id="r")
    server.places.release("dispatch", "r")


async def _queued(server: Harness) -> None:
    await server.submit("s", reply(gate="other"), run_id="other")
    await server.submit("s", "hello", run_id="r")
    assert in_line(server) == ["r"]
    await server.cancel(run_id="r")


async def _waiting(server: Harness) -> None:
    await server.session("elsewhere")
    await server.submit("elsewhere", reply(gate="other"), run_id="other")
    await server.submit("s", "hello", run_id="r")
    assert (await server.run_view("r")).state == run_service_pb2.RUN_STATE_WAITING
    await server.cancel(run_id="r")


async def _started(server: Harness) -> None:
    server.places.hold("turn", "r")
    await server.submit("s", "hello", run_id="r")
    await server.places.reached("turn", "r")
    assert open_run(server) == "r"
    await server.cancel(run_id="r")
    server.places.release("turn", "r")


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:A-8")
@pytest.mark.parametrize("cancel_it", [_reserved, _queued, _waiting, _started])
async def test_a_run_cancelled_before_its_prompt_was_stored_stores_both_rows(
    tmp_path: Path, cancel_it: Callable[[Harness], Awaitable[None]]
) -> None:
    async with stage(tmp_path, limits__max_running_turns="1") as (server, watch):
        await cancel_it(server)
        assert (await watch.terminal("r")).status == CANCELLED
        assert await rows(server, run_id="r") == [("r", "user", "hello"), ("r", "cancelled", "")]
        assert not any(message.in_context for message in await server.messages("s") if message.run_id == "r")
        assert "step_started" not in watch.of("r")
        server.gates.open("other")
        await watch.quiet()
        assert watch.of("r").count("message_committed") == 2


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:A-9")
@pytest.mark.parametrize(("after", "partial"), [(0, ""), (2, "one two ")])
async def test_a_run_cancelled_after_its_prompt_was_stored_adds_the_answer_alone(
    tmp_path: Path, after: int, partial: str
) -> None:
    async with stage(tmp_path) as (server, watch):
        prompt = reply("one two three", gate="g", gate_after=after)
        await server.submit("s", prompt, run_id="r")
        await at_gate(server, "g")
        assert await rows(server) == [("r", "user", prompt)]
        await server.cancel("s")
        assert (await watch.terminal("r")).status == CANCELLED
        assert await rows(server) == [("r", "user", prompt), ("r", "cancelled", partial)]
        assert [message.in_context for message in await server.messages("s")] == [True, True]
        await watch.quiet()
        assert watch.of("r").count("message_committed") == 2


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:A-10")
async def test_both_rows_are_stored_although_everything_around_is_cancelled(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await server.submit("s", reply(gate="g"), run_id="running")
        await at_gate(server, "g")
        server.places.hold("dispatch", "r")
        submit = server.runs.Run(run_service_pb2.RunRequest(submission=submission("s", "hello", "r")))
        await submit.read()
        await server.submit("s", "follow-up", run_id="queued")
        # The submitter's call, the server's readiness, and every run of the server go, in this order.
        submit.cancel()
        await server.admin.Drain(admin_service_pb2.DrainRequest())
        cancelled = await server.admin.CancelAll(admin_service_pb2.CancelAllRequest())
        assert cancelled.num_covered == 3
        assert await _statuses(watch, "running", "queued") == [CANCELLED, CANCELLED]
        assert await finish(server, watch, ["r"]) == [CANCELLED]
        assert (await watch.terminal("r")).reason == event_pb2.OUTCOME_REASON_ADMIN
        assert await rows(server, run_id="r") == [("r", "user", "hello"), ("r", "cancelled", "")]
        assert await rows(server, run_id="queued") == [("queued", "user", "follow-up"), ("queued", "cancelled", "")]
        assert provider(server).num_calls == 1
        assert server.snapshot("s") is None


async def _statuses(watch: Watch, *run_ids: str) -> list[event_pb2.OutcomeStatus.ValueType]:
    return [(await watch.terminal(run_id)).status for run_id in run_ids]

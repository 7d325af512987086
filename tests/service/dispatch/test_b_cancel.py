"""Table B of the dispatch rows: what a cancel covers, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.dispatch.script import at_gate, provider, reply
from tests.service.dispatch.stage import (
    cancel_mark,
    clear_queue,
    dispositions,
    finish,
    held,
    in_line,
    open_run,
    reserved,
    rows,
    stage,
)
from tests.service.dispatch.watch import CANCELLED, COMPLETED
from turnkeeper.v1 import event_pb2, run_service_pb2

STEER = event_pb2.DELIVERY_STEER


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:B-1")
async def test_one_cancel_reaches_the_turn_and_the_reservation(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await server.submit("s", reply(gate="g"), run_id="running")
        await at_gate(server, "g")
        sequence = await held(server, "reserved")
        assert dispositions(await server.cancel("s")) == {"running": "COVERED", "reserved": "COVERED"}
        assert cancel_mark(server) == sequence
        # The turn is cut at its gate, which nobody opens, while the reservation still stands.
        assert (await watch.terminal("running")).status == CANCELLED
        assert provider(server).num_open == 0
        assert (reserved(server), cancel_mark(server)) == (1, sequence)
        assert await finish(server, watch, ["reserved"]) == [CANCELLED]
        assert provider(server).num_calls == 1


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:B-2")
async def test_a_covered_run_of_a_busy_session_ends_at_its_dispatch(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        # A turn that takes its time to notice its cancel keeps the session busy.
        server.places.hold("turn", "busy")
        await server.submit("s", "busy", run_id="busy")
        await server.places.reached("turn", "busy")
        await held(server, "follow-up", text="hello")
        await server.cancel("s")
        assert await finish(server, watch, ["follow-up"]) == [CANCELLED]
        assert "run_queued" in watch.of("follow-up"), "its receipt said that one is ahead"
        counts = server.counts("s")
        assert (open_run(server), counts.queued, counts.reserved, cancel_mark(server)) == ("busy", 0, 0, None)
        assert await rows(server) == [("follow-up", "user", "hello"), ("follow-up", "cancelled", "")]
        server.places.release("turn", "busy")
        assert (await watch.terminal("busy")).status == CANCELLED
        assert provider(server).num_calls == 0


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:B-3")
async def test_a_queued_steer_under_a_mark_is_dropped_with_its_terminal(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        main = reply("answer", gate="g")
        await server.submit("s", main, run_id="main")
        await at_gate(server, "g")
        receipt = await server.submit("s", "steer", run_id="queued", delivery=STEER)
        assert receipt.steers_run_id == "main"
        # A reservation keeps the mark standing until the partition.
        sequence = await held(server, "reserved", text="steer", delivery=STEER)
        assert dispositions(await clear_queue(server)) == {"queued": "COVERED", "reserved": "COVERED"}
        assert cancel_mark(server) == sequence
        dropped = await watch.terminal("queued")
        assert (dropped.status, dropped.reason) == (CANCELLED, event_pb2.OUTCOME_REASON_QUEUE_CLEARED)
        server.gates.open("g")
        completed = await watch.terminal("main")
        assert (completed.status, completed.text, completed.num_steps) == (COMPLETED, "answer", 1)
        assert cancel_mark(server) == sequence
        assert [kind for _, kind, _ in await rows(server, run_id="main")] == ["user", "assistant"]
        assert await finish(server, watch, ["reserved"]) == [CANCELLED]
        assert server.snapshot("s") is None
        in_context = [message.run_id for message in await server.messages("s") if message.in_context]
        assert in_context == ["main", "main"]
        assert list(await watch.quiet()) == ["queued", "main", "reserved"]


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:B-4")
async def test_a_mark_that_covers_nothing_is_gone_after_the_next_turn(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        sequence = await held(server, "next", text="hello")
        request = run_service_pb2.CancelRunsRequest()
        request.scope.up_to.session_id = "s"
        request.scope.up_to.accept_sequence = sequence - 1
        response = await server.runs.CancelRuns(request)
        assert dispositions(response.receipt) == {}
        assert cancel_mark(server) is None
        assert await finish(server, watch, ["next"]) == [COMPLETED]
        assert await rows(server) == [("next", "user", "hello"), ("next", "assistant", "hello")]
        assert server.snapshot("s") is None
        await held(server, "after")
        assert cancel_mark(server) is None
        assert await finish(server, watch, ["after"]) == [COMPLETED]


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:B-5")
async def test_the_terminal_of_a_run_cancelled_at_dispatch_reaches_a_subscriber(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await held(server, "r")
        await server.cancel("s")
        assert "run_finished" not in watch.of("r")
        server.places.release("dispatch", "r")
        event = await watch.seen("r", "run_finished")
        assert (event.run_id, event.session_id) == ("r", "s")
        assert event.run_finished.outcome.status == CANCELLED
        assert event.run_finished.outcome.actor == "anonymous"
        stored = (await server.run_view("r")).outcome
        assert stored == event.run_finished.outcome


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:B-6")
async def test_one_cancel_covers_two_reservations(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        first = await held(server, "first")
        second = await held(server, "second")
        await server.cancel("s")
        assert first < second
        assert cancel_mark(server) == second
        assert await finish(server, watch, ["first"]) == [CANCELLED]
        assert (cancel_mark(server), reserved(server), in_line(server)) == (second, 1, ["second"])
        assert await finish(server, watch, ["second"]) == [CANCELLED]
        assert [kind for _, kind, _ in await rows(server)] == ["user", "cancelled", "user", "cancelled"]
        assert server.snapshot("s") is None, "no mark, nothing reserved, nothing queued"
        assert provider(server).num_calls == 0


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:B-7")
async def test_a_cancel_of_an_idle_session_poisons_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        for _ in range(2):
            assert dispositions(await server.cancel("s")) == {}
        assert server.snapshot("s") is None
        await server.submit("s", "next", run_id="next")
        assert (await watch.terminal("next")).status == COMPLETED
        assert await rows(server) == [("next", "user", "next"), ("next", "assistant", "next")]
        assert "run_cancel_requested" not in watch.of("next")


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:B-8")
@pytest.mark.parametrize("order", [("c", "a", "b"), ("a", "c", "b"), ("b", "a", "c"), ("a", "b", "c")])
async def test_a_run_accepted_after_a_cancel_is_not_covered_whatever_the_order(
    tmp_path: Path, order: tuple[str, ...]
) -> None:
    async with stage(tmp_path) as (server, watch):
        await held(server, "a", text="a")
        b = await held(server, "b", text="b")
        assert dispositions(await server.cancel("s")) == {"a": "COVERED", "b": "COVERED"}
        assert cancel_mark(server) == b
        c = await held(server, "c", text="c")
        assert c > b
        statuses = {}
        for run_id in order:
            statuses[run_id] = (await finish(server, watch, [run_id]))[0]
            if run_id == order[0] != "b":
                assert cancel_mark(server) == b, "reservations are open: the cancel waits for them"
        assert statuses == {"a": CANCELLED, "b": CANCELLED, "c": COMPLETED}
        assert server.snapshot("s") is None
        kinds = sorted(kind for _, kind, _ in await rows(server))
        assert kinds == ["assistant", "cancelled", "cancelled", "user", "user", "user"]
        assert provider(server).num_calls == 1
        await watch.quiet()

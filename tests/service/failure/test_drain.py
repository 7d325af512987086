"""A server that goes away in order (U-17), and what it leaves to the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.service.failure.stories import (
    CANCELLED,
    COMPLETED,
    FOLDED,
    NOT_SERVING,
    SERVING,
    UNAVAILABLE,
    directive,
    finished,
    health,
    kinds,
    reason_of,
    rows,
    started_order,
)
from tests.service.harness import LIMIT, Harness, details, reason, serving, submission
from tests.service.manual_clock import ManualClock
from tests.service.turns.scenes import Tools, calls, script
from turnkeeper.v1 import admin_service_pb2, event_pb2, run_service_pb2, session_service_pb2
from turnkeeper_service.store.faults import Faults
from turnkeeper_service.store.sqlite import SqliteStore

HELD = directive(gate="held", gate_after=2)


async def refused(call: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(LIMIT):
            await call
    return caught.value


def assert_draining(error: grpc.aio.AioRpcError) -> None:
    assert (error.code(), reason(error)) == (UNAVAILABLE, "DRAINING")
    assert details(error)["RetryInfo"].retry_delay.seconds == 1


async def begin(server: Harness, seconds: float = 30.0) -> asyncio.Future[None]:
    """Begin a drain; the future ends with it."""
    draining = asyncio.ensure_future(server.server.drain(seconds))
    async with asyncio.timeout(LIMIT):
        while await health(server) == SERVING:
            pass
    return draining


@pytest.mark.asyncio
async def test_running_turns_end_and_queued_runs_do_not_start(tmp_path: Path) -> None:
    async with serving(tmp_path, clock=ManualClock()) as server:
        await server.session("s")
        await server.session("idle")
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        behind = await server.submit("s", "behind", "behind")
        draining = await begin(server)
        assert await health(server, "turnkeeper.v1.RunService") == NOT_SERVING
        for session_id in ("s", "idle"):
            assert_draining(await refused(server.submit(session_id, "new", "new")))
        assert_draining(await refused(server.session("new")))
        # What is known is still served, and cancels are.
        again = await server.submit("s", "behind", "behind")
        assert (again.is_replay, again.accept_sequence) == (True, behind.accept_sequence)
        assert reason(await refused(server.submit("s", "other words", "behind"))) == "RUN_ID_REUSED"
        assert (await server.run_view("r")).state == run_service_pb2.RUN_STATE_RUNNING
        assert len(await server.history("s")) > 0
        assert (await server.session("idle")).session_id == "idle"
        assert not draining.done()
        server.gates.open("held")
        await draining
        assert server.server.drained.is_set()
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (outcome.status, outcome.text) == (COMPLETED, "one two three four")
        history = await server.history("s")
        assert started_order(history) == ["r"]
        assert finished(history).keys() == {"r"}
    async with serving(tmp_path) as server:
        outcomes = await server.terminals("s", ["behind"])
        assert outcomes["behind"].status == COMPLETED


@pytest.mark.asyncio
async def test_cancels_are_carried_out_while_it_drains(tmp_path: Path) -> None:
    async with serving(tmp_path, clock=ManualClock()) as server:
        await server.session("s")
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        await server.submit("s", "one", "q1")
        await server.submit("s", "two", "q2")
        draining = await begin(server)
        receipt = await server.cancel(run_id="q1", wait=True)
        assert reason_of(receipt.runs[0].outcome) == "CANCELLED/USER"
        tombstone = await server.cancel(run_id="unseen")
        assert tombstone.runs[0].disposition == run_service_pb2.CANCEL_DISPOSITION_TOMBSTONED
        receipt = await server.cancel(run_id="r", wait=True)
        assert reason_of(receipt.runs[0].outcome) == "CANCELLED/USER"
        # The last running turn has ended, and with it the drain.
        await draining
        assert finished(await server.history("s")).keys() == {"r", "q1"}
    async with serving(tmp_path, clock=ManualClock()) as server:
        assert (await server.terminals("s", ["q2"]))["q2"].status == COMPLETED
        await server.submit("s", "hello", "unseen")
        assert (await server.terminals("s", ["unseen"]))["unseen"].status == CANCELLED


@pytest.mark.asyncio
async def test_at_the_deadline_turns_are_cut_without_a_terminal(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await server.session("s")
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        await server.submit("s", "behind", "behind")
        watch = server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="s", after_seq=0))
        seen: list[int] = []

        async def read() -> None:
            async for response in watch:
                if response.item.HasField("event"):
                    seen.append(response.item.event.seq)

        reading = asyncio.ensure_future(refused(read()))
        converse = server.runs.Converse()
        await converse.write(run_service_pb2.ConverseRequest(open=run_service_pb2.OpenFrame(session_id="s")))
        assert (await converse.read()).item.receipt.HasField("open")
        draining = await begin(server, 7.0)
        await clock.armed(7.0)
        clock.advance(7.0)
        await draining
        assert server.gates.num_waiting("held") == 1
        last = (await server.history("s"))[-1].seq
        await server.server.close()
        assert server.gates.num_waiting("held") == 0
        error = await reading
        assert_draining(error)
        assert int(details(error)["ErrorInfo"].metadata["last_seq"]) == last == seen[-1]
        assert seen == list(range(1, last + 1))

        async def talk() -> None:
            while (await converse.read()) is not grpc.aio.EOF:
                pass

        assert_draining(await refused(talk()))
    assert rows(tmp_path, "SELECT run_id, state FROM runs ORDER BY accept_sequence") == [("r", 2), ("behind", 1)]
    assert rows(tmp_path, "SELECT max(seq) FROM events") == [(last,)]
    async with serving(tmp_path) as server:
        server.gates.open("held")
        outcomes = await server.terminals("s", ["r", "behind"])
        assert [outcome.status for outcome in outcomes.values()] == [COMPLETED, COMPLETED]
        assert kinds(await server.history("s"), "r").count("attempt_discarded") == 1


@pytest.mark.asyncio
async def test_a_steer_is_left_in_line_for_the_next_process(tmp_path: Path) -> None:
    async with serving(tmp_path, clock=ManualClock()) as server:
        await server.session("s")
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        await server.submit("s", "and then", "steer", delivery=event_pb2.DELIVERY_STEER)
        draining = await begin(server)
        server.gates.open("held")
        # The turn ends at its step's boundary: it starts no further one.
        await draining
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (outcome.status, outcome.num_steps) == (COMPLETED, 1)
        assert finished(await server.history("s")).keys() == {"r"}
    async with serving(tmp_path) as server:
        outcome = (await server.terminals("s", ["steer"]))["steer"]
        assert (outcome.status, outcome.text) == (COMPLETED, "and then")
        assert outcome.status != FOLDED


@pytest.mark.asyncio
async def test_a_drain_by_rpc(tmp_path: Path) -> None:
    async with serving(tmp_path, clock=ManualClock()) as server:
        await server.session("s")
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        response = await server.admin.Drain(admin_service_pb2.DrainRequest())
        assert response.num_running_turns == 1
        assert_draining(await refused(server.submit("s", "new")))
        # Asked for again it goes on as it is.
        assert (await server.admin.Drain(admin_service_pb2.DrainRequest())).num_running_turns == 1
        stats = await server.admin.GetStats(admin_service_pb2.GetStatsRequest())
        assert stats.is_draining
        assert not server.server.drained.is_set()
        server.gates.open("held")
        async with asyncio.timeout(LIMIT):
            await server.server.drained.wait()
        assert finished(await server.history("s")).keys() == {"r"}


@pytest.mark.asyncio
async def test_an_idle_server_has_drained_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, clock=ManualClock()) as server:
        await server.session("s")
        async with asyncio.timeout(LIMIT):
            await server.server.drain()
        assert_draining(await refused(server.submit("s", "new")))


@pytest.mark.asyncio
async def test_deadlines_and_starts_are_kept_while_it_drains(tmp_path: Path) -> None:
    """A run that is held before its first step runs, for the drain; then it stands, and the next process has it."""
    async with serving(tmp_path, clock=ManualClock()) as server:
        await server.session("s")
        server.places.hold("turn", "r")
        await server.submit("s", "hello", "r")
        await server.places.reached("turn", "r")
        draining = await begin(server)
        assert (await server.run_view("r")).state == run_service_pb2.RUN_STATE_RUNNING
        assert not draining.done()
        server.places.release("turn", "r")
        await draining
        assert finished(await server.history("s")) == {}
    async with serving(tmp_path) as server:
        assert (await server.terminals("s", ["r"]))["r"].status == COMPLETED


@asynccontextmanager
async def between_steps(tmp_path: Path, tools: Tools, *, steer: str = "") -> AsyncIterator[Harness]:
    """A drained server whose run ``r`` stands between a tool's result and its next step."""
    tools.held("look")
    async with serving(tmp_path, clock=ManualClock(), tools=tools.offered) as server:
        await server.session("s")
        await server.submit("s", script(calls("look"), "seen"), "r")
        await tools.gates.reached("look")
        if steer:
            receipt = await server.submit("s", steer, "steer", delivery=event_pb2.DELIVERY_STEER)
            assert receipt.steers_run_id == "r"
        draining = await begin(server)
        tools.gates.open("look")
        await draining
        assert finished(await server.history("s")) == {}
        yield server


@pytest.mark.asyncio
async def test_a_turn_between_two_steps_is_left_to_the_next_server(tmp_path: Path) -> None:
    """It stands where the tool has answered: the drain does not wait for the rest, and nothing is done twice."""
    tools = Tools()
    async with between_steps(tmp_path, tools) as server:
        assert "drain" in {hold.label for hold in (await server.run_view("r")).holds}
    async with serving(tmp_path, tools=tools.offered) as server:
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/ANSWERED", "seen", 2)
        assert tools.ran == ["look"]


@pytest.mark.asyncio
async def test_a_turn_that_stands_between_two_steps_can_be_cancelled(tmp_path: Path) -> None:
    async with between_steps(tmp_path, Tools()) as server:
        receipt = await server.cancel(run_id="r", wait=True)
        assert reason_of(receipt.runs[0].outcome) == "CANCELLED/USER"


@pytest.mark.asyncio
async def test_a_steer_bound_before_a_drain_folds_after_it(tmp_path: Path) -> None:
    tools = Tools()
    async with between_steps(tmp_path, tools, steer="and this"):
        pass
    async with serving(tmp_path, tools=tools.offered) as server:
        outcomes = await server.terminals("s", ["r", "steer"])
        assert outcomes["steer"].status == FOLDED
        assert (outcomes["r"].status, outcomes["r"].text) == (COMPLETED, "and this")


@pytest.mark.asyncio
async def test_a_known_session_may_be_opened_for_a_cancel_while_it_drains(tmp_path: Path) -> None:
    async with serving(tmp_path, clock=ManualClock()) as server:
        await server.session("s", title="t")
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        draining = await begin(server)
        converse = server.runs.Converse()
        opening = run_service_pb2.OpenFrame(session_id="s", create_with=session_service_pb2.SessionSettings(title="t"))
        await converse.write(run_service_pb2.ConverseRequest(open=opening))
        assert (await converse.read()).item.receipt.HasField("open")
        submit = run_service_pb2.ConverseRequest(frame_id="new", submit=submission("s", "new"))
        await converse.write(submit)
        item = (await converse.read()).item
        while not item.HasField("error"):
            item = (await converse.read()).item
        assert (item.error.frame_id, item.error.code) == ("new", UNAVAILABLE.value[0])
        assert item.error.retry_after.seconds == 1
        wanted = run_service_pb2.CancelRunsRequest(scope=run_service_pb2.CancelScope(session_id="s"), wait=True)
        cancel = run_service_pb2.ConverseRequest(frame_id="c", cancel=wanted)
        await converse.write(cancel)
        while not item.receipt.HasField("cancel"):
            item = (await converse.read()).item
        assert reason_of(item.receipt.cancel.runs[0].outcome) == "CANCELLED/USER"
        await draining
        await converse.done_writing()
        while (await converse.read()) is not grpc.aio.EOF:
            pass
        assert await converse.code() == grpc.StatusCode.OK


@pytest.mark.asyncio
async def test_calls_that_wait_when_it_closes_end_unavailable(tmp_path: Path) -> None:
    """None is left hanging and none ends as if its caller had cancelled it."""
    faults = Faults()
    async with serving(tmp_path, store=SqliteStore(tmp_path, faults=faults)) as server:
        for session_id in ("s", "t", "u"):
            await server.session(session_id)
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        run = run_service_pb2.RunRequest(submission=submission("s", "behind", "behind"))
        streaming = server.runs.Run(run)
        assert (await anext(aiter(streaming))).item.HasField("receipt")
        server.places.hold("turn", "first")
        await server.submit("t", HELD, "first")
        await server.places.reached("turn", "first")
        waiting = asyncio.ensure_future(refused(server.cancel("t", mode=event_pb2.CANCEL_MODE_STOP, wait=True)))
        async with asyncio.timeout(LIMIT):
            while "run_cancel_requested" not in kinds(await server.history("t")):
                pass
        faults.pause()
        accepting = asyncio.ensure_future(refused(server.submit("u", "in flight", "inflight")))
        async with asyncio.timeout(LIMIT):
            while ("default", "inflight") not in server.server.runs.parts.runs:
                assert reason(await refused(server.run_view("inflight"))) == "RUN_NOT_FOUND"
        closing = asyncio.ensure_future(server.server.close())
        async with asyncio.timeout(LIMIT):
            for call in (accepting, waiting):
                error = await call
                # Whether they took effect is not known yet.
                assert (error.code(), reason(error)) == (UNAVAILABLE, "STORE_UNAVAILABLE")

            async def rest() -> None:
                async for _ in streaming:
                    pass

            assert_draining(await refused(rest()))
            faults.resume()
            await closing
        assert not server.server.failure.done() or server.server.failure.cancelled()
    async with serving(tmp_path) as server:
        server.gates.open("held")
        # It had reached the disk after all: the same id says so.
        assert (await server.submit("u", "in flight", "inflight")).is_replay
        assert (await server.terminals("u", ["inflight"]))["inflight"].status == COMPLETED
        outcomes = await server.terminals("s", ["r", "behind"])
        assert [outcome.status for outcome in outcomes.values()] == [COMPLETED, COMPLETED]


@pytest.mark.asyncio
async def test_a_deletion_that_waits_when_it_closes_ends_unavailable(tmp_path: Path) -> None:
    faults = Faults()
    async with serving(tmp_path, store=SqliteStore(tmp_path, faults=faults)) as server:
        await server.session("s")
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        faults.pause()
        request = session_service_pb2.DeleteSessionRequest(session_id="s", force=True)
        deleting = asyncio.ensure_future(refused(server.sessions.DeleteSession(request)))
        async with asyncio.timeout(LIMIT):
            while not server.server.runs.parts.owner.names().count("delete s"):
                await refused(server.run_view("unknown"))
        closing = asyncio.ensure_future(server.server.close())
        async with asyncio.timeout(LIMIT):
            error = await deleting
            assert (error.code(), reason(error)) == (UNAVAILABLE, "STORE_UNAVAILABLE")
            faults.resume()
            await closing


@pytest.mark.asyncio
async def test_a_cancel_on_its_way_to_the_disk_when_it_closes_ends_unavailable(tmp_path: Path) -> None:
    faults = Faults()
    async with serving(tmp_path, store=SqliteStore(tmp_path, faults=faults)) as server:
        await server.session("s")
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        faults.pause()
        cancelling = asyncio.ensure_future(refused(server.cancel("s")))
        async with asyncio.timeout(LIMIT):
            while not (await server.run_view("r")).HasField("cancel"):
                pass
        closing = asyncio.ensure_future(server.server.close())
        try:
            async with asyncio.timeout(LIMIT):
                error = await cancelling
                assert (error.code(), reason(error)) == (UNAVAILABLE, "STORE_UNAVAILABLE")
        finally:
            faults.resume()
        await closing

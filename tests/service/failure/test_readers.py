"""Readers that do not read, clients that vanish, work that does not listen, sessions that are idle."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf import duration_pb2

from tests.service.failure.process import ServerProcess
from tests.service.failure.remote import NARROW, Remote, connected
from tests.service.failure.stories import (
    COMPLETED,
    SERVING,
    StubbornGates,
    directive,
    finished,
    health,
    reason_of,
    text_of,
)
from tests.service.harness import LIMIT, Harness, serving, submission
from tests.service.manual_clock import ManualClock
from turnkeeper.v1 import admin_service_pb2, event_pb2, run_service_pb2
from turnkeeper_service.runs.session.table import WARM_SESSIONS

HELD = directive(gate="held", gate_after=2)
NUM_RUNS = 20
TOKENS = 5_000
PATIENCE = 120.0


def watching(server: Harness, session_id: str) -> Any:
    return server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id=session_id, after_seq=0))


async def read_runs(items: Any, num_runs: int) -> tuple[list[event_pb2.Event], int, str]:
    """Read up to so many terminals: the events, how many deltas came, and the last message's text as they told it."""
    events: list[event_pb2.Event] = []
    num_deltas, text, num_finished = 0, "", 0
    async with asyncio.timeout(PATIENCE):
        while num_finished < num_runs:
            item = (await anext(items)).item
            if item.HasField("delta"):
                num_deltas += 1
                text = text[: item.delta.offset] + item.delta.text
            elif item.HasField("event"):
                events.append(item.event)
                num_finished += item.event.HasField("run_finished")
    return events, num_deltas, text


async def answer_much(server: Remote, session_id: str, num_runs: int) -> None:
    for number in range(num_runs):
        await server.submit(session_id, directive(None, tokens=TOKENS), f"{session_id}-{number}")


@pytest.mark.spec("dispatch:R-6", "dispatch:X-18")
@pytest.mark.asyncio
async def test_a_reader_that_stalls_while_a_hundred_thousand_deltas_flow(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", "--log-level", "warning") as process:
        async with connected(process.serving()) as server, connected(process, *NARROW) as other:
            for session_id in ("warm", "s"):
                await server.session(session_id)
            # What the process takes once for all, caches of the store among it, is not the reader's.
            warm = watching(server, "warm")
            await answer_much(server, "warm", 4)
            await read_runs(aiter(warm), 4)
            warm.cancel()
            before = process.rss_bytes()
            stalled = aiter(watching(other, "s"))
            created = (await anext(stalled)).item.event
            healthy = watching(server, "s")
            await answer_much(server, "s", NUM_RUNS)
            events, num_deltas, text = await read_runs(aiter(healthy), NUM_RUNS)
            healthy.cancel()
            assert process.rss_bytes() - before < 20 << 20
            late, num_merged, late_text = await read_runs(stalled, NUM_RUNS)
            assert [created, *late] == events
            # It did stall: what it missed came merged.
            assert num_merged < num_deltas / 4
            assert text == late_text == "".join(f"w{number} " for number in range(TOKENS))
            outcomes = finished(events)
            assert len(outcomes) == NUM_RUNS
            assert all(outcome.text == text for outcome in outcomes.values())


@pytest.mark.asyncio
async def test_a_stalled_reader_delays_neither_a_cancel_nor_a_deletion_of_its_run(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        async with grpc.aio.insecure_channel(server.server.grpc_address, options=NARROW) as channel:
            stalled = aiter(watching(Harness(server.server, channel, server.gates, server.places), "s"))
            assert (await anext(stalled)).item.event.HasField("session_created")
            # More than any window of the connection.
            big = "x" * 300_000
            for number in range(5):
                await server.submit("s", big, f"big{number}")
            await server.terminals("s", [f"big{number}" for number in range(5)])
            await server.submit("s", HELD, "r")
            await server.gates.reached("held")
            receipt = await server.cancel(run_id="r", wait=True)
            assert reason_of(receipt.runs[0].outcome) == "CANCELLED/USER"
            events, _, _ = await read_runs(stalled, 6)
            assert list(finished([(await server.history("s"))[0], *events])) == [*(f"big{n}" for n in range(5)), "r"]


async def num_streams(server: Harness) -> int:
    stats: admin_service_pb2.GetStatsResponse = await server.admin.GetStats(admin_service_pb2.GetStatsRequest())
    return stats.num_streams


@pytest.mark.spec("dispatch:X-11")
@pytest.mark.asyncio
async def test_clients_that_vanish_leave_nothing_and_their_runs_complete(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        channel = grpc.aio.insecure_channel(server.server.grpc_address)
        lost = Harness(server.server, channel, server.gates, server.places)
        run = lost.runs.Run(run_service_pb2.RunRequest(submission=submission("s", HELD, "r")))
        await anext(aiter(run))
        watch = watching(lost, "s")
        await anext(aiter(watch))
        converse = lost.runs.Converse()
        await converse.write(run_service_pb2.ConverseRequest(open=run_service_pb2.OpenFrame(session_id="s")))
        await converse.read()
        submit = run_service_pb2.ConverseRequest(submit=submission("s", "behind", "behind"))
        await converse.write(submit)
        while not (await converse.read()).item.receipt.HasField("run"):
            pass
        await server.gates.reached("held")
        assert await num_streams(server) == 3
        await channel.close()
        async with asyncio.timeout(LIMIT):
            while await num_streams(server):
                pass
        assert server.gates.num_waiting("held") == 1
        server.gates.open("held")
        outcomes = await server.terminals("s", ["r", "behind"])
        assert [outcome.status for outcome in outcomes.values()] == [COMPLETED, COMPLETED]
        session = server.server.runs.table.get(("default", "s"))
        assert session is not None
        async with asyncio.timeout(LIMIT):
            while session.log.num_readers or not session.is_idle:
                await num_streams(server)


@pytest.mark.asyncio
async def test_a_run_whose_submitter_vanished_is_cancelled_where_that_was_asked_for(tmp_path: Path) -> None:
    clock = ManualClock()
    policy = run_service_pb2.DisconnectPolicy(cancel_after=duration_pb2.Duration(seconds=20))
    async with serving(tmp_path, clock=clock) as server:
        for session_id in ("s", "watched"):
            await server.session(session_id)
        channel = grpc.aio.insecure_channel(server.server.grpc_address)
        lost = Harness(server.server, channel, server.gates, server.places)
        for session_id in ("s", "watched"):
            made = submission(session_id, HELD, f"of-{session_id}", on_disconnect=policy)
            await anext(aiter(lost.runs.Run(run_service_pb2.RunRequest(submission=made))))
        await server.gates.reached("held", 2)
        await channel.close()
        async with asyncio.timeout(LIMIT):
            # Turn the loop until the server has seen that both are gone.
            while server.server.runs.stats().deadlines < 2:
                await server.admin_stats()
        clock.advance(19)
        # A read of the history stops nothing, a watcher of the same principal does.
        await server.history("s")
        watch = server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="watched", after_seq=0))
        await watch.read()
        assert server.gates.num_waiting("held") == 2
        clock.advance(1)
        outcome = (await server.terminals("s", ["of-s"]))["of-s"]
        assert reason_of(outcome) == "CANCELLED/USER"
        server.gates.open("held")
        assert (await server.terminals("watched", ["of-watched"]))["of-watched"].status == COMPLETED
        watch.cancel()


@pytest.mark.parametrize("late", [{}, {"fail": "PROVIDER_ERROR", "fail_after": 3}])
@pytest.mark.asyncio
async def test_work_that_ignores_its_cancel_is_detached_and_the_line_moves(
    late: dict[str, Any], tmp_path: Path
) -> None:
    clock, gates = ManualClock(), StubbornGates()
    async with serving(tmp_path, clock=clock, gates=gates) as server:
        await server.session("s")
        await server.submit("s", directive(gate="held", gate_after=2, **late), "r")
        await gates.reached("held")
        await server.submit("s", "behind", "behind")
        receipt = await server.cancel(run_id="r")
        assert receipt.runs[0].disposition == run_service_pb2.CANCEL_DISPOSITION_COVERED
        await clock.armed(2.0)
        assert gates.num_ignored == 1
        clock.advance(1.9)
        assert finished(await server.history("s")) == {}
        clock.advance(0.1)
        outcomes = await server.terminals("s", ["r", "behind"])
        assert list(outcomes) == ["r", "behind"]
        assert (reason_of(outcomes["r"]), outcomes["r"].text) == ("CANCELLED/USER", "one two ")
        assert outcomes["behind"].status == COMPLETED
        stats = await server.admin.GetStats(admin_service_pb2.GetStatsRequest())
        assert stats.num_detached == 1
        last = (await server.history("s"))[-1].seq
        # What it says when it comes back at last is nobody's.
        gates.open("held")
        async with asyncio.timeout(LIMIT):
            while (await server.admin.GetStats(admin_service_pb2.GetStatsRequest())).num_detached:
                pass
        await server.submit("s", "sentinel", "sentinel")
        await server.terminals("s", ["sentinel"])
        events = await server.history("s")
        assert {event.run_id for event in events if event.seq > last} == {"sentinel"}
        assert finished(events).keys() == {"r", "behind", "sentinel"}
        messages = [text_of(message) for message in await server.messages("s") if message.run_id == "r"]
        assert messages[1] == "one two "
        assert not server.server.failure.done()
        assert await health(server) == SERVING


@pytest.mark.asyncio
async def test_detached_work_does_not_hold_the_close(tmp_path: Path) -> None:
    gates = StubbornGates()
    async with serving(tmp_path, gates=gates, defaults__cancel_grace_seconds="0") as server:
        await server.session("s")
        await server.submit("s", HELD, "r")
        await gates.reached("held")
        receipt = await server.cancel(run_id="r", wait=True)
        assert reason_of(receipt.runs[0].outcome) == "CANCELLED/USER"
        async with asyncio.timeout(LIMIT):
            await server.server.close()
        gates.open("held")


@pytest.mark.asyncio
async def test_two_thousand_idle_sessions_leave_nothing_in_memory(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        at_once = asyncio.Semaphore(64)

        async def use(number: int) -> None:
            async with at_once:
                await server.session(f"s{number}")
                made = submission(f"s{number}", "hello")
                async for _ in server.runs.Run(run_service_pb2.RunRequest(submission=made)):
                    pass

        await asyncio.gather(*(use(number) for number in range(2000)))
        stats = await server.admin.GetStats(admin_service_pb2.GetStatsRequest())
        assert (stats.num_busy_sessions, stats.num_open_runs, stats.num_running_turns) == (0, 0, 0)
        assert stats.num_runs_finished["completed"] == 2000
        runs = server.server.runs
        assert len(runs.parts.runs) == 0
        assert len(runs.table) <= WARM_SESSIONS
        # Those that were let go are as they were.
        assert (await server.submit("s0", "hello again", "again")).position == 0
        await server.terminals("s0", ["again"])
        assert len(await server.messages("s0")) == 4
        assert len(runs.table) <= WARM_SESSIONS

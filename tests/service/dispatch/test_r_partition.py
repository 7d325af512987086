"""Table R of the dispatch rows: what a partition of the line drops, folds and keeps, and a reader that stalled."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.service.dispatch.gated_store import GatedStore, cancels
from tests.service.dispatch.script import at_gate, provider, reply
from tests.service.dispatch.stage import (
    cancel_mark,
    clear_queue,
    dispositions,
    finish,
    held,
    in_line,
    lags,
    reserved,
    rows,
    stage,
)
from tests.service.dispatch.watch import CANCELLED, COMPLETED, FOLDED, stalling
from turnkeeper.v1 import event_pb2
from turnkeeper_service.events.log import TAIL_EVENTS

STEER = event_pb2.DELIVERY_STEER


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:R-2")
async def test_a_partition_under_a_mark_folds_the_later_steer_only(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await server.submit("s", reply("answer", gate="g"), run_id="main")
        await at_gate(server, "g")
        await server.submit("s", "1", run_id="queue-1")
        second = await held(server, "steer-2", text="2", delivery=STEER)
        assert dispositions(await clear_queue(server)) == {"queue-1": "COVERED", "steer-2": "COVERED"}
        await server.submit("s", "3", run_id="queue-3")
        fourth = await server.submit("s", "4", run_id="steer-4", delivery=STEER)
        assert fourth.steers_run_id == "main"
        assert cancel_mark(server) == second
        assert in_line(server) == ["steer-2", "queue-3", "steer-4"]
        server.gates.open("g")
        folded = await watch.terminal("steer-4")
        assert (folded.status, folded.fold.into_run_id, folded.fold.step) == (FOLDED, "main", 2)
        main = await watch.terminal("main")
        assert (main.status, main.text, main.num_steps) == (COMPLETED, "4", 2)
        assert (await watch.terminal("queue-3")).status == COMPLETED
        assert reserved(server) == 1
        assert await finish(server, watch, ["steer-2"]) == [CANCELLED]
        outcomes = await watch.quiet()
        assert list(outcomes) == ["queue-1", "steer-4", "main", "queue-3", "steer-2"]
        assert outcomes["queue-1"].status == CANCELLED
        assert [text for run_id, kind, text in await rows(server, run_id="steer-4")] == ["4"]


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:R-3")
async def test_a_partition_without_a_mark_folds_every_steer_in_order(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await server.submit("s", reply("answer", gate="g"), run_id="main")
        await at_gate(server, "g")
        for name in ("first", "second"):
            assert (await server.submit("s", name, run_id=name, delivery=STEER)).steers_run_id == "main"
        assert cancel_mark(server) is None
        server.gates.open("g")
        outcomes = await watch.quiet()
        assert [(run_id, outcome.status) for run_id, outcome in outcomes.items()] == [
            ("first", FOLDED),
            ("second", FOLDED),
            ("main", COMPLETED),
        ]
        folds = [outcomes[name].fold for name in ("first", "second")]
        assert [(fold.into_run_id, fold.step) for fold in folds] == [("main", 2), ("main", 2)]
        # One further step answers both; the answer before it stays.
        assert [(run_id, kind, text) for run_id, kind, text in await rows(server)][1:5] == [
            ("main", "assistant", "answer"),
            ("first", "user", "first"),
            ("second", "user", "second"),
            ("main", "assistant", "second"),
        ]
        assert [message.message_id for message in await server.messages("s")][2:4] == [f.message_id for f in folds]


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:R-4")
async def test_a_partition_folds_a_steer_and_leaves_the_queue_behind_it_in_order(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await server.submit("s", reply("answer", gate="g"), run_id="main")
        await at_gate(server, "g")
        await server.submit("s", reply("steered", gate="second step"), run_id="steer", delivery=STEER)
        await server.submit("s", "a", run_id="a")
        await server.submit("s", "b", run_id="b")
        assert in_line(server) == ["steer", "a", "b"]
        server.gates.open("g")
        await at_gate(server, "second step")
        assert in_line(server) == ["a", "b"]
        assert (await watch.terminal("steer")).status == FOLDED
        server.gates.open("second step")
        outcomes = await watch.quiet()
        assert list(outcomes) == ["steer", "main", "a", "b"]
        assert [outcomes[run].status for run in ("main", "a", "b")] == [COMPLETED] * 3


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:R-5")
async def test_a_partition_under_a_mark_ends_the_covered_and_keeps_a_later_run(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await server.submit("s", reply("answer", gate="g"), run_id="main")
        await at_gate(server, "g")
        await server.submit("s", "x", run_id="queue-x")
        await server.submit("s", "steer", run_id="steer", delivery=STEER)
        mark = await held(server, "reserved")
        await clear_queue(server)
        await server.submit("s", "y", run_id="queue-y")
        assert cancel_mark(server) == mark
        server.gates.open("g")
        main = await watch.terminal("main")
        assert (main.status, main.num_steps) == (COMPLETED, 1)
        later = await watch.terminal("queue-y")
        assert (later.status, later.text) == (COMPLETED, "y")
        assert await finish(server, watch, ["reserved"]) == [CANCELLED]
        outcomes = await watch.quiet()
        assert sorted(run for run, outcome in outcomes.items() if outcome.status == CANCELLED) == [
            "queue-x",
            "reserved",
            "steer",
        ]
        assert provider(server).num_calls == 3, "main, the later run and the sentinel"


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:R-6")
async def test_a_terminal_reaches_a_reader_that_has_stalled(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch), stalling(server, "s") as stalled:
        names = [f"r{number}" for number in range(60)]
        for name in names:
            # Some megabytes in all: far more than a connection holds back for its reader.
            await server.submit("s", "x" * 8192, run_id=name)
        await watch.terminal(names[-1])
        assert max(lags(server)) > TAIL_EVENTS, "it is so far behind that it has to be served from the log"
        assert stalled.events == []
        await stalled.terminal(names[-1])
        assert list(stalled.terminals()) == names
        assert stalled.events == watch.events


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:R-7")
async def test_a_cancel_ends_a_steer_and_a_queued_run_once_each(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await server.submit("s", reply(gate="g"), run_id="main")
        await at_gate(server, "g")
        await server.submit("s", "steer", run_id="steer", delivery=STEER)
        await server.submit("s", "queue", run_id="queue")
        assert in_line(server) == ["steer", "queue"]
        receipt = await server.cancel("s")
        assert dispositions(receipt) == {"main": "COVERED", "steer": "COVERED", "queue": "COVERED"}
        assert in_line(server) == []
        outcomes = await watch.quiet()
        assert {run_id: outcome.status for run_id, outcome in outcomes.items()} == {
            "main": CANCELLED,
            "steer": CANCELLED,
            "queue": CANCELLED,
        }
        for run_id in ("steer", "queue"):
            assert watch.of(run_id).count("run_finished") == 1
            assert [kind for _, kind, _ in await rows(server, run_id=run_id)] == ["user", "cancelled"]


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:R-8")
@pytest.mark.parametrize("first", ["partition", "drop"])
async def test_a_covered_run_has_one_terminal_whenever_the_line_is_partitioned(tmp_path: Path, first: str) -> None:
    store = GatedStore(tmp_path)
    async with stage(tmp_path, store=store) as (server, watch):
        await server.submit("s", reply("answer", gate="g"), run_id="main")
        await at_gate(server, "g")
        await server.submit("s", "queue", run_id="queue")
        await server.submit("s", "steer", run_id="steer", delivery=STEER)
        if first == "partition":
            # The core has covered them and the cancel is not durable when main's answer partitions the line.
            store.hold(cancels)
            clearing = asyncio.create_task(clear_queue(server))
            await store.came()
            server.gates.open("g")
            await store.came(2)
            assert not clearing.done()
            store.release()
            receipt = await clearing
        else:
            receipt = await clear_queue(server)
            await watch.terminal("steer")
            server.gates.open("g")
        assert dispositions(receipt) == {"queue": "COVERED", "steer": "COVERED"}
        outcomes = await watch.quiet()
        assert {run_id: outcome.status for run_id, outcome in outcomes.items()} == {
            "main": COMPLETED,
            "queue": CANCELLED,
            "steer": CANCELLED,
        }
        assert outcomes["main"].num_steps == 1
        for run_id in ("queue", "steer"):
            assert watch.of(run_id).count("run_finished") == 1
            assert watch.of(run_id).count("message_committed") == 2

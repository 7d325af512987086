"""Table D of the dispatch rows: many submits at once, and a submit while another run streams."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.service.dispatch.script import at_gate, provider, reply
from tests.service.dispatch.stage import in_line, open_run, rows, stage
from tests.service.dispatch.watch import COMPLETED
from turnkeeper.v1 import run_service_pb2

NUM_SUBMITS = 8


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:D-1")
async def test_of_eight_concurrent_submits_one_turn_runs_at_a_time(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        names = [f"r{number}" for number in range(NUM_SUBMITS)]
        submits = [server.submit("s", reply(name, gate="g"), run_id=name) for name in names]
        receipts = await asyncio.gather(*submits)
        await at_gate(server, "g")
        in_order = [receipt.run_id for receipt in sorted(receipts, key=lambda receipt: receipt.accept_sequence)]
        assert provider(server).num_open == 1
        assert server.gates.num_waiting("g") == 1
        assert [open_run(server), *in_line(server)] == in_order
        server.gates.open("g")
        outcomes = await watch.quiet()
        assert list(outcomes) == in_order
        assert {outcome.status for outcome in outcomes.values()} == {COMPLETED}
        assert {run_id: outcome.text for run_id, outcome in outcomes.items()} == {name: name for name in names}
        assert provider(server).max_open == 1
        # One after the other, also in the log: each begins after the end of the one before it.
        turns = [
            (event.run_id, event.WhichOneof("payload"))
            for event in watch.events
            if event.run_id in outcomes and event.WhichOneof("payload") in ("run_started", "run_finished")
        ]
        assert turns == [(run_id, payload) for run_id in in_order for payload in ("run_started", "run_finished")]


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:D-2")
async def test_a_run_submitted_while_another_streams_is_queued_and_runs_after_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await server.submit("s", reply("main text", gate="g", gate_after=1), run_id="main")
        await at_gate(server, "g")
        receipt = await server.submit("s", "follow", run_id="follow")
        assert (receipt.state, receipt.position) == (run_service_pb2.RUN_STATE_QUEUED, 1)
        assert (open_run(server), in_line(server), server.counts("s").queued) == ("main", ["follow"], 1)
        assert not [row for row in await rows(server) if row[0] == "follow"]
        server.gates.open("g")
        outcomes = await watch.quiet()
        assert [(run_id, outcome.status, outcome.text) for run_id, outcome in outcomes.items()] == [
            ("main", COMPLETED, "main text"),
            ("follow", COMPLETED, "follow"),
        ]
        assert not [error for outcome in outcomes.values() for error in outcome.errors]
        assert await rows(server, run_id="follow") == [("follow", "user", "follow"), ("follow", "assistant", "follow")]
        assert [kind for run_id, kind, _ in await rows(server) if run_id in outcomes].count("assistant") == 2

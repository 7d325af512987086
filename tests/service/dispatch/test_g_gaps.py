"""Table G of the dispatch rows: hand-off, failures, duplicates and order."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.service.dispatch.gated_store import GatedStore, ends
from tests.service.dispatch.script import at_gate, provider, reply
from tests.service.dispatch.stage import cancel_mark, dispositions, finish, held, in_line, open_run, rows, stage
from tests.service.dispatch.watch import CANCELLED, COMPLETED, FAILED, FOLDED, watching
from tests.service.harness import FlatRuns, reason, submission
from turnkeeper.v1 import event_pb2, run_service_pb2, session_service_pb2

STEER = event_pb2.DELIVERY_STEER
INTERNAL = event_pb2.OUTCOME_REASON_INTERNAL


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:G-1")
async def test_a_run_behind_one_that_fails_starts_by_itself(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await server.submit("s", reply("some text", fail="PROVIDER_ERROR", gate="g"), run_id="fails")
        await at_gate(server, "g")
        await server.submit("s", "next", run_id="next")
        assert in_line(server) == ["next"]
        server.gates.open("g")
        # Nothing else is submitted before it has ended.
        assert (await watch.terminal("next")).status == COMPLETED
        outcomes = watch.terminals()
        assert list(outcomes) == ["fails", "next"]
        assert (outcomes["fails"].status, outcomes["fails"].reason) == (
            FAILED,
            event_pb2.OUTCOME_REASON_PROVIDER_ERROR,
        )
        await watch.quiet()


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:G-2")
@pytest.mark.parametrize("cleaning_up", ["its turn", "its terminal"])
async def test_a_run_accepted_while_the_cancelled_one_cleans_up_executes(tmp_path: Path, cleaning_up: str) -> None:
    store = GatedStore(tmp_path)
    async with stage(tmp_path, store=store) as (server, watch):
        if cleaning_up == "its turn":
            server.places.hold("turn", "first")
            await server.submit("s", "first", run_id="first")
            await server.places.reached("turn", "first")
            await server.cancel("s")
            await server.submit("s", "second", run_id="second")
            assert (open_run(server), in_line(server)) == ("first", ["second"])
            server.places.release("turn", "first")
        else:
            await server.submit("s", reply(gate="g"), run_id="first")
            await at_gate(server, "g")
            store.hold(ends("first"))
            await server.cancel("s")
            await store.came()
            accepting = asyncio.create_task(server.submit("s", "second", run_id="second"))
            await store.came(2)
            assert (open_run(server), in_line(server)) == ("first", ["second"])
            assert not watch.terminals()
            store.release()
            await accepting
        outcomes = await watch.quiet()
        assert [(run_id, outcome.status, outcome.text) for run_id, outcome in outcomes.items()] == [
            ("first", CANCELLED, ""),
            ("second", COMPLETED, "second"),
        ]
        assert "run_cancel_requested" not in watch.of("second")


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:G-3", "dispatch:G-4")
async def test_a_terminal_comes_before_the_next_run_has_ended_and_a_failure_is_its_own(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await server.submit("s", reply("first", gate="first"), run_id="first")
        await server.submit("s", reply("", gate="second", fail="PROVIDER_RATE_LIMITED"), run_id="second")
        server.gates.open("first")
        await at_gate(server, "second")
        first = await watch.terminal("first")
        assert (first.status, first.text) == (COMPLETED, "first")
        assert (open_run(server), list(watch.terminals())) == ("second", ["first"])
        server.gates.open("second")
        second = await watch.terminal("second")
        assert (second.status, second.reason) == (FAILED, event_pb2.OUTCOME_REASON_PROVIDER_RATE_LIMITED)
        await watch.quiet()
        kept = (await server.run_view("first")).outcome
        assert (kept, list(kept.errors)) == (first, [])
        assert [error.reason for error in second.errors] == [second.reason]
        failed = [message for message in await server.messages("s") if message.HasField("error")]
        assert [message.run_id for message in failed] == ["second"]


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:G-5")
async def test_a_queued_run_whose_session_cannot_be_read_fails(tmp_path: Path) -> None:
    store = GatedStore(tmp_path)
    async with stage(tmp_path, store=store) as (server, watch):
        await server.submit("s", reply("one two", gate="g", gate_after=1), run_id="first")
        await at_gate(server, "g")
        await server.submit("s", "second", run_id="second")
        await server.submit("s", "third", run_id="third")
        # A rollback changes what is in context: the next run has to read it.
        store.unreadable = True
        await server.cancel(run_id="first", rollback=True)
        second = await watch.terminal("second")
        store.unreadable = False
        assert (second.status, second.reason) == (FAILED, INTERNAL)
        assert [(error.reason, error.detail) for error in second.errors] == [(INTERNAL, "cannot read: disk I/O error")]
        assert [kind for _, kind, _ in await rows(server, run_id="second")] == ["user", "failed"]
        await watch.quiet()
        assert not server.server.failure.done(), "a read that fails stops no server"


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:G-8")
async def test_a_steer_accepted_after_a_cancel_folds_although_an_older_mark_stands(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await server.submit("s", reply(gate="a"), run_id="a")
        await at_gate(server, "a")
        mark = await held(server, "b")
        await server.cancel("s")
        assert (await watch.terminal("a")).status == CANCELLED
        await server.submit("s", reply("c", gate="c"), run_id="c")
        await at_gate(server, "c")
        receipt = await server.submit("s", "d", run_id="d", delivery=STEER)
        assert (receipt.steers_run_id, open_run(server), cancel_mark(server)) == ("c", "c", mark)
        server.gates.open("c")
        folded = await watch.terminal("d")
        assert (folded.status, folded.fold.into_run_id) == (FOLDED, "c")
        steered = await watch.terminal("c")
        assert (steered.status, steered.text, steered.num_steps) == (COMPLETED, "d", 2)
        assert cancel_mark(server) == mark, "the mark stood all the time"
        assert await finish(server, watch, ["b"]) == [CANCELLED]
        await watch.quiet()


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:G-10")
@pytest.mark.parametrize("when", ["at once", "while it runs", "after its end"])
async def test_a_run_id_submitted_twice_executes_once(tmp_path: Path, when: str) -> None:
    async with stage(tmp_path) as (server, watch):
        text = reply("once", gate="g")
        if when == "at once":
            receipts = await asyncio.gather(*(server.submit("s", text, run_id="r") for _ in range(2)))
            server.gates.open("g")
        else:
            receipts = [await server.submit("s", text, run_id="r")]
            await at_gate(server, "g")
            if when == "after its end":
                server.gates.open("g")
                await watch.terminal("r")
            receipts.append(await server.submit("s", text, run_id="r"))
            server.gates.open("g")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.submit("s", "another payload", run_id="r")
        assert (refused.value.code(), reason(refused.value)) == (grpc.StatusCode.ALREADY_EXISTS, "RUN_ID_REUSED")
        assert len({receipt.accept_sequence for receipt in receipts}) == 1
        assert sorted(receipt.is_replay for receipt in receipts) == [False, True]
        if when == "after its end":
            assert receipts[1].outcome == await watch.terminal("r")
        outcomes = await watch.quiet()
        assert {run_id: outcome.text for run_id, outcome in outcomes.items()} == {"r": "once"}
        assert provider(server).num_calls == 2, "it and the sentinel"
        assert watch.of("r").count("run_accepted") == 1
        assert len(await rows(server, run_id="r")) == 2


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:G-14")
@pytest.mark.parametrize("slow", [["r1"], ["r1", "r2"], ["r2"]])
async def test_a_slower_preparation_lets_no_later_run_overtake(tmp_path: Path, slow: list[str]) -> None:
    names = ["r1", "r2", "r3"]
    async with stage(tmp_path) as (server, watch):
        await server.session("other")
        for name in slow:
            server.places.hold("dispatch", name)
        for name in names:
            await server.submit("s", name, run_id=name)
        if slow == ["r2"]:
            await watch.terminal("r1")
        async with watching(server, "other") as other:
            # A whole run of another session goes by, and none of those behind the slow one has begun.
            await other.quiet()
        blocked = names[names.index(slow[0]) :]
        assert (open_run(server), in_line(server)) == ("", blocked)
        assert provider(server).num_calls == 1 + len(names) - len(blocked)
        # The last to be prepared is the first in line.
        for name in reversed(slow):
            server.places.release("dispatch", name)
        assert list(await watch.quiet()) == names
        started = [event.run_id for event in watch.events if event.HasField("run_started")]
        assert started[:3] == names
        sequences = [event.run_accepted.accept_sequence for event in watch.events if event.HasField("run_accepted")]
        assert sequences == sorted(sequences)


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:G-17")
async def test_a_second_client_of_a_session_queues_behind_the_turn_that_stays_cancellable(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        await server.submit("s", reply(gate="g"), run_id="first")
        await at_gate(server, "g")
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(server.server.grpc_address, options=options) as channel:
            stub: Any = FlatRuns(channel)
            call = stub.Converse()
            opening = run_service_pb2.OpenFrame(session_id="s", create_with=session_service_pb2.SessionSettings())
            await call.write(run_service_pb2.ConverseRequest(frame_id="open", open=opening))
            second = submission("s", "second", "second")
            await call.write(run_service_pb2.ConverseRequest(frame_id="submit", submit=second))
            receipts: dict[str, run_service_pb2.Receipt] = {}
            while len(receipts) < 2:
                item = (await call.read()).item
                assert not item.HasField("error"), item
                if item.HasField("receipt"):
                    receipts[item.receipt.frame_id] = item.receipt
            assert receipts["open"].open.session.open_run_id == "first"
            assert receipts["submit"].run.state == run_service_pb2.RUN_STATE_QUEUED
            assert receipts["submit"].run.position == 1
            assert (open_run(server), in_line(server)) == ("first", ["second"])
            assert provider(server).num_open == 1
            # Either client's cancel reaches the turn.
            cancel = run_service_pb2.CancelRunsRequest(scope=run_service_pb2.CancelScope(run_id="first"))
            await call.write(run_service_pb2.ConverseRequest(frame_id="cancel", cancel=cancel))
            await call.done_writing()
            while (response := await call.read()) is not grpc.aio.EOF:
                if response.item.HasField("receipt"):
                    receipts[response.item.receipt.frame_id] = response.item.receipt
            assert dispositions(receipts["cancel"].cancel) == {"first": "COVERED"}
        outcomes = await watch.quiet()
        assert [(run_id, outcome.status) for run_id, outcome in outcomes.items()] == [
            ("first", CANCELLED),
            ("second", COMPLETED),
        ]
        assert provider(server).max_open == 1

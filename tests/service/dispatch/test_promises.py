"""The promises about runs, as properties of storms: many callers at once, and what their sessions' logs say of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import grpc.aio
import pytest

from tests.service.dispatch.gated_store import GatedStore, cancels
from tests.service.dispatch.script import at_gate, provider, reply
from tests.service.dispatch.stage import dispositions, stage
from tests.service.dispatch.storm import (
    ALREADY_FINISHED,
    COVERED,
    NUM_SESSIONS,
    TOMBSTONED,
    Cancelled,
    Event,
    Record,
    rage,
)
from tests.service.dispatch.watch import CANCELLED, COMPLETED, FAILED, FOLDED
from tests.service.harness import Harness, submission
from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2

SEEDS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def storms(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """A storm per seed, each on a server of its own."""
    return [asyncio.run(rage(tmp_path_factory.mktemp(f"storm{seed}"), seed)) for seed in SEEDS]


def payload(event: Event) -> str:
    """What kind of event it is."""
    return event.WhichOneof("payload") or ""


def test_the_storms_are_rough(storms: list[Record]) -> None:
    """What follows holds for little if little happened."""
    outcomes = [outcome for record in storms for outcome in record.outcomes().values()]
    statuses = Counter(outcome.status for outcome in outcomes)
    assert all(statuses[status] >= 5 for status in (COMPLETED, CANCELLED, FAILED, FOLDED)), statuses
    reasons = {outcome.reason for outcome in outcomes if outcome.status == CANCELLED}
    assert {
        event_pb2.OUTCOME_REASON_USER,
        event_pb2.OUTCOME_REASON_QUEUE_CLEARED,
        event_pb2.OUTCOME_REASON_REPLACED,
    } <= reasons
    reached = {run.disposition for record in storms for cancel in record.cancels for run in cancel.receipt.runs}
    assert reached == {COVERED, ALREADY_FINISHED, TOMBSTONED}
    cut = [record for record in storms if _cut_in_a_turn(record)]
    assert cut, "some cancel has to meet a running turn"
    assert all(set(record.refusals) == {"FAILED_PRECONDITION SESSION_BUSY"} for record in storms)
    assert all(any(len(receipts) > 2 for receipts in record.receipts.values()) for record in storms)


def _cut_in_a_turn(record: Record) -> set[str]:
    started = {event.run_id for event in record.of("step_started")}
    return {run_id for run_id, outcome in record.outcomes().items() if outcome.status == CANCELLED} & started


def test_promise_1_one_at_a_time(storms: list[Record]) -> None:
    """A session never has two floor turns running."""
    for record in storms:
        for log in record.logs.values():
            running = ""
            for event in log:
                if payload(event) == "run_started":
                    assert not running, f"{event.run_id} starts while {running} runs"
                    running = event.run_id
                elif payload(event) in ("step_started", "step_finished"):
                    assert event.run_id == running
                elif payload(event) == "run_finished" and event.run_id == running:
                    running = ""
            assert not running
        assert 1 <= record.max_open <= NUM_SESSIONS, "the provider saw more requests than sessions"
        assert 0 < record.num_calls <= len(record.of("step_started"))


def test_promise_2_one_terminal(storms: list[Record]) -> None:
    """Every accepted run gets exactly one terminal, as the last of its events, and the store has the same."""
    for record in storms:
        accepted = Counter(event.run_id for event in record.of("run_accepted"))
        finished = Counter(event.run_id for event in record.of("run_finished"))
        assert accepted == finished
        assert set(finished.values()) == {1}
        assert set(accepted) == set(record.receipts)
        for log in record.logs.values():
            last = {event.run_id: payload(event) for event in log if event.run_id}
            assert set(last.values()) == {"run_finished"}
            assert [event.seq for event in log] == list(range(1, len(log) + 1))
        assert record.replayed == record.logs
        outcomes = record.outcomes()
        assert {run_id: view.outcome for run_id, view in record.views.items()} == outcomes
        messages = [event.message_committed.message for event in record.of("message_committed")]
        prompts = Counter(message.run_id for message in messages if message.role == content_pb2.ROLE_USER)
        assert prompts == accepted, "whatever becomes of a run, its prompt has one row"


def test_promise_3_accepted_means_durable(storms: list[Record]) -> None:
    """What was acknowledged is stored; an id with the same payload is the same run, with another it is refused."""
    for record in storms:
        assert record.early == []
        stored = {
            event.run_id: (event.session_id, event.seq, event.run_accepted.accept_sequence)
            for log in record.replayed.values()
            for event in log
            if payload(event) == "run_accepted"
        }
        for run_id, receipts in record.receipts.items():
            assert {(one.session_id, one.accepted_seq, one.accept_sequence) for one in receipts} == {stored[run_id]}
            assert Counter(one.is_replay for one in receipts)[False] == 1, run_id
        assert record.conflicts
        assert set(record.conflicts) == {"ALREADY_EXISTS RUN_ID_REUSED"}


@pytest.mark.asyncio
@pytest.mark.parametrize("way", ["unary", "converse"])
async def test_promise_3_nothing_is_acknowledged_before_it_is_stored(tmp_path: Path, way: str) -> None:
    """The acknowledgement follows the commit."""
    store = GatedStore(tmp_path)
    async with stage(tmp_path, store=store) as (server, watch):
        store.hold(lambda commit: bool(commit.insert_runs))
        if way == "unary":
            submitting = asyncio.create_task(server.submit("s", "hello", run_id="r"))
        else:
            submitting = asyncio.create_task(_by_converse(server))
        await store.came()
        # Whole calls go to the server and back, and no acknowledgement comes before them.
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await server.run_view("r")
            assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
        assert not submitting.done()
        assert provider(server).num_calls == 0, "nor does it begin before that"
        store.release()
        assert (await submitting).run_id == "r"
        assert (await watch.terminal("r")).status == COMPLETED


async def _by_converse(server: Harness) -> run_service_pb2.RunReceipt:
    call = server.runs.Converse()
    await call.write(run_service_pb2.ConverseRequest(open=run_service_pb2.OpenFrame(session_id="s")))
    await call.write(run_service_pb2.ConverseRequest(frame_id="1", submit=submission("s", "hello", "r")))
    async for response in call:
        if response.item.receipt.frame_id == "1":
            receipt: run_service_pb2.RunReceipt = response.item.receipt.run
            call.cancel()
            return receipt
    raise AssertionError("the stream ended without the receipt")


def test_promise_4_first_come_first_served(storms: list[Record]) -> None:
    """Runs execute in accept order; only a STEER goes before its turn, into a run that was accepted before it."""
    for record in storms:
        sequences = {event.run_id: event.run_accepted.accept_sequence for event in record.of("run_accepted")}
        assert len(set(sequences.values())) == len(sequences)
        for log in record.logs.values():
            accepted = [event.run_id for event in log if payload(event) == "run_accepted"]
            started = [event.run_id for event in log if payload(event) == "run_started"]
            ended = [event.run_id for event in log if payload(event) == "run_finished" and event.run_id in started]
            assert accepted == sorted(accepted, key=sequences.__getitem__)
            assert started == sorted(started, key=sequences.__getitem__)
            assert ended == started
        deliveries = {event.run_id: event.run_accepted.delivery for event in record.of("run_accepted")}
        for run_id, outcome in record.outcomes().items():
            if outcome.status == FOLDED:
                assert deliveries[run_id] == event_pb2.DELIVERY_STEER
                assert sequences[outcome.fold.into_run_id] < sequences[run_id]


def test_promise_5_exact_cancel(storms: list[Record]) -> None:
    """A cancel covers all that was accepted before it and nothing accepted after it."""
    for record in storms:
        outcomes = record.outcomes()
        ended = {event.run_id: event.seq for event in record.of("run_finished")}
        accepted = {event.run_id: event for event in record.of("run_accepted")}
        started = {event.run_id for event in record.of("run_started")}
        covered: set[str] = set()
        for cancel in record.cancels:
            for run in cancel.receipt.runs:
                if run.disposition == COVERED:
                    covered.add(run.run_id)
                    assert outcomes[run.run_id].status == CANCELLED
                elif run.disposition == ALREADY_FINISHED:
                    assert run.outcome == outcomes[run.run_id]
                elif run.run_id in outcomes:
                    covered.add(run.run_id)
                    assert outcomes[run.run_id].status == CANCELLED
                    assert run.run_id not in started, "it was cancelled before it was seen"
                if run.run_id in accepted and run.disposition != TOMBSTONED:
                    assert accepted[run.run_id].seq <= cancel.seq_after
                    assert not cancel.named or run.run_id == cancel.named
                    assert not cancel.up_to or accepted[run.run_id].run_accepted.accept_sequence <= cancel.up_to
            left = [run_id for run_id in _in_reach(record, cancel) if ended[run_id] > cancel.seq_after]
            missed = {run_id for run_id in left if outcomes[run_id].status != CANCELLED}
            if cancel.scope == "queue":
                # It spares the run that is open, and what has left the line to be folded into that one.
                spared = {outcomes[run_id].fold.into_run_id or run_id for run_id in missed}
                assert len(spared) <= 1, spared
                assert spared <= started
            else:
                assert not missed, f"{cancel.scope}: {missed}"
        replaced = {run_id for event in accepted.values() for run_id in event.run_accepted.replaced_run_ids}
        for run_id, outcome in outcomes.items():
            if outcome.reason == event_pb2.OUTCOME_REASON_REPLACED:
                assert run_id in accepted[outcome.superseded_by_run_id].run_accepted.replaced_run_ids
        assert {run_id for run_id, outcome in outcomes.items() if outcome.status == CANCELLED} == covered | replaced
        requested = Counter(event.run_id for event in record.of("run_cancel_requested"))
        assert requested == Counter(covered | replaced), "each cancel is on record once"
        _check_order(record)


@pytest.mark.asyncio
@pytest.mark.parametrize("before", ["nothing", "the same cancel", "a replace", "a stop, durable, and an abort"])
async def test_promise_5_a_cancel_is_durable_before_it_is_acknowledged(tmp_path: Path, before: str) -> None:
    """Also where what it asks for was asked for before, and is not durable yet."""
    store = GatedStore(tmp_path)
    async with stage(tmp_path, store=store) as (server, watch):
        await server.submit("s", reply(gate="g"), run_id="victim")
        await at_gate(server, "g")
        asked: list[asyncio.Task[object]] = []
        num_cancels = 1
        if before.startswith("a stop"):
            await server.cancel("s", mode=event_pb2.CANCEL_MODE_STOP)
            num_cancels = 2
        store.hold(cancels)
        if before in ("the same cancel", "a stop, durable, and an abort"):
            asked.append(asyncio.create_task(server.cancel("s")))
        elif before == "a replace":
            replace = server.submit("s", "instead", run_id="instead", delivery=event_pb2.DELIVERY_REPLACE)
            asked.append(asyncio.create_task(replace))
        if asked:
            await store.came()
        cancelling = asyncio.create_task(server.cancel(run_id="victim"))
        await store.came()
        for _ in range(3):
            assert (await server.run_view("victim")).state == run_service_pb2.RUN_STATE_RUNNING
        assert not cancelling.done()
        assert not any(task.done() for task in asked)
        assert provider(server).num_open == 1, "nothing is cut before it is durable"
        store.release()
        assert dispositions(await cancelling) == {"victim": "COVERED"}
        await asyncio.gather(*asked)
        assert (await watch.terminal("victim")).status == CANCELLED
        await watch.quiet()
        assert watch.of("victim").count("run_cancel_requested") == num_cancels


def _in_reach(record: Record, cancel: Cancelled) -> list[str]:
    """The runs that were durably accepted before a cancel was asked, in its scope."""
    return [
        event.run_id
        for event in record.logs[cancel.session_id]
        if payload(event) == "run_accepted"
        and event.seq <= cancel.seq_before
        and (cancel.scope not in ("run", "unseen") or event.run_id == cancel.named)
        and (cancel.scope != "up_to" or event.run_accepted.accept_sequence <= cancel.up_to)
    ]


def _check_order(record: Record) -> None:
    """Accept, then the cancel, then the terminal; each durable before the next."""
    order = {"run_accepted": 0, "run_cancel_requested": 1, "run_finished": 2}
    steps: dict[str, list[int]] = {}
    for log in record.logs.values():
        for event in log:
            if payload(event) in order:
                steps.setdefault(event.run_id, []).append(order[payload(event)])
    for run_id, seen in steps.items():
        assert seen == sorted(set(seen)), run_id

"""What the next process makes of what the last one left open (U-16), rule by rule.

A server that closes while runs work leaves them as a lost process does, and flushes what is open: so these stores are
exact. Real kills are in `test_kill.py`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf import duration_pb2

from tests.service.failure.stories import (
    CANCELLED,
    COMPLETED,
    FOLDED,
    directive,
    finished,
    is_valid,
    kinds,
    reason_of,
    rows,
    started_order,
    text_of,
)
from tests.service.harness import LIMIT, Harness, reason, serving
from tests.service.manual_clock import ManualClock
from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2, session_service_pb2
from turnkeeper_service.store.faults import Faults
from turnkeeper_service.store.sqlite import SqliteStore

STEER = event_pb2.DELIVERY_STEER
HALF = directive("one two three four", gate="half", gate_after=2)


async def run_half(server: Harness, run_id: str = "r", text: str = HALF, gate: str = "half", times: int = 1) -> None:
    """Submit a run to session s and wait until its stream is open and stands still."""
    await server.submit("s", text, run_id)
    await server.gates.reached(gate, times)


def broken(data_dir: Path) -> SqliteStore:
    """A store that fails where a terminal is to be written."""
    faults = Faults()
    faults.fail("before", when=lambda commit: bool(commit.finish_runs), error=lambda: sqlite3.OperationalError("gone"))
    return SqliteStore(data_dir, faults=faults)


async def failed(server: Harness) -> None:
    """Wait until the server has stopped for a fault."""
    async with asyncio.timeout(LIMIT):
        await asyncio.shield(server.server.failure)


@pytest.mark.asyncio
async def test_queued_runs_stay_queued_in_their_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await run_half(server, "r0")
        sequences = [(await server.submit("s", f"text {number}", f"r{number}")).accept_sequence for number in (1, 2, 3)]
        cancelled = await server.submit("s", "never", "x")
        await server.cancel(run_id="x")
    async with serving(tmp_path) as server:
        await server.gates.reached("half")
        # Nobody has to ask for them again, and whoever does is told the same.
        for number in (1, 2, 3):
            view = await server.run_view(f"r{number}")
            assert (view.state, view.position) == (run_service_pb2.RUN_STATE_QUEUED, number)
            again = await server.submit("s", f"text {number}", f"r{number}")
            assert (again.is_replay, again.accept_sequence) == (True, sequences[number - 1])
        later = await server.submit("s", "text 4", "r4")
        assert later.accept_sequence > cancelled.accept_sequence
        assert later.position == 4
        server.gates.open("half")
        outcomes = await server.terminals("s", ["r0", "r1", "r2", "r3", "r4"])
        history = await server.history("s")
        assert finished(history).keys() == {"r0", "r1", "r2", "r3", "r4", "x"}
        assert started_order(history) == ["r0", "r1", "r2", "r3", "r4"]
        assert [outcomes[f"r{number}"].text for number in (1, 2, 3, 4)] == [f"text {number}" for number in (1, 2, 3, 4)]
        assert is_valid(await server.messages("s"))


@pytest.mark.asyncio
async def test_an_accepted_run_that_was_not_dispatched_is_dispatched(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        server.places.hold("dispatch", "r1")
        await server.submit("s", "one", "r1")
        await server.places.reached("dispatch", "r1")
        await server.submit("s", "two", "r2")
    async with serving(tmp_path) as server:
        await server.terminals("s", ["r1", "r2"])
        assert started_order(await server.history("s")) == ["r1", "r2"]


@pytest.mark.asyncio
async def test_an_abort_that_was_asked_for_ends_the_run_with_its_partial_text(tmp_path: Path) -> None:
    # Two bytes are enough for a flush, so the first two tokens are durable before the cancel is.
    async with serving(tmp_path, store=broken(tmp_path), limits__partial_flush_bytes="2") as server:
        await server.session("s")
        await run_half(server)
        await server.submit("s", "behind", "behind")
        receipt = await server.cancel(run_id="r")
        assert receipt.runs[0].disposition == run_service_pb2.CANCEL_DISPOSITION_COVERED
        await failed(server)
    assert rows(tmp_path, "SELECT run_id FROM runs WHERE state = 4") == []
    async with serving(tmp_path) as server:
        outcomes = await server.terminals("s", ["r", "behind"])
        assert list(outcomes) == ["r", "behind"]
        assert (reason_of(outcomes["r"]), outcomes["r"].text) == ("CANCELLED/USER", "one two ")
        assert outcomes["r"].usage.own.num_calls == 1
        assert (outcomes["behind"].status, outcomes["behind"].text) == (COMPLETED, "behind")
        messages = [message for message in await server.messages("s") if message.run_id == "r"]
        assert [message.status for message in messages] == [
            content_pb2.MESSAGE_STATUS_COMPLETE,
            content_pb2.MESSAGE_STATUS_CANCELLED,
        ]
        assert text_of(messages[1]) == "one two "
        assert all(message.in_context for message in messages)
        assert "attempt_discarded" not in kinds(await server.history("s"))
        # No request was made for it: the gate of its stream was never reached, though another run's was.
        await run_half(server, "sentinel")
        server.gates.open("half")
        await server.terminals("s", ["sentinel"])
    assert rows(tmp_path, "SELECT * FROM partials") == []


@pytest.mark.asyncio
async def test_an_abort_of_a_queued_run_that_was_asked_for_leaves_both_rows_out_of_context(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await run_half(server)
        server.places.hold("dispatch", "q")
        await server.submit("s", "queued", "q")
        receipt = await server.cancel(run_id="q")
        assert receipt.runs[0].disposition == run_service_pb2.CANCEL_DISPOSITION_COVERED
    async with serving(tmp_path) as server:
        server.gates.open("half")
        outcomes = await server.terminals("s", ["r", "q"])
        assert reason_of(outcomes["q"]) == "CANCELLED/USER"
        assert outcomes["r"].status == COMPLETED
        messages = [message for message in await server.messages("s") if message.run_id == "q"]
        assert [message.in_context for message in messages] == [False, False]
        assert "step_started" not in kinds(await server.history("s"), "q")


@pytest.mark.asyncio
async def test_a_rollback_that_was_asked_for_takes_the_turn_out_of_context(tmp_path: Path) -> None:
    async with serving(tmp_path, store=broken(tmp_path)) as server:
        await server.session("s")
        await run_half(server)
        await server.cancel(run_id="r", rollback=True)
        await failed(server)
    async with serving(tmp_path) as server:
        assert reason_of((await server.terminals("s", ["r"]))["r"]) == "CANCELLED/USER"
        assert [message.in_context for message in await server.messages("s")] == [False, False]


@pytest.mark.asyncio
async def test_a_stop_that_was_asked_for_lets_the_last_step_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await run_half(server)
        receipt = await server.cancel(run_id="r", mode=event_pb2.CANCEL_MODE_STOP)
        assert receipt.runs[0].disposition == run_service_pb2.CANCEL_DISPOSITION_COVERED
        # Accepted after the cancel, so no part of it.
        await server.submit("s", "behind", "behind")
    async with serving(tmp_path) as server:
        await server.gates.reached("half")
        server.gates.open("half")
        outcomes = await server.terminals("s", ["r", "behind"])
        assert (reason_of(outcomes["r"]), outcomes["r"].text) == ("COMPLETED/STOPPED", "one two three four")
        assert reason_of(outcomes["behind"]) == "COMPLETED/ANSWERED"
        assert kinds(await server.history("s")).count("run_cancel_requested") == 1


@pytest.mark.asyncio
async def test_a_stop_still_becomes_an_abort_after_the_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await run_half(server)
        await server.cancel(run_id="r", mode=event_pb2.CANCEL_MODE_STOP)
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await server.gates.reached("half")
        await clock.armed(30.0)
        clock.advance(30.0)
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (reason_of(outcome), outcome.text) == ("CANCELLED/USER", "one two ")


@pytest.mark.asyncio
async def test_a_step_whose_stream_was_open_is_run_again_at_most_twice(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await run_half(server)
        await server.submit("s", "behind", "behind")
    for _ in range(2):
        async with serving(tmp_path) as server:
            await server.gates.reached("half")
    async with serving(tmp_path) as server:
        outcomes = await server.terminals("s", ["r", "behind"])
        assert list(outcomes) == ["r", "behind"]
        assert (reason_of(outcomes["r"]), outcomes["r"].text) == ("FAILED/PROCESS_LOST", "one two ")
        assert outcomes["r"].errors[0].reason == event_pb2.OUTCOME_REASON_PROCESS_LOST
        assert outcomes["r"].usage.own.num_calls == 1
        assert outcomes["behind"].status == COMPLETED
        history = await server.history("s")
        assert kinds(history, "r") == [
            "run_accepted",
            "run_started",
            "message_committed",
            "step_started",
            "attempt_discarded",
            "attempt_discarded",
            "message_committed",
            "step_finished",
            "run_finished",
        ]
        discards = [event.attempt_discarded for event in history if event.HasField("attempt_discarded")]
        assert [(discard.attempt, discard.cause) for discard in discards] == [(1, "PROCESS_LOST"), (2, "PROCESS_LOST")]
        message = [message for message in await server.messages("s") if message.run_id == "r"][-1]
        assert (message.status, text_of(message)) == (content_pb2.MESSAGE_STATUS_FAILED, "one two ")
        assert message.error.title
        assert message.message_id == discards[0].message_id == discards[1].message_id
        # Not a third request: the gate was reached in no stream of this process before this one's.
        await run_half(server, "sentinel")
        assert server.gates.num_waiting("half") == 1
        server.gates.open("half")
        await server.terminals("s", ["sentinel"])
    assert rows(tmp_path, "SELECT * FROM partials") == []


@pytest.mark.asyncio
async def test_a_step_that_is_run_again_shows_nothing_of_the_lost_attempt(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await run_half(server)
        last_seq = (await server.history("s"))[-1].seq
    assert rows(tmp_path, "SELECT attempt, content FROM partials") == [(1, b"one two ")]
    async with serving(tmp_path) as server:
        await server.gates.reached("half")
        stream = server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="s", after_seq=last_seq))
        items = aiter(stream)
        first = (await anext(items)).item
        assert first.event.attempt_discarded.attempt == 1
        shown = (await anext(items)).item.snapshot
        assert (shown.attempt, shown.parts[0].text) == (2, "one two ")
        server.gates.open("half")
        text, closed = shown.parts[0].text, None
        async for response in items:
            item = response.item
            if item.HasField("delta"):
                assert (item.delta.attempt, item.delta.offset) == (2, len(text))
                text += item.delta.text
            elif item.event.HasField("message_committed"):
                closed = item.event
            elif item.event.HasField("run_finished"):
                break
        stream.cancel()
        assert closed is not None
        assert (closed.attempt, text_of(closed.message_committed.message)) == (2, text)
        assert text == "one two three four"
    # Also what was flushed of the attempt that was lost is gone.
    assert rows(tmp_path, "SELECT * FROM partials") == []


@pytest.mark.asyncio
async def test_what_a_lost_attempt_had_flushed_goes_with_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await run_half(server)
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        # On a clock that stands still the second attempt flushes nothing of its own.
        server.gates.open("half")
        await server.terminals("s", ["r"])
        assert rows(tmp_path, "SELECT * FROM partials") == []


@pytest.mark.asyncio
async def test_a_deletion_goes_on(tmp_path: Path) -> None:
    faults = Faults()
    faults.fail("before", when=lambda commit: commit.erase_session_us is not None)
    async with serving(tmp_path, store=SqliteStore(tmp_path, faults=faults)) as server:
        await server.session("s")
        await run_half(server)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.sessions.DeleteSession(session_service_pb2.DeleteSessionRequest(session_id="s", force=True))
        assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        await failed(server)
    assert rows(tmp_path, "SELECT state FROM sessions") == [(2,)]
    async with serving(tmp_path) as server:
        await deleted(server)
        assert reason_of((await server.run_view("r")).outcome) == "CANCELLED/SESSION_DELETED"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.session("s")
        assert reason(caught.value) == "SESSION_EXISTS"
    assert rows(tmp_path, "SELECT state FROM sessions") == [(3,)]
    assert rows(tmp_path, "SELECT * FROM events") == []


@pytest.mark.asyncio
async def test_a_deletion_that_had_cancelled_nothing_yet_starts_no_run(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await run_half(server, "r1")
        await server.submit("s", HALF, "r2")
    # As versions before this one could leave it: marked, and nothing of it cancelled.
    with closing(sqlite3.connect(tmp_path / "turnkeeper.db")) as database:
        database.execute("UPDATE sessions SET state = 2")
        database.commit()
    async with serving(tmp_path) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.submit("s", "new", "new")
        assert reason(caught.value) in ("SESSION_DELETING", "SESSION_NOT_FOUND")
        await deleted(server)
        view = await server.run_view("r2")
        assert reason_of(view.outcome) == "CANCELLED/SESSION_DELETED"
        assert not view.HasField("start_time")
        assert reason_of((await server.run_view("r1")).outcome) == "CANCELLED/SESSION_DELETED"


@pytest.mark.asyncio
async def test_a_deletion_that_is_not_durable_has_cancelled_nothing(tmp_path: Path) -> None:
    faults = Faults()
    faults.fail("before", when=lambda commit: bool(commit.cancel_runs))
    async with serving(tmp_path, store=SqliteStore(tmp_path, faults=faults)) as server:
        await server.session("s")
        await run_half(server, "r1")
        deleting = server.sessions.DeleteSession(session_service_pb2.DeleteSessionRequest(session_id="s", force=True))
        with pytest.raises(grpc.aio.AioRpcError):
            await deleting
        await failed(server)
    assert rows(tmp_path, "SELECT state FROM sessions") == [(1,)]


async def get_forever(server: Harness) -> None:
    """Ask for session s until that is refused."""
    async with asyncio.timeout(LIMIT):
        while True:
            await server.sessions.GetSession(session_service_pb2.GetSessionRequest(session_id="s"))


async def deleted(server: Harness) -> None:
    """Wait until session s is gone, by itself."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get_forever(server)
    assert reason(caught.value) == "SESSION_NOT_FOUND"


@pytest.mark.asyncio
async def test_a_tombstone_survives(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        receipt = await server.cancel(run_id="later")
        assert receipt.runs[0].disposition == run_service_pb2.CANCEL_DISPOSITION_TOMBSTONED
        await run_half(server)
    async with serving(tmp_path) as server:
        server.gates.open("half")
        # Also one that would be refused otherwise, since the session is busy.
        await server.submit("s", HALF, "later", delivery=event_pb2.DELIVERY_REJECT)
        outcome = (await server.terminals("s", ["later"]))["later"]
        assert reason_of(outcome) == "CANCELLED/USER"
        assert outcome.usage.own.num_calls == 0
        await server.terminals("s", ["r"])
    async with serving(tmp_path) as server:
        assert (await server.submit("s", HALF, "later", delivery=event_pb2.DELIVERY_REJECT)).is_replay
    assert rows(tmp_path, "SELECT * FROM tombstones") == []


class Rebooted(ManualClock):
    """The clock of another boot: the wall goes on, the machine counts from elsewhere."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.advance(seconds)
        self._boot = self._now - 3.0

    def monotonic(self) -> float:
        return self._now - self._boot


@pytest.mark.asyncio
async def test_deadlines_go_by_the_wall_clock(tmp_path: Path) -> None:
    def minute() -> duration_pb2.Duration:
        return duration_pb2.Duration(seconds=60)

    async with serving(tmp_path, clock=ManualClock()) as server:
        await server.session("s")
        await server.submit("s", HALF, "slow", run_timeout=minute())
        await server.gates.reached("half")
        await server.submit("s", "late", "late", start_timeout=minute())
        await server.submit("s", "patient", "patient")
        await server.session("t")
        await server.submit("t", HALF, "passed", run_timeout=duration_pb2.Duration(seconds=40))
        await server.gates.reached("half", 2)
        await server.submit("t", "gone", "gone", start_timeout=duration_pb2.Duration(seconds=40))
    clock = Rebooted(50)
    async with serving(tmp_path, clock=clock) as server:
        clock.advance(0)
        outcomes = await server.terminals("t", ["passed", "gone"])
        assert reason_of(outcomes["passed"]) == "FAILED/RUN_DEADLINE"
        assert outcomes["gone"].status == event_pb2.OUTCOME_STATUS_EXPIRED
        await server.gates.reached("half")
        clock.advance(9)
        assert finished(await server.history("s")) == {}
        clock.advance(1)
        outcomes = await server.terminals("s", ["slow", "late", "patient"])
        assert (reason_of(outcomes["slow"]), outcomes["slow"].text) == ("FAILED/RUN_DEADLINE", "one two ")
        assert outcomes["late"].status == event_pb2.OUTCOME_STATUS_EXPIRED
        assert outcomes["patient"].status == COMPLETED


@pytest.mark.asyncio
async def test_a_disconnect_policy_counts_from_the_start(tmp_path: Path) -> None:
    policy = run_service_pb2.DisconnectPolicy(cancel_after=duration_pb2.Duration(seconds=20))
    async with serving(tmp_path, clock=ManualClock()) as server:
        await server.session("s")
        await server.submit("s", HALF, "r", on_disconnect=policy)
        await server.gates.reached("half")
    clock = Rebooted(1000)
    async with serving(tmp_path, clock=clock) as server:
        await server.gates.reached("half")
        clock.advance(20)
        # The channel's own wait for the terminal comes too late to stop the policy.
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert reason_of(outcome) == "CANCELLED/USER"
        assert outcome.actor.endswith("(disconnected)")


@pytest.mark.asyncio
async def test_a_bound_steer_stays_bound(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await run_half(server)
        receipt = await server.submit("s", "and then", "steer", delivery=STEER)
        assert receipt.steers_run_id == "r"
        await server.submit("s", "behind", "behind")
    async with serving(tmp_path) as server:
        server.gates.open("half")
        assert (await server.submit("s", "and then", "steer", delivery=STEER)).is_replay
        outcomes = await server.terminals("s", ["r", "steer", "behind"])
        assert (outcomes["steer"].status, outcomes["steer"].fold.into_run_id) == (FOLDED, "r")
        assert (outcomes["r"].status, outcomes["behind"].status) == (COMPLETED, COMPLETED)
        history = await server.history("s")
        assert finished(history).keys() == {"r", "steer", "behind"}
        assert started_order(history) == ["r", "behind"]
        texts = [text_of(message) for message in await server.messages("s")]
        assert texts.count("and then") >= 1
        # Its message is where its fold says, in the target's turn.
        folded = next(m for m in await server.messages("s") if m.message_id == outcomes["steer"].fold.message_id)
        assert (text_of(folded), folded.run_id) == ("and then", "steer")


@pytest.mark.asyncio
async def test_a_steer_bound_to_a_run_in_line_stays_bound(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await run_half(server, "r1")
        await server.cancel(run_id="r1", mode=event_pb2.CANCEL_MODE_STOP)
        await server.submit("s", "second", "r2")
        receipt = await server.submit("s", "for the second", "steer", delivery=STEER)
        bound = receipt.steers_run_id
    async with serving(tmp_path) as server:
        assert (await server.run_view("steer")).steers_run_id == bound
        server.gates.open("half")
        outcomes = await server.terminals("s", ["r1", "r2", "steer"])
        assert outcomes["steer"].fold.into_run_id == bound


@pytest.mark.asyncio
async def test_a_steer_whose_target_was_aborted_gets_its_own_turn(tmp_path: Path) -> None:
    async with serving(tmp_path, store=broken(tmp_path)) as server:
        await server.session("s")
        await run_half(server)
        await server.submit("s", "and then", "steer", delivery=STEER)
        await server.cancel(run_id="r")
        await failed(server)
    async with serving(tmp_path) as server:
        outcomes = await server.terminals("s", ["r", "steer"])
        assert outcomes["r"].status == CANCELLED
        assert (outcomes["steer"].status, outcomes["steer"].text) == (COMPLETED, "and then")


@pytest.mark.asyncio
async def test_the_usage_of_finished_steps_is_counted(tmp_path: Path) -> None:
    first = directive("one", gate="first", usage={"input_tokens": 10, "output_tokens": 5})
    second = directive("two", gate="second", usage={"input_tokens": 200, "output_tokens": 70})
    async with serving(tmp_path) as server:
        await server.session("s")
        await run_half(server, "r", first, "first")
        await server.submit("s", second, "steer", delivery=STEER)
        server.gates.open("first")
        await server.gates.reached("second")
    async with serving(tmp_path) as server:
        server.gates.open("second")
        outcome = (await server.terminals("s", ["r"]))["r"]
        own = outcome.usage.own
        assert (own.input_tokens, own.output_tokens, own.num_calls, outcome.num_steps) == (210, 75, 2, 2)
        assert [usage.usage.input_tokens for usage in outcome.usage.models] == [210]
        session = await server.sessions.GetSession(session_service_pb2.GetSessionRequest(session_id="s"))
        assert session.session.usage.own.input_tokens == 210
        history = await server.history("s")
        discards = [event.attempt_discarded for event in history if event.HasField("attempt_discarded")]
        assert len(discards) == 1
        # Only the open step was run again.
        assert kinds(history, "r").count("step_started") == 2


@pytest.mark.asyncio
async def test_a_turn_that_lost_its_process_behind_its_last_step_goes_on_there(tmp_path: Path) -> None:
    async with serving(tmp_path, store=broken(tmp_path)) as server:
        await server.session("s")
        await server.submit("s", "hello", "r", max_steps=0)
        await failed(server)
    async with serving(tmp_path) as server:
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (reason_of(outcome), outcome.num_steps) == ("COMPLETED/STEP_LIMIT", 0)
        assert kinds(await server.history("s"), "r") == [
            "run_accepted",
            "run_started",
            "message_committed",
            "run_finished",
        ]


@pytest.mark.asyncio
async def test_a_model_whose_provider_is_gone_fails_its_run_alone(tmp_path: Path) -> None:
    async with serving(tmp_path, providers__other__format="scripted") as server:
        await server.session("s", model="other/echo")
        await run_half(server)
        await server.submit("s", "behind", "behind", model="scripted/echo")
    async with serving(tmp_path) as server:
        outcomes = await server.terminals("s", ["r", "behind"])
        assert reason_of(outcomes["r"]) == "FAILED/PROVIDER_REFUSED"
        assert outcomes["behind"].status == COMPLETED

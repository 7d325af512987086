"""A commit that fails, at every arrow of accept, finish and cancel: the server stops, and nothing acknowledged is lost.

Each test breaks one kind of commit at one point: before its transaction, inside it, or after it, when it is durable and
nobody was told. What the caller cannot know then, the same ids resolve with the next process (U-14).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.service.failure.stories import (
    CANCELLED,
    COMPLETED,
    NOT_SERVING,
    SERVING,
    UNAVAILABLE,
    directive,
    finished,
    health,
    reason_of,
    started_order,
)
from tests.service.harness import LIMIT, Harness, details, reason, serving, submission
from tests.service.manual_clock import ManualClock
from turnkeeper.v1 import event_pb2, run_service_pb2, session_service_pb2
from turnkeeper_service.store.base import Commit
from turnkeeper_service.store.errors import StoreError, StoreFencedError
from turnkeeper_service.store.faults import ALWAYS, FaultPoint, Faults, disk_full
from turnkeeper_service.store.sqlite import SqliteStore
from turnkeeper_service.store.watch import LOOK_SECONDS

POINTS: list[FaultPoint] = ["before", "inside", "after"]
HELD = directive(gate="held", gate_after=2)
every_point = pytest.mark.parametrize("point", POINTS)


def store(data_dir: Path, point: FaultPoint, when: Callable[[Commit], bool], times: int = ALWAYS) -> SqliteStore:
    """A store that fails where a commit is one of these."""
    faults = Faults()
    error = disk_full if times != ALWAYS else lambda: sqlite3.OperationalError("gone")
    faults.fail(point, when=when, times=times, error=error)
    return SqliteStore(data_dir, faults=faults)


def of_run(run_id: str) -> Callable[[Commit], bool]:
    """The commit that accepts this run."""
    return lambda commit: any(row.run_id == run_id for row in commit.insert_runs)


async def refused(call: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(LIMIT):
            await call
    return caught.value


def assert_unknown(error: grpc.aio.AioRpcError) -> None:
    """The call ended by the store's failure, and says so."""
    assert (error.code(), reason(error)) == (UNAVAILABLE, "STORE_UNAVAILABLE")
    assert details(error)["RetryInfo"].retry_delay.seconds == 1


async def stopped(server: Harness) -> BaseException:
    """Wait until the server has stopped for a fault; it serves no more then."""
    async with asyncio.timeout(LIMIT):
        failure = await asyncio.shield(server.server.failure)
        while await health(server) == SERVING:
            pass
    assert await health(server, "turnkeeper.v1.RunService") == NOT_SERVING
    error = await refused(server.submit("s", "too late", "late"))
    assert error.code() == UNAVAILABLE
    return failure


async def completed(server: Harness, run_ids: list[str], session_id: str = "s") -> dict[str, event_pb2.Outcome]:
    """Wait for these runs; all others of the session have one terminal at most."""
    outcomes = await server.terminals(session_id, run_ids)
    finished(await server.history(session_id))
    return outcomes


@every_point
@pytest.mark.asyncio
async def test_the_commit_of_an_accept_fails(point: FaultPoint, tmp_path: Path) -> None:
    async with serving(tmp_path, store=store(tmp_path, point, of_run("r"))) as server:
        await server.session("s")
        assert await health(server) == SERVING
        first = await server.submit("s", HELD, "acknowledged")
        await server.gates.reached("held")
        assert_unknown(await refused(server.submit("s", "hello", "r")))
        assert isinstance(await stopped(server), StoreError)
    async with serving(tmp_path) as server:
        server.gates.open("held")
        if point == "after":
            # It was accepted, although nobody heard of it.
            assert (await server.run_view("r")).accept_sequence > first.accept_sequence
        else:
            assert reason(await refused(server.run_view("r"))) == "RUN_NOT_FOUND"
        again = await server.submit("s", "hello", "r")
        assert again.is_replay == (point == "after")
        outcomes = await completed(server, ["acknowledged", "r"])
        assert [outcome.status for outcome in outcomes.values()] == [COMPLETED, COMPLETED]
        assert reason(await refused(server.run_view("late"))) == "RUN_NOT_FOUND"


@every_point
@pytest.mark.asyncio
async def test_the_commit_of_a_start_fails(point: FaultPoint, tmp_path: Path) -> None:
    async with serving(tmp_path, store=store(tmp_path, point, lambda commit: bool(commit.start_runs))) as server:
        await server.session("s")
        server.places.hold("turn", "r")
        await server.submit("s", "hello", "r")
        queued = await server.submit("s", "behind", "behind")
        watch = server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="s", after_seq=0))
        items = aiter(watch)
        while (await anext(items)).item.event.run_id != "behind":
            pass
        server.places.release("turn", "r")

        async def to_the_end() -> None:
            async for response in items:
                assert response.item.event.run_id == "behind"

        error = await refused(to_the_end())
        assert_unknown(error)
        # A reader is told how far it got: to the last event of the run behind, which stands in line.
        assert int(details(error)["ErrorInfo"].metadata["last_seq"]) == queued.accepted_seq + 1
        await stopped(server)
    async with serving(tmp_path) as server:
        outcomes = await completed(server, ["r", "behind"])
        assert [outcome.status for outcome in outcomes.values()] == [COMPLETED, COMPLETED]
        history = await server.history("s")
        assert started_order(history) == ["r", "behind"]
        # After a start that was durable, the step's stream is taken for lost.
        assert sum(event.HasField("attempt_discarded") for event in history) == (point == "after")


@every_point
@pytest.mark.asyncio
async def test_the_commit_of_a_terminal_fails(point: FaultPoint, tmp_path: Path) -> None:
    async with serving(tmp_path, store=store(tmp_path, point, lambda commit: bool(commit.finish_runs))) as server:
        await server.session("s")
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        request = run_service_pb2.RunRequest()
        request.submission.CopyFrom(submission("s", "behind", "behind"))
        run = server.runs.Run(request)
        assert (await anext(aiter(run))).item.receipt.run.position == 1
        waiting = asyncio.ensure_future(collect(run))
        server.gates.open("held")
        items, error = await waiting
        assert_unknown(error)
        # The line does not move before the terminal is durable.
        assert not any(item.event.HasField("run_started") for item in items)
        assert (await server.run_view("r")).state == run_service_pb2.RUN_STATE_RUNNING
        await stopped(server)
    async with serving(tmp_path) as server:
        server.gates.open("held")
        outcomes = await completed(server, ["r", "behind"])
        assert list(outcomes) == ["r", "behind"]
        assert outcomes["r"].status == COMPLETED
        assert outcomes["behind"].text == "behind"
        history = await server.history("s")
        assert sum(event.HasField("attempt_discarded") for event in history) == (point != "after")


async def collect(call: Any) -> tuple[list[run_service_pb2.StreamItem], grpc.aio.AioRpcError]:
    """What a stream gives, and the error that ends it."""
    items: list[run_service_pb2.StreamItem] = []

    async def read() -> None:
        async for response in call:
            items.append(response.item)

    return items, await refused(read())


@every_point
@pytest.mark.asyncio
async def test_the_commit_of_a_cancel_fails(point: FaultPoint, tmp_path: Path) -> None:
    async with serving(tmp_path, store=store(tmp_path, point, lambda commit: bool(commit.cancel_runs))) as server:
        await server.session("s")
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        await server.submit("s", "behind", "behind")
        assert_unknown(await refused(server.cancel("s")))
        # Nothing acts on a cancel that is not durable: the stream is still open.
        assert server.gates.num_waiting("held") == 1
        await stopped(server)
        assert server.gates.num_waiting("held") == 1
    async with serving(tmp_path) as server:
        server.gates.open("held")
        outcomes = await completed(server, ["r", "behind"])
        expected = CANCELLED if point == "after" else COMPLETED
        assert [outcome.status for outcome in outcomes.values()] == [expected, expected]


@every_point
@pytest.mark.asyncio
async def test_a_cancel_that_waits_for_a_terminal_that_fails(point: FaultPoint, tmp_path: Path) -> None:
    async with serving(tmp_path, store=store(tmp_path, point, lambda commit: bool(commit.finish_runs))) as server:
        await server.session("s")
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        waiting = asyncio.ensure_future(refused(server.cancel("s", wait=True)))
        await stopped(server)
        await server.server.close()
        assert_unknown(await waiting)
    async with serving(tmp_path) as server:
        outcomes = await completed(server, ["r"])
        assert reason_of(outcomes["r"]) == "CANCELLED/USER"
        receipt = await server.cancel(run_id="r")
        assert receipt.runs[0].disposition == run_service_pb2.CANCEL_DISPOSITION_ALREADY_FINISHED


@every_point
@pytest.mark.asyncio
async def test_the_commit_of_a_replace_fails(point: FaultPoint, tmp_path: Path) -> None:
    async with serving(tmp_path, store=store(tmp_path, point, of_run("new"))) as server:
        await server.session("s")
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        await server.submit("s", "behind", "behind")
        assert_unknown(await refused(server.submit("s", "new", "new", delivery=event_pb2.DELIVERY_REPLACE)))
        assert server.gates.num_waiting("held") == 1
        await stopped(server)
    async with serving(tmp_path) as server:
        server.gates.open("held")
        if point == "after":
            # The accept and its victims' cancels are one commit: all of it is so.
            outcomes = await completed(server, ["r", "behind", "new"])
            assert [reason_of(outcomes[run_id]) for run_id in ("r", "behind", "new")] == [
                "CANCELLED/REPLACED",
                "CANCELLED/REPLACED",
                "COMPLETED/ANSWERED",
            ]
            assert outcomes["behind"].superseded_by_run_id == "new"
        else:
            outcomes = await completed(server, ["r", "behind"])
            assert [outcome.status for outcome in outcomes.values()] == [COMPLETED, COMPLETED]
            assert reason(await refused(server.run_view("new"))) == "RUN_NOT_FOUND"


@every_point
@pytest.mark.asyncio
async def test_the_commit_of_a_tombstone_fails(point: FaultPoint, tmp_path: Path) -> None:
    faults = Faults()
    async with serving(tmp_path, store=SqliteStore(tmp_path, faults=faults)) as server:
        await server.session("s")
        faults.fail(point)
        assert_unknown(await refused(server.cancel(run_id="later")))
        await stopped(server)
    async with serving(tmp_path) as server:
        await server.submit("s", "hello", "later")
        outcomes = await completed(server, ["later"])
        assert outcomes["later"].status == (CANCELLED if point == "after" else COMPLETED)


@every_point
@pytest.mark.asyncio
async def test_the_commit_of_a_new_session_fails(point: FaultPoint, tmp_path: Path) -> None:
    def is_new(commit: Commit) -> bool:
        return commit.insert_session is not None and commit.session_id == "new"

    async with serving(tmp_path, store=store(tmp_path, point, is_new)) as server:
        await server.session("s")
        assert_unknown(await refused(server.session("new", title="t")))
        await stopped(server)
    async with serving(tmp_path) as server:
        if point != "after":
            assert reason(await refused(server.submit("new", "hello"))) == "SESSION_NOT_FOUND"
        # The same call resolves it, either way.
        assert (await server.session("new", title="t")).settings.title == "t"
        await server.submit("new", "hello", "r")
        await completed(server, ["r"], "new")


@every_point
@pytest.mark.asyncio
async def test_the_commit_of_a_fold_fails(point: FaultPoint, tmp_path: Path) -> None:
    def folds(commit: Commit) -> bool:
        return any(finish.run_id == "steer" for finish in commit.finish_runs)

    async with serving(tmp_path, store=store(tmp_path, point, folds)) as server:
        await server.session("s")
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        await server.submit("s", "and then", "steer", delivery=event_pb2.DELIVERY_STEER)
        server.gates.open("held")
        await stopped(server)
    async with serving(tmp_path) as server:
        server.gates.open("held")
        outcomes = await completed(server, ["r", "steer"])
        assert outcomes["steer"].fold.into_run_id == "r"
        # Where the fold was not written, the step that is run again takes it in.
        assert (outcomes["r"].status, outcomes["r"].num_steps) == (COMPLETED, 2 if point == "after" else 1)
        texts = [part.text.text for message in await server.messages("s") for part in message.parts]
        # As prompt and as the echo of it, and not once more.
        assert texts.count("and then") == 2


@every_point
@pytest.mark.asyncio
async def test_the_commit_that_marks_a_deletion_fails(point: FaultPoint, tmp_path: Path) -> None:
    def marks(commit: Commit) -> bool:
        return commit.session_state is not None

    async with serving(tmp_path, store=store(tmp_path, point, marks)) as server:
        await server.session("s")
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        request = session_service_pb2.DeleteSessionRequest(session_id="s", force=True)
        assert_unknown(await refused(server.sessions.DeleteSession(request)))
        await stopped(server)
    async with serving(tmp_path) as server:
        server.gates.open("held")
        if point == "after":
            async with asyncio.timeout(LIMIT):
                while (await server.run_view("r")).state != run_service_pb2.RUN_STATE_FINISHED:
                    pass
            assert reason_of((await server.run_view("r")).outcome) == "CANCELLED/SESSION_DELETED"
        else:
            assert (await completed(server, ["r"]))["r"].status == COMPLETED


@pytest.mark.parametrize("arrow", ["accept", "start", "terminal", "cancel"])
@pytest.mark.asyncio
async def test_a_fault_that_passes_is_not_noticed(arrow: str, tmp_path: Path) -> None:
    whens: dict[str, Callable[[Commit], bool]] = {
        "accept": lambda commit: bool(commit.insert_runs),
        "start": lambda commit: bool(commit.start_runs),
        "terminal": lambda commit: bool(commit.finish_runs),
        "cancel": lambda commit: bool(commit.cancel_runs),
    }
    async with serving(tmp_path, store=store(tmp_path, "inside", whens[arrow], times=2)) as server:
        await server.session("s")
        await server.submit("s", HELD, "r")
        await server.gates.reached("held")
        await server.submit("s", "behind", "behind")
        await server.cancel(run_id="r")
        outcomes = await completed(server, ["r", "behind"])
        assert (outcomes["r"].status, outcomes["behind"].status) == (CANCELLED, COMPLETED)
        assert await health(server) == SERVING
        assert not server.server.failure.done()


@pytest.mark.asyncio
async def test_a_failure_reaches_all_who_wait(tmp_path: Path) -> None:
    """Streams of other sessions, of the tenant and of both ways; a duplicate that waits for the same accept."""
    faults = Faults()
    faults.fail("before", when=of_run("r"), error=lambda: sqlite3.OperationalError("gone"))
    async with serving(tmp_path, store=SqliteStore(tmp_path, faults=faults)) as server:
        await server.session("s")
        await server.session("other")
        watch = server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="other", after_seq=0))
        assert (await anext(aiter(watch))).item.event.HasField("session_created")
        tenant = server.runs.WatchTenant(run_service_pb2.WatchTenantRequest())
        converse = server.runs.Converse()
        await converse.write(run_service_pb2.ConverseRequest(open=run_service_pb2.OpenFrame(session_id="other")))
        assert (await converse.read()).item.receipt.HasField("open")

        async def talk() -> None:
            while (await converse.read()) is not grpc.aio.EOF:
                pass

        faults.pause()
        first = asyncio.ensure_future(refused(server.submit("s", "hello", "r")))
        second = asyncio.ensure_future(refused(server.submit("s", "hello", "r")))
        # Behind both on the same connection; what it reads does not wait for the writer.
        while not server.server.runs.parts.runs:
            assert reason(await refused(server.run_view("r"))) == "RUN_NOT_FOUND"
        assert reason(await refused(server.run_view("r"))) == "RUN_NOT_FOUND"
        faults.resume()
        assert_unknown(await first)
        assert_unknown(await second)
        for stream in (watch, tenant):
            _, error = await collect(stream)
            assert_unknown(error)
        assert_unknown(await refused(talk()))
        await stopped(server)


@pytest.mark.asyncio
async def test_a_fence_that_is_lost_ends_the_owner(tmp_path: Path) -> None:
    clock = ManualClock()
    # Streams are quiet for an hour: nobody's heartbeat tells.
    async with serving(tmp_path, clock=clock, server__heartbeat_interval_seconds="3600") as first:
        await first.session("s")
        await first.submit("s", HELD, "r")
        await first.gates.reached("held")
        watch = first.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="s", after_seq=0))
        assert (await anext(aiter(watch))).item.event.HasField("session_created")
        # What an operator does who takes the lock for stale.
        (tmp_path / "LOCK").unlink()
        async with serving(tmp_path) as second:
            await second.gates.reached("held")
            # Nothing is written by the first owner: it hears of it when it looks next.
            await clock.armed(LOOK_SECONDS)
            clock.advance(LOOK_SECONDS)
            _, error = await collect(watch)
            assert_unknown(error)
            assert isinstance(await stopped(first), StoreFencedError)
            await first.server.close()
            assert first.gates.num_waiting("held") == 0
            second.gates.open("held")
            assert (await completed(second, ["r"]))["r"].status == COMPLETED
            discards = [event for event in await second.history("s") if event.HasField("attempt_discarded")]
            assert len(discards) == 1


@pytest.mark.asyncio
async def test_a_commit_behind_a_lost_fence_changes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, clock=ManualClock()) as first:
        await first.session("s")
        await first.submit("s", HELD, "r")
        await first.gates.reached("held")
        (tmp_path / "LOCK").unlink()
        async with serving(tmp_path) as second:
            await second.gates.reached("held")
            assert_unknown(await refused(first.submit("s", "from the grave", "ghost")))
            assert isinstance(await stopped(first), StoreFencedError)
            # Its turn goes on to its end, and cannot write it.
            first.gates.open("held")
            await first.server.close()
            second.gates.open("held")
            assert (await completed(second, ["r"]))["r"].status == COMPLETED
            assert reason(await refused(second.run_view("ghost"))) == "RUN_NOT_FOUND"

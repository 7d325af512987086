"""WatchTenant: notices across sessions, and what a reader is told that lags."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.service.harness import LIMIT, Harness, serving, submission
from tests.service.wire.held_store import HeldStore
from tests.service.wire.talk import Talk
from turnkeeper.v1 import event_pb2, run_service_pb2, session_service_pb2

ACCEPTED = run_service_pb2.RUN_STATE_QUEUED
STARTED = run_service_pb2.RUN_STATE_RUNNING
FINISHED = run_service_pb2.RUN_STATE_FINISHED


async def watching(server: Harness, **fields: Any) -> Any:
    call = server.runs.WatchTenant(run_service_pb2.WatchTenantRequest(**fields))
    await call.initial_metadata()
    return call


async def next_notice(call: Any) -> run_service_pb2.WatchTenantResponse:
    async with asyncio.timeout(LIMIT):
        notice = await call.read()
    assert isinstance(notice, run_service_pb2.WatchTenantResponse)
    return notice


@pytest.mark.asyncio
async def test_a_tenant_is_told_of_sessions_and_runs_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        call = await watching(server)
        await server.session("s", title="first")
        await server.submit("s", "hello", run_id="r")
        await server.terminals("s", ["r"])
        settings = session_service_pb2.SessionSettings(title="second")
        await server.sessions.UpdateSession(session_service_pb2.UpdateSessionRequest(session_id="s", settings=settings))
        history = await server.history("s")
        await server.sessions.DeleteSession(session_service_pb2.DeleteSessionRequest(session_id="s"))
        notices = [await next_notice(call) for _ in range(6)]
        created, accepted, started, finished, updated, deleted = notices
        assert (created.session.session_id, created.session.title, created.session.is_deleted) == ("s", "first", False)
        states = [(one.run.session_id, one.run.run_id, one.run.state) for one in (accepted, started, finished)]
        assert states == [("s", "r", ACCEPTED), ("s", "r", STARTED), ("s", "r", FINISHED)]
        assert finished.run.outcome.status == event_pb2.OUTCOME_STATUS_COMPLETED
        assert finished.run.outcome.text == ""
        assert (updated.session.title, updated.session.is_deleted) == ("second", False)
        assert (deleted.session.session_id, deleted.session.is_deleted) == ("s", True)
        payloads = {event.seq: event.WhichOneof("payload") for event in history}
        named = [
            (created.session.seq, "session_created"),
            (accepted.run.seq, "run_accepted"),
            (started.run.seq, "run_started"),
            (finished.run.seq, "run_finished"),
            (updated.session.seq, "session_updated"),
        ]
        assert [(seq, payloads[seq]) for seq, _ in named] == named
        assert all(notice.HasField("time") for notice in notices)
        call.cancel()


@pytest.mark.asyncio
async def test_a_reader_may_begin_with_the_sessions_that_are_busy(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("idle")
        for session_id in ("a", "b"):
            await server.session(session_id, title=f"title of {session_id}")
            await server.submit(session_id, '{"gate": "g"}', run_id=f"r-{session_id}")
        await server.gates.reached("g", 2)
        call = await watching(server, with_current=True)
        current = [await next_notice(call) for _ in range(2)]
        assert {(one.session.session_id, one.session.title) for one in current} == {
            ("a", "title of a"),
            ("b", "title of b"),
        }
        for notice in current:
            assert notice.session.seq == (await server.history(notice.session.session_id))[-1].seq
        await server.cancel("b")
        follow = await next_notice(call)
        assert (follow.run.run_id, follow.run.state) == ("r-b", FINISHED)
        assert follow.run.outcome.reason == event_pb2.OUTCOME_REASON_USER
        await server.cancel("a")
        call.cancel()


@pytest.mark.asyncio
async def test_a_reader_that_lags_is_told_how_much_it_missed_and_goes_on(tmp_path: Path) -> None:
    number = 600
    store = HeldStore(tmp_path)
    async with serving(tmp_path, store=store) as server:
        await server.session("s")
        talk = await Talk.open(server, "s", filter=run_service_pb2.WatchFilter(run_ids=["none"]))
        await talk.ask("0", submit=submission("", '{"gate": "g"}', run_id="0"))
        await server.gates.reached("g")
        for one in range(1, number):
            await talk.send(str(one), submit=submission("", "hello", run_id=str(one)))
        await talk.answer(str(number - 1))
        call = await watching(server)
        store.hold()
        cancelling = asyncio.ensure_future(server.cancel("s"))
        await store.came(1)
        store.release()
        # The cancel is durable, and all of them end with it, far more than a reader's buffer holds.
        await cancelling
        finished: list[str] = []
        missed = 0
        while len(finished) + missed < number:
            notice = await next_notice(call)
            if notice.HasField("lagged"):
                assert notice.lagged.num_missed > 0
                missed += notice.lagged.num_missed
            else:
                assert notice.run.state == FINISHED
                finished.append(notice.run.run_id)
        assert missed > 0
        assert len(finished) == len(set(finished)) == number - missed
        await server.submit("s", "hello", run_id="sentinel")
        states = [(notice.run.run_id, notice.run.state) for notice in [await next_notice(call) for _ in range(3)]]
        assert states == [("sentinel", ACCEPTED), ("sentinel", STARTED), ("sentinel", FINISHED)]
        # What it missed is in the lists.
        runs = await server.runs.ListRuns(run_service_pb2.ListRunsRequest(session_id="s", is_open_only=True))
        assert list(runs.runs) == []
        call.cancel()
        talk.cancel()

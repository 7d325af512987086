"""A process that was lost with very many runs open: the next one puts all of them back, soon."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.service.failure.stories import COMPLETED, directive, finished, started_order
from tests.service.harness import LIMIT, serving, submission
from turnkeeper.v1 import admin_service_pb2, content_pb2, event_pb2, session_service_pb2
from turnkeeper_service.ids import turn_id_of
from turnkeeper_service.store.base import Commit, EventRow, MessageRow, RunRow, RunState, SessionRow, SessionState
from turnkeeper_service.store.sqlite import SqliteStore

HELD = directive(gate="held")
NOW_US = int(time.time() * 1_000_000)


class Prepared:
    """One session as a process leaves it: a step's stream open, and runs in line behind it."""

    def __init__(self, session_id: str, num_runs: int, sequence: int) -> None:
        usage = content_pb2.RunUsage().SerializeToString()
        row = SessionRow("default", session_id, SessionState.ACTIVE, NOW_US, NOW_US, 0, "", b"", usage)
        self.commit = Commit("default", session_id, insert_session=row, updated_us=NOW_US)
        self._event(event_pb2.Event(session_created=event_pb2.SessionCreated()))
        for number in range(num_runs):
            self._accept(f"{session_id}-{number}", sequence + number)
        self._start(f"{session_id}-0", sequence)

    def _event(self, event: event_pb2.Event) -> int:
        event.session_id, event.seq = self.commit.session_id, len(self.commit.events) + 1
        payload = event.WhichOneof("payload")
        assert payload is not None
        kind = event.DESCRIPTOR.fields_by_name[payload].number
        self.commit.events.append(EventRow(event.seq, event.run_id, kind, event.SerializeToString()))
        return event.seq

    def _accept(self, run_id: str, sequence: int) -> None:
        made = submission(self.commit.session_id, HELD, run_id)
        event = event_pb2.Event(run_id=run_id)
        event.run_accepted.accept_sequence = sequence
        event.run_accepted.kind, event.run_accepted.delivery = event_pb2.RUN_KIND_PROMPT, event_pb2.DELIVERY_QUEUE
        seq = self._event(event)
        self.commit.insert_runs.append(
            RunRow(
                tenant="default",
                run_id=run_id,
                session_id=self.commit.session_id,
                accept_sequence=sequence,
                kind=event_pb2.RUN_KIND_PROMPT,
                delivery=event_pb2.DELIVERY_QUEUE,
                state=RunState.QUEUED,
                fingerprint=b"",
                submission=made.SerializeToString(deterministic=True),
                created_us=NOW_US,
                details=f"{seq}\nlocal".encode(),
            )
        )

    def _start(self, run_id: str, sequence: int) -> None:
        turn_id, message_id = turn_id_of(self.commit.slot, sequence), f"asked-{run_id}"
        self.commit.start_runs.append((run_id, NOW_US))
        started = event_pb2.RunStarted(model="scripted/echo")
        self._event(event_pb2.Event(run_id=run_id, turn_id=turn_id, run_started=started))
        asked = event_pb2.Event(run_id=run_id, turn_id=turn_id, context_id="main")
        message = asked.message_committed.message
        message.message_id, message.role, message.run_id = message_id, content_pb2.ROLE_USER, run_id
        message.turn_id, message.context_id, message.in_context = turn_id, "main", True
        message.status = content_pb2.MESSAGE_STATUS_COMPLETE
        message.parts.add().text.text = HELD
        message.seq = len(self.commit.events) + 1
        seq = self._event(asked)
        self.commit.messages.append(
            MessageRow(seq, message_id, "main", run_id, turn_id, content_pb2.ROLE_USER, in_context=True)
        )
        step = event_pb2.Event(run_id=run_id, turn_id=turn_id, context_id="main", attempt=1)
        step.step_started.step, step.step_started.model = 1, "scripted/echo"
        step.step_started.message_id = f"answer-{run_id}"
        self._event(step)


async def prepare(data_dir: Path, num_sessions: int, num_runs: int) -> None:
    """Make a store with so many sessions of so many open runs each."""
    store = SqliteStore(data_dir)
    boot = await store.open()
    commits = [
        Prepared(f"s{number}", num_runs, boot.last_sequence + 1 + number * num_runs).commit
        for number in range(num_sessions)
    ]
    await asyncio.gather(*(store.commit(commit) for commit in commits))
    await store.close()


@pytest.mark.asyncio
async def test_many_open_runs_are_put_back_and_end(tmp_path: Path) -> None:
    await prepare(tmp_path, 30, 8)
    async with serving(tmp_path) as server:
        stats = await server.admin.GetStats(admin_service_pb2.GetStatsRequest())
        assert (stats.num_open_runs, stats.num_busy_sessions) == (240, 30)
        await server.gates.reached("held", 30)
        server.gates.open("held")
        for number in range(30):
            run_ids = [f"s{number}-{place}" for place in range(8)]
            outcomes = await server.terminals(f"s{number}", run_ids)
            assert {outcome.status for outcome in outcomes.values()} == {COMPLETED}
            history = await server.history(f"s{number}")
            assert finished(history).keys() == set(run_ids)
            assert started_order(history) == run_ids
            assert sum(event.HasField("attempt_discarded") for event in history) == 1
        stats = await server.admin.GetStats(admin_service_pb2.GetStatsRequest())
        assert (stats.num_open_runs, stats.num_busy_sessions) == (0, 0)


@pytest.mark.long
@pytest.mark.parametrize(("num_sessions", "num_runs"), [(1000, 10), (10_000, 1), (1, 10_000)])
@pytest.mark.asyncio
async def test_ten_thousand_open_runs_are_put_back_in_under_five_seconds(
    num_sessions: int, num_runs: int, tmp_path: Path
) -> None:
    await prepare(tmp_path, num_sessions, num_runs)
    began = time.process_time()
    async with serving(tmp_path, limits__max_running_turns_per_tenant="64") as server:
        # In CPU time, which the neighbours of the test do not change.
        took = time.process_time() - began
        stats = await server.admin.GetStats(admin_service_pb2.GetStatsRequest())
        assert stats.num_open_runs == 10_000
        await server.gates.reached("held", min(64, num_sessions))
        async with asyncio.timeout(LIMIT):
            last = f"s{num_sessions - 1}"
            response = await server.sessions.GetSession(session_service_pb2.GetSessionRequest(session_id=last))
        assert response.session.is_busy
    assert took < 5.0

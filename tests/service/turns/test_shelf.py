"""Prompts that stand in line for long, or behind much, leave memory, and nobody notices."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.service.dispatch.script import at_gate, provider, reply
from tests.service.dispatch.watch import CANCELLED, COMPLETED, FAILED, FOLDED, watching
from tests.service.failure.process import ServerProcess
from tests.service.failure.stories import EXPIRED, reason_of
from tests.service.harness import LIMIT, FlatRuns, Harness, serving, submission
from tests.service.manual_clock import ManualClock
from tests.service.turns.scenes import STEER, Tools, calls, recorded, script
from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2, session_service_pb2, session_service_pb2_grpc
from turnkeeper_service.runs.session.shelf import MAX_SESSION_BYTES, MIN_BYTES, SECONDS
from turnkeeper_service.store.base import RunRow, Store
from turnkeeper_service.store.sqlite import SqliteStore

LARGE = (4 << 20) - 1024
"""About as long as a prompt may be."""
ANSWERED = "COMPLETED/ANSWERED"
USER = content_pb2.ROLE_USER
UNBOUNDED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def padded(text: str, size: int = 32 << 10) -> str:
    """A prompt of this many bytes that is answered with this text."""
    return "{" + " " * (size - len(text) - 12) + f'"text": "{text}"' + "}"


def in_memory(server: Harness) -> int:
    """Bytes of the prompts that are kept of runs which are not over."""
    return sum(run.submission.ByteSize() for run in server.server.runs.parts.runs.values())


async def prompts(server: Harness, session_id: str = "s") -> dict[str, str]:
    """What the history has of the user, by run."""
    return {
        message.run_id: "".join(part.text.text for part in message.parts)
        for message in await server.messages(session_id)
        if message.role == USER
    }


def damage(data_dir: Path, run_id: str, submission: str = "x'ff'") -> None:
    """What is stored of a prompt cannot be read any more."""
    with closing(sqlite3.connect(data_dir / "turnkeeper.db")) as connection:
        assert connection.execute(f"UPDATE runs SET submission = {submission} WHERE run_id = '{run_id}'").rowcount == 1
        connection.commit()


class HeldReads(SqliteStore):
    """A store that a test holds while it looks up a run."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.came, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def get_run(self, tenant: str, run_id: str) -> RunRow | None:
        """Look it up, once the test lets it."""
        self.came.set()
        await self.may_go_on.wait()
        return await super().get_run(tenant, run_id)


@asynccontextmanager
async def served(data_dir: Path, clock: ManualClock, store: Store | None = None) -> AsyncIterator[Harness]:
    """A server whose line has no bound, over a connection that takes long messages."""
    async with (
        serving(data_dir, clock=clock, store=store, limits__max_queued_bytes_per_session=str(1 << 30)) as server,
        grpc.aio.insecure_channel(server.server.grpc_address, options=UNBOUNDED) as channel,
    ):
        yield Harness(server.server, channel, server.gates, server.places)


@asynccontextmanager
async def line(
    data_dir: Path, count: int, size: int = 32 << 10, store: Store | None = None, **options: Any
) -> AsyncIterator[tuple[Harness, Any]]:
    """A server, and its clock, with so many prompts behind the run ``r``, which is held at the gate ``g``."""
    clock = ManualClock()
    async with served(data_dir, clock, store) as server:
        await server.session("s")
        await server.submit("s", reply("r is done", gate="g"), "r")
        await at_gate(server, "g")
        for number in range(count):
            await server.submit("s", padded(f"done {number}", size), f"q{number}", **options)
        yield server, clock


@pytest.mark.asyncio
async def test_thirty_prompts_of_four_mebibytes_leave_memory_and_are_answered_whole(tmp_path: Path) -> None:
    async with line(tmp_path, 30, LARGE) as (server, clock):
        assert in_memory(server) < MAX_SESSION_BYTES + (64 << 10)
        clock.advance(SECONDS)
        assert in_memory(server) < 64 << 10
        server.gates.open("g")
        async with asyncio.timeout(120), watching(server, "s") as watch:
            names = [f"q{number}" for number in range(30)]
            for number, name in enumerate(names):
                outcome = await watch.terminal(name)
                assert (outcome.status, outcome.text) == (COMPLETED, f"done {number}")
            assert list(watch.terminals()) == ["r", *names]
            whole = {
                event.run_id: event.message_committed.message.parts[0].text.text
                for event in watch.events
                if event.message_committed.message.role == USER and event.run_id != "r"
            }
        assert whole == {name: padded(f"done {number}", LARGE) for number, name in enumerate(names)}


@pytest.mark.asyncio
async def test_a_prompt_leaves_memory_after_a_second_and_a_short_one_stays(tmp_path: Path) -> None:
    async with line(tmp_path, 1) as (server, clock):
        clock.advance(SECONDS / 2)
        await server.submit("s", padded("later"), "later")
        await server.submit("s", padded("short", MIN_BYTES // 2), "short")
        both = in_memory(server)
        assert both > 64 << 10
        timers = clock.num_armed()
        clock.advance(SECONDS / 2)
        # One of them has waited for long enough; the timer goes on for the other one.
        assert 32 << 10 < in_memory(server) < 64 << 10
        assert clock.num_armed() == timers
        clock.advance(SECONDS / 2)
        assert MIN_BYTES // 2 < in_memory(server) < 2 * MIN_BYTES
        assert clock.num_armed() == timers - 1
        server.gates.open("g")
        outcomes = await server.terminals("s", ["q0", "later", "short"])
        assert [outcome.text for outcome in outcomes.values()] == ["done 0", "later", "short"]
        assert (await prompts(server))["q0"] == padded("done 0")
        assert server.snapshot("s") is None


@pytest.mark.asyncio
async def test_a_steer_that_was_away_folds_whole(tmp_path: Path) -> None:
    async with line(tmp_path, 3, delivery=STEER) as (server, clock):
        requests = recorded(server)
        clock.advance(SECONDS)
        assert in_memory(server) < 4 << 10
        server.gates.open("g")
        outcomes = await server.terminals("s", ["r", "q0", "q1", "q2"])
        assert [outcomes[name].status for name in ("q0", "q1", "q2", "r")] == [FOLDED] * 3 + [COMPLETED]
        whole = [padded(f"done {number}") for number in range(3)]
        assert [message.parts[0].text.text for message in requests[-1].messages][-3:] == whole
        assert [text for name, text in (await prompts(server)).items() if name != "r"] == whole


@pytest.mark.asyncio
async def test_a_steer_that_was_lent_and_given_back_runs_whole(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("slow")
    async with serving(tmp_path, clock=(clock := ManualClock()), tools=tools.offered) as server:
        await server.session("s")
        await server.submit("s", script(calls("slow"), "never said"), "r")
        async with asyncio.timeout(10):
            await tools.gates.reached("slow", 1)
        await server.submit("s", padded("steered"), "q", delivery=STEER)
        clock.advance(SECONDS)
        assert in_memory(server) < 4 << 10
        await server.cancel("s", run_id="r")
        outcomes = await server.terminals("s", ["r", "q"])
        assert [(outcome.status, outcome.text) for outcome in outcomes.values()] == [
            (CANCELLED, ""),
            (COMPLETED, "steered"),
        ]
        assert (await prompts(server))["q"] == padded("steered")


@pytest.mark.asyncio
async def test_a_cancel_while_a_prompt_is_read_again_lists_it_whole(tmp_path: Path) -> None:
    store = HeldReads(tmp_path)
    async with line(tmp_path, 2, store=store) as (server, clock), watching(server, "s") as watch:
        clock.advance(SECONDS)
        server.gates.open("g")
        await asyncio.wait_for(store.came.wait(), LIMIT)
        await server.cancel("s", run_id="q0")
        assert (await watch.terminal("q0")).status == CANCELLED
        store.may_go_on.set()
        assert (await watch.terminal("q1")).text == "done 1"
        assert "run_started" not in watch.of("q0")
        listed = await prompts(server)
        assert [listed["q0"], listed["q1"]] == [padded("done 0"), padded("done 1")]


@pytest.mark.asyncio
async def test_a_steer_whose_target_is_cancelled_while_it_is_read_again_runs_whole(tmp_path: Path) -> None:
    store = HeldReads(tmp_path)
    async with line(tmp_path, 2, store=store, delivery=STEER) as (server, clock), watching(server, "s") as watch:
        clock.advance(SECONDS)
        server.gates.open("g")
        await asyncio.wait_for(store.came.wait(), LIMIT)
        await server.cancel("s", run_id="r")
        assert (await watch.terminal("r")).status == CANCELLED
        store.may_go_on.set()
        ends = [await watch.terminal(name) for name in ("q0", "q1")]
        assert {end.status for end in ends} <= {COMPLETED, FOLDED}
        listed = await prompts(server)
        assert [listed["q0"], listed["q1"]] == [padded("done 0"), padded("done 1")]


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [32 << 10, 128 << 10])
@pytest.mark.parametrize("how", ["session", "run", "clear", "replace", "expiry"])
async def test_prompts_that_never_begin_are_listed_whole(tmp_path: Path, how: str, size: int) -> None:
    options: dict[str, Any] = {}
    if how == "expiry":
        options["start_timeout"] = {"seconds": 5}
    async with line(tmp_path, 2, size, **options) as (server, clock), watching(server, "s") as watch:
        await watch.seen("q1", "run_accepted")
        clock.advance(SECONDS)
        assert in_memory(server) < 4 << 10
        if how == "session":
            await server.cancel("s")
        elif how == "run":
            for name in ("q0", "q1"):
                await server.cancel("s", run_id=name)
        elif how == "clear":
            await server.runs.ClearQueue(run_service_pb2.ClearQueueRequest(session_id="s"))
        elif how == "replace":
            await server.submit("s", "instead", "i", delivery=event_pb2.DELIVERY_REPLACE)
        else:
            clock.advance(5.0)
        for number in range(2):
            outcome = await watch.terminal(f"q{number}")
            assert outcome.status == (EXPIRED if how == "expiry" else CANCELLED)
            seen = await watch.seen(f"q{number}", "message_committed")
            assert seen.message_committed.message.parts[0].text.text == padded(f"done {number}", size)
        listed = await prompts(server)
        assert [listed[f"q{number}"] for number in range(2)] == [padded("done 0", size), padded("done 1", size)]
        # A reader that comes later sees the same.
        events = {event.seq: event for event in await server.history("s")}
        assert all(events[event.seq] == event for event in watch.events)
        server.gates.open("g")
        await server.submit("s", "after", "after")
        assert (await watch.terminal("after")).text == "after"


@pytest.mark.asyncio
async def test_who_watches_a_session_that_is_deleted_sees_its_prompts_end(tmp_path: Path) -> None:
    async with line(tmp_path, 3) as (server, clock), watching(server, "s") as watch:
        await watch.seen("q2", "run_accepted")
        clock.advance(SECONDS)
        assert in_memory(server) < 4 << 10
        request = session_service_pb2.DeleteSessionRequest(session_id="s", force=True)
        await server.sessions.DeleteSession(request)
        for name in ("q0", "q1", "q2"):
            assert reason_of(await watch.terminal(name)) == "CANCELLED/SESSION_DELETED"
            assert "message_committed" in watch.of(name)


@pytest.mark.asyncio
@pytest.mark.parametrize("stored", ["x'ff'", "x''", "'text'"])
async def test_a_prompt_that_cannot_be_read_again_fails_its_own_run(tmp_path: Path, stored: str) -> None:
    async with line(tmp_path, 2) as (server, clock):
        clock.advance(SECONDS)
        damage(tmp_path, "q0", stored)
        server.gates.open("g")
        outcomes = await server.terminals("s", ["r", "q0", "q1"])
        assert list(map(reason_of, outcomes.values())) == [
            "COMPLETED/ANSWERED",
            "FAILED/INTERNAL",
            "COMPLETED/ANSWERED",
        ]
        assert outcomes["q1"].text == "done 1"
        lost = [message for message in await server.messages("s") if message.run_id == "q0"]
        assert [(message.in_context, message.error.title) for message in lost] == [
            (False, "Prompt lost"),
            (False, "Session not readable"),
        ]
        assert not server.server.failure.done()


@pytest.mark.asyncio
async def test_a_steer_that_cannot_be_read_again_fails_and_its_target_goes_on(tmp_path: Path) -> None:
    async with line(tmp_path, 2, delivery=STEER) as (server, clock):
        requests = recorded(server)
        clock.advance(SECONDS)
        damage(tmp_path, "q0")
        server.gates.open("g")
        outcomes = await server.terminals("s", ["r", "q0", "q1"])
        assert {name: outcome.status for name, outcome in outcomes.items()} == {
            "q0": FAILED,
            "q1": FOLDED,
            "r": COMPLETED,
        }
        told = [message.parts[0].text.text for message in requests[-1].messages][-2:]
        assert told == ["(a message of the user could not be read)", padded("done 1")]
        assert not server.server.failure.done()


@pytest.mark.asyncio
async def test_a_cancelled_prompt_that_cannot_be_read_again_says_so(tmp_path: Path) -> None:
    async with line(tmp_path, 2) as (server, clock):
        clock.advance(SECONDS)
        damage(tmp_path, "q0")
        await server.runs.ClearQueue(run_service_pb2.ClearQueueRequest(session_id="s"))
        server.gates.open("g")
        outcomes = await server.terminals("s", ["r", "q0", "q1"])
        assert [outcomes[name].status for name in ("r", "q0", "q1")] == [COMPLETED, CANCELLED, CANCELLED]
        listed = {message.run_id: message for message in await server.messages("s") if message.role == USER}
        assert (listed["q0"].error.title, len(listed["q0"].parts)) == ("Prompt lost", 0)
        assert listed["q1"].parts[0].text.text == padded("done 1")
        assert not server.server.failure.done()


@pytest.mark.asyncio
async def test_prompts_that_were_away_when_the_process_was_killed_are_answered_whole(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    names = [f"q{number}" for number in range(6)]
    with ServerProcess(data_dir).serving() as process:
        async with grpc.aio.insecure_channel(process.grpc_address, options=UNBOUNDED) as channel:
            sessions: Any = session_service_pb2_grpc.SessionServiceStub(channel)
            runs: Any = FlatRuns(channel)
            await sessions.CreateSession(session_service_pb2.CreateSessionRequest(session_id="s"))
            texts = [reply("r is done", hang=True), *(padded(name, LARGE) for name in names)]
            for name, text in zip(["r", *names], texts, strict=True):
                await runs.SubmitRun(run_service_pb2.SubmitRunRequest(submission=submission("s", text, name)))
            # What does not fit into 16 MiB has left by now. A cancel of it is durable before the end.
            await runs.CancelRuns(
                run_service_pb2.CancelRunsRequest(session_id="s", scope=run_service_pb2.CancelScope(run_id="q5"))
            )
        process.kill()
    clock = ManualClock()
    async with served(data_dir, clock) as server:
        assert in_memory(server) < MAX_SESSION_BYTES + (64 << 10)
        clock.advance(SECONDS)
        assert in_memory(server) < 64 << 10
        await server.cancel("s", run_id="r")
        outcomes = await server.terminals("s", ["r", *names])
        assert {name: outcomes[name].text for name in names[:5]} == {name: name for name in names[:5]}
        assert (outcomes["r"].status, outcomes["q5"].status) == (CANCELLED, CANCELLED)
        events = await server.history("s")
        whole = {
            event.run_id: event.message_committed.message.parts[0].text.text
            for event in events
            if event.message_committed.message.role == USER and event.run_id != "r"
        }
        assert whole == {name: padded(name, LARGE) for name in names}


@pytest.mark.asyncio
async def test_the_provider_is_asked_no_more_than_once_of_each(tmp_path: Path) -> None:
    async with line(tmp_path, 3) as (server, clock):
        clock.advance(SECONDS)
        before = provider(server).num_calls
        server.gates.open("g")
        await server.terminals("s", ["r", "q0", "q1", "q2"])
        assert provider(server).num_calls == before + 3

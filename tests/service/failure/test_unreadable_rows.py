"""Rows that cannot be read: whoever asks for them is told so, and nobody else notices."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.service.failure.process import ServerProcess
from tests.service.failure.stories import COMPLETED, FAILED, reason_of
from tests.service.harness import Harness, details, reason, serving, submission
from tests.service.wire.talk import Talk
from turnkeeper.v1 import error_pb2, run_service_pb2, session_service_pb2

Call = Callable[[Harness], Awaitable[Any]]


async def get_session(server: Harness) -> None:
    await server.sessions.GetSession(session_service_pb2.GetSessionRequest(session_id="s"))


async def list_sessions(server: Harness) -> None:
    await server.sessions.ListSessions(session_service_pb2.ListSessionsRequest())


async def list_messages(server: Harness) -> None:
    await server.messages("s")


async def list_runs(server: Harness) -> None:
    await server.runs.ListRuns(run_service_pb2.ListRunsRequest(session_id="s"))


async def get_run(server: Harness) -> None:
    await server.run_view("r")


async def watch(server: Harness) -> None:
    await server.history("s")


async def submit(server: Harness) -> None:
    await server.submit("s", "hello")


async def submit_again(server: Harness) -> None:
    await server.submit("s", "needle", "r")


async def cancel(server: Harness) -> None:
    await server.cancel(run_id="r")


async def delete(server: Harness) -> None:
    await server.sessions.DeleteSession(session_service_pb2.DeleteSessionRequest(session_id="s"))


async def lived(data_dir: Path) -> None:
    """A session with a run that is over, and one beside it."""
    async with serving(data_dir) as server:
        for session_id, run_id in (("s", "r"), ("other", "o")):
            await server.session(session_id)
            await server.submit(session_id, "needle", run_id)
            await server.terminals(session_id, [run_id])


def change(data_dir: Path, statement: str) -> None:
    connection = sqlite3.connect(data_dir / "turnkeeper.db")
    try:
        assert connection.execute(statement).rowcount > 0
        connection.commit()
    finally:
        connection.close()


async def assert_corrupt(server: Harness, call: Call) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(server)
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.DATA_LOSS, "STORE_CORRUPT")
    assert "needle" not in str(caught.value.details())


async def assert_unharmed(server: Harness) -> None:
    assert not server.server.failure.done()
    await server.submit("other", "hello", "next")
    assert (await server.terminals("other", ["next"]))["next"].status == COMPLETED


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("statement", "calls"),
    [
        ("UPDATE sessions SET settings = x'ff' WHERE session_id = 's'", [get_session, list_sessions, submit, watch]),
        ("UPDATE sessions SET usage = 'text' WHERE session_id = 's'", [get_session, submit]),
        ("UPDATE sessions SET state = 9 WHERE session_id = 's'", [get_session, submit, delete]),
        ("UPDATE sessions SET title = CAST(x'ff' AS TEXT) WHERE session_id = 's'", [get_session, submit]),
        ("UPDATE runs SET outcome = x'ff' WHERE run_id = 'r'", [get_run, list_runs, submit_again, cancel]),
        ("UPDATE runs SET details = x'ff' WHERE run_id = 'r'", [submit_again]),
        ("UPDATE runs SET created_us = 1 << 62 WHERE run_id = 'r'", [get_run, list_runs]),
        ("UPDATE runs SET created_us = 'never' WHERE run_id = 'r'", [get_run]),
        ("UPDATE runs SET state = 7 WHERE run_id = 'r'", [get_run, submit_again]),
        ("UPDATE events SET payload = x'ff' WHERE session_id = 's'", [watch, list_messages]),
    ],
)
async def test_a_row_that_cannot_be_read_says_so(tmp_path: Path, statement: str, calls: list[Call]) -> None:
    await lived(tmp_path)
    change(tmp_path, statement)
    async with serving(tmp_path) as server:
        for call in calls:
            await assert_corrupt(server, call)
        await assert_unharmed(server)


@pytest.mark.asyncio
async def test_a_page_that_was_overwritten_says_so(tmp_path: Path) -> None:
    await lived(tmp_path)
    async with serving(tmp_path) as server:
        run_ids = [f"r{number}" for number in range(12)]
        for run_id in run_ids:
            await server.submit("s", "needle " * 40, run_id)
        await server.terminals("s", run_ids)
    path = tmp_path / "turnkeeper.db"
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    connection = sqlite3.connect(path)
    roots = {(page - 1) * size for (page,) in connection.execute("SELECT rootpage FROM sqlite_master")}
    connection.close()
    num_damaged = 0
    for start in range(size, len(content), size):
        # Leaves of a clustered table, the events' one: what a start looks at is whole.
        if start not in roots and content[start] == 0x0A and b"r11" in content[start : start + size]:
            content[start : start + 12] = b"\xaa" * 12
            num_damaged += 1
    assert num_damaged
    path.write_bytes(content)
    async with serving(tmp_path) as server:
        for call in (watch, list_messages):
            await assert_corrupt(server, call)
        await get_run(server)
        assert not server.server.failure.done()


@pytest.mark.asyncio
async def test_a_run_whose_history_cannot_be_read_fails(tmp_path: Path) -> None:
    await lived(tmp_path)
    change(tmp_path, "UPDATE events SET payload = x'ff' WHERE session_id = 's'")
    async with serving(tmp_path) as server:
        await server.submit("s", "hello", "later")
        while (view := await server.run_view("later")).state != run_service_pb2.RUN_STATE_FINISHED:
            pass
        assert view.outcome.status == FAILED
        assert reason_of(view.outcome) == "FAILED/INTERNAL"
        await assert_unharmed(server)


@pytest.mark.asyncio
async def test_a_frame_about_what_cannot_be_read_is_refused_and_the_stream_goes_on(tmp_path: Path) -> None:
    await lived(tmp_path)
    change(tmp_path, "UPDATE runs SET outcome = x'ff' WHERE run_id = 'r'")
    async with serving(tmp_path) as server:
        talk = await Talk.open(server, "s")
        await talk.send("bad", submit=submission("s", "needle", "r"))
        assert (await talk.answer("bad")).error.reason == error_pb2.ERROR_REASON_STORE_CORRUPT
        await talk.send("good", submit=submission("s", "hello"))
        assert (await talk.answer("good")).HasField("receipt")
        talk.call.cancel()


@pytest.mark.asyncio
async def test_an_open_run_that_cannot_be_read_is_named_at_the_start(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    await lived(data_dir)
    change(data_dir, "UPDATE runs SET state = 1, submission = x'ff' WHERE run_id = 'r'")
    with ServerProcess(data_dir) as process:
        assert process.ended() == 2
        assert "run r cannot be read" in process.log
        assert "Traceback" not in process.log


@pytest.mark.asyncio
@pytest.mark.parametrize(("gone", "oldest"), [("seq < 3", "3"), ("seq > 0", None)])
async def test_a_cursor_before_what_is_left_is_told_the_oldest(tmp_path: Path, gone: str, oldest: str | None) -> None:
    await lived(tmp_path)
    change(tmp_path, f"DELETE FROM events WHERE session_id = 's' AND {gone}")
    async with serving(tmp_path) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch(server)
        assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
        newest = (await server.sessions.GetSession(session_service_pb2.GetSessionRequest(session_id="s"))).session
        expected = oldest or str(newest.last_seq + 1)
        assert details(caught.value)["ErrorInfo"].metadata["oldest_seq"] == expected
        # From there on it goes on.
        request = run_service_pb2.WatchSessionRequest(session_id="s", after_seq=int(expected) - 1, is_history_only=True)
        seen = [item.item.event.seq async for item in server.runs.WatchSession(request) if item.item.HasField("event")]
        assert seen == list(range(int(expected), newest.last_seq + 1))


@pytest.mark.asyncio
async def test_a_log_with_holes_says_so(tmp_path: Path) -> None:
    await lived(tmp_path)
    change(tmp_path, "DELETE FROM events WHERE session_id = 's' AND seq = 3")
    async with serving(tmp_path) as server:
        await assert_corrupt(server, watch)
        await assert_unharmed(server)

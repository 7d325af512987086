"""What others do to the database while the server uses it: lock it, delete it, replace it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.service.failure.stories import COMPLETED, UNAVAILABLE, directive
from tests.service.harness import LIMIT, Harness, details, reason, serving, submission
from tests.service.manual_clock import ManualClock
from tests.service.wire.talk import Talk
from turnkeeper.v1 import error_pb2, session_service_pb2
from turnkeeper_service.store.errors import StoreError
from turnkeeper_service.store.sqlite import SqliteStore
from turnkeeper_service.store.watch import LOOK_SECONDS

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the write lock until its input ends."""
    command = [sys.executable, "-c", HOLD, str(data_dir / "turnkeeper.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


async def readiness(server: Harness) -> int:
    """What /readyz answers."""

    def ask() -> int:
        try:
            with urllib.request.urlopen(f"http://{server.server.http_address}/readyz") as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    return await asyncio.to_thread(ask)


async def assert_busy(call: Any) -> None:
    """The call is answered, and says that it may be asked again."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    assert (error.code(), reason(error)) == (UNAVAILABLE, "STORE_UNAVAILABLE")
    assert details(error)["RetryInfo"].retry_delay.seconds == 1


@pytest.mark.asyncio
async def test_a_lock_that_somebody_else_holds_fails_no_commit(tmp_path: Path) -> None:
    async with asyncio.timeout(6 * LIMIT), serving(tmp_path) as server:
        for session_id in "s", "other", "gone":
            await server.session(session_id)
        await server.submit("s", directive(gate="held", gate_after=2), "streams")
        await server.gates.reached("held")
        assert await readiness(server) == 200
        update = session_service_pb2.UpdateSessionRequest(
            session_id="other", settings=session_service_pb2.SessionSettings(title="t")
        )
        update.update_mask.paths.append("title")
        talk = await Talk.open(server, "other")
        with held(tmp_path):
            # An answer that goes on meanwhile is written later, too.
            server.gates.open("held")
            await talk.send("framed", submit=submission("other", "hello", "framed"))
            await asyncio.gather(
                assert_busy(server.session("new")),
                assert_busy(server.session("new")),
                assert_busy(server.submit("other", "hello", "r")),
                assert_busy(server.submit("other", "hello", "r")),
                assert_busy(server.cancel(run_id="unseen")),
                assert_busy(server.cancel("s")),
                assert_busy(server.sessions.UpdateSession(update)),
                assert_busy(server.sessions.DeleteSession(session_service_pb2.DeleteSessionRequest(session_id="gone"))),
            )
            error = (await talk.answer("framed")).error
            assert (error.reason, error.retry_after.seconds) == (error_pb2.ERROR_REASON_STORE_UNAVAILABLE, 1)
            assert await readiness(server) == 503
            await server.server.runs.parts.store.check_fence()
            # Those that came later wait as long.
            looked_for = session_service_pb2.GetSessionRequest(session_id="new")
            await asyncio.gather(
                assert_busy(server.submit("other", "hello", "later")),
                # The cancel that came first has the id, until it is written.
                assert_busy(server.submit("other", "hello", "unseen")),
                assert_busy(server.sessions.GetSession(looked_for)),
            )
            assert not server.server.failure.done()
        talk.call.cancel()
        # Their commits come all the same.
        assert (await server.submit("other", "hello", "r")).is_replay
        assert (await server.submit("other", "hello", "later")).is_replay
        outcomes = await server.terminals("other", ["r", "later", "framed"])
        assert [outcome.status for outcome in outcomes.values()] == [COMPLETED] * 3
        await server.terminals("s", ["streams"])
        assert (await server.session("new")).session_id == "new"
        await server.submit("new", "hello", "unseen")
        assert (await server.terminals("new", ["unseen"]))["unseen"].status != COMPLETED
        while await readiness(server) != 200:
            pass
        assert not server.server.failure.done()


@pytest.mark.asyncio
async def test_a_server_whose_store_stays_busy_ends_when_it_is_told_to(tmp_path: Path) -> None:
    async with asyncio.timeout(3 * LIMIT):
        async with serving(tmp_path) as server:
            await server.session("s")
            with held(tmp_path):
                await assert_busy(server.submit("s", "hello", "r"))
                await server.server.close()
        async with serving(tmp_path) as server:
            assert not (await server.submit("s", "hello", "r")).is_replay


@pytest.mark.asyncio
async def test_a_start_waits_for_a_lock_that_somebody_else_holds(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
    store = SqliteStore(tmp_path)
    with held(tmp_path):
        opening = asyncio.ensure_future(store.open())
        # Longer than the writer's own waits are.
        done, _ = await asyncio.wait({opening}, timeout=2.5)
        assert not done
    assert (await opening).epoch == 2
    await store.close()


def _delete(path: Path) -> None:
    path.unlink()


def _replace(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "do"),
    [
        ("turnkeeper.db", _delete),
        ("turnkeeper.db", _replace),
        ("turnkeeper.db", _empty),
        ("turnkeeper.db-wal", _delete),
        ("turnkeeper.db-wal", _replace),
    ],
)
async def test_a_file_that_is_taken_away_stops_the_server(tmp_path: Path, name: str, do: Any) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await server.session("s")
        do(tmp_path / name)
        await clock.armed(LOOK_SECONDS)
        clock.advance(LOOK_SECONDS)
        async with asyncio.timeout(LIMIT):
            failure = await asyncio.shield(server.server.failure)
        assert isinstance(failure, StoreError)
        assert name in str(failure)

"""How the process ends: when it cannot serve, and when it is told to stop."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.service.failure.process import ServerProcess
from tests.service.failure.remote import connected
from tests.service.failure.stories import COMPLETED, directive, reason_of, rows
from tests.service.harness import details, reason
from turnkeeper.v1 import run_service_pb2
from turnkeeper_service.store.sqlite import SqliteStore

SLOW = directive("one two three four", hang=True)


def contents(data_dir: Path) -> dict[str, bytes]:
    """Every file but the lock, with its bytes."""
    return {path.name: path.read_bytes() for path in data_dir.iterdir() if path.name != "LOCK"}


def test_a_data_directory_in_use_is_exit_3(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with ServerProcess(data_dir) as first:
        first.serving()
        with ServerProcess(data_dir, log=tmp_path / "second.log") as second:
            assert second.ended() == 3
            assert f"in use by process {first.pid}" in second.log
    # The first was killed: a lock file of a process that is gone locks nobody out.
    assert (data_dir / "LOCK").exists()
    with ServerProcess(data_dir) as third:
        third.serving()


async def make_database(data_dir: Path) -> None:
    store = SqliteStore(data_dir)
    await store.open()
    await store.close()


@pytest.mark.parametrize("damage", ["garbage", "truncated", "newer", "foreign"])
def test_a_database_that_is_not_ours_is_exit_2_and_left_untouched(damage: str, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    path = data_dir / "turnkeeper.db"
    asyncio.run(make_database(data_dir))
    if damage == "garbage":
        path.write_bytes(os.urandom(8192))
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        with closing(sqlite3.connect(path)) as connection:
            statement = "UPDATE alembic_version SET version_num = '9999'" if damage == "newer" else "DROP TABLE boot"
            connection.execute(statement)
            connection.commit()
    before = contents(data_dir)
    with ServerProcess(data_dir, log=tmp_path / "again.log") as process:
        assert process.ended() == 2
        assert str(path) in process.log
        assert "Traceback" not in process.log
    assert contents(data_dir) == before


@pytest.mark.parametrize("flag", ["--port", "--http-address"])
def test_a_port_that_is_taken_is_exit_1(flag: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        # A second value of a flag wins over the one that the process is always given.
        value = address if flag == "--http-address" else address.rpartition(":")[2]
        with ServerProcess(tmp_path / "data", flag, value) as process:
            assert process.ended() == 1
            assert address in process.log


def test_a_directory_that_cannot_be_made_is_exit_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with ServerProcess(tmp_path / "file" / "data", log=tmp_path / "log") as process:
        assert process.ended() == 1
        assert str(tmp_path / "file" / "data") in process.log


def test_a_directory_that_cannot_be_written_is_exit_1(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    # A folder where the file has to be: nobody can write that, whatever rights they have.
    (data_dir / "turnkeeper.db").mkdir()
    with ServerProcess(data_dir, log=tmp_path / "log") as process:
        assert process.ended() == 1
        assert str(data_dir / "turnkeeper.db") in process.log
    shutil.rmtree(data_dir)


@pytest.mark.asyncio
async def test_sigterm_drains_and_is_exit_0(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", "--drain-timeout", "30") as process:
        async with connected(process.serving()) as server:
            await server.session("s")
            run = server.runs.Run(server.run_request("s", directive("one two three", pace_ms=50), "r"))
            items = aiter(run)
            while (await anext(items)).item.WhichOneof("item") not in ("delta", "snapshot"):
                pass
            process.signal(signal.SIGTERM)
            outcome = None
            async for response in items:
                if response.item.event.HasField("run_finished"):
                    outcome = response.item.event.run_finished.outcome
            assert outcome is not None
            assert (outcome.status, outcome.text) == (COMPLETED, "one two three")
        assert await asyncio.to_thread(process.ended) == 0


@pytest.mark.asyncio
async def test_sigterm_cuts_at_the_deadline_and_is_exit_0(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with ServerProcess(data_dir, "--drain-timeout", "0.05") as process:
        async with connected(process.serving()) as server:
            await server.session("s")
            run = server.runs.Run(server.run_request("s", SLOW, "r"))
            items = aiter(run)
            while (await anext(items)).item.WhichOneof("item") not in ("delta", "snapshot"):
                pass
            process.signal(signal.SIGTERM)
            seqs = [0]

            async def rest() -> None:
                async for response in items:
                    assert not response.item.event.HasField("run_finished")
                    seqs.append(response.item.event.seq)

            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rest()
            assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert int(details(caught.value)["ErrorInfo"].metadata["last_seq"]) >= max(seqs)
        assert await asyncio.to_thread(process.ended) == 0
    assert rows(data_dir, "SELECT run_id, state FROM runs") == [("r", 2)]
    # What was shown was flushed on the way out.
    assert rows(data_dir, "SELECT content FROM partials") == [(b"one two three four",)]


@pytest.mark.asyncio
async def test_a_second_signal_ends_it_at_once_and_loses_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with ServerProcess(data_dir, "--drain-timeout", "600") as process:
        async with connected(process.serving()) as server:
            await server.session("s")
            await server.submit("s", SLOW, "r")
            await server.submit("s", "behind", "behind")
            process.signal(signal.SIGTERM)
            await server.until_draining()
            # Still drained for: a known run is served.
            assert (await server.submit("s", "behind", "behind")).state == run_service_pb2.RUN_STATE_QUEUED
            process.signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.ended) == 1
    with ServerProcess(data_dir) as process:
        async with connected(process.serving()) as server:
            await server.cancel(run_id="r")
            outcomes = await server.terminals("s", ["r", "behind"])
            assert reason_of(outcomes["r"]) == "CANCELLED/USER"
            assert outcomes["behind"].status == COMPLETED

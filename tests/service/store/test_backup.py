"""A copy that is taken while the server runs is whole, and a server on it goes on from there."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import grpc.aio
import pytest

from tests.service.dispatch.script import at_gate, reply
from tests.service.harness import reason, serving
from turnkeeper.v1 import event_pb2, run_service_pb2


def back_up(data_dir: Path, copy: Path) -> None:
    """As the operations page says, by another process's hands: read only."""
    with closing(sqlite3.connect(f"file:{data_dir / 'turnkeeper.db'}?mode=ro", uri=True)) as database:
        database.execute("VACUUM INTO ?", (str(copy),))


@pytest.mark.asyncio
async def test_a_backup_of_a_running_server_is_restored(tmp_path: Path) -> None:
    data_dir, copy, restored = tmp_path / "data", tmp_path / "copy.db", tmp_path / "restored"
    async with serving(data_dir) as server:
        await server.session("s")
        await server.submit("s", "kept", run_id="before")
        await server.terminals("s", ["before"])
        await server.submit("s", reply("whole", gate="g"), run_id="open")
        await at_gate(server, "g")
        await server.submit("s", "in line", run_id="waiting")
        kept = await server.history("s")

        back_up(data_dir, copy)

        # The server that was copied goes on as if nothing had been.
        server.gates.open("g")
        await server.submit("s", "later", run_id="after")
        ended = await server.terminals("s", ["open", "waiting", "after"])
        assert {outcome.status for outcome in ended.values()} == {event_pb2.OUTCOME_STATUS_COMPLETED}
        newest = (await server.history("s"))[-1].seq

    restored.mkdir()
    shutil.copy(copy, restored / "turnkeeper.db")
    async with serving(restored) as server:
        server.gates.open("g")
        ended = await server.terminals("s", ["open", "waiting"])
        assert [ended[name].text for name in ("open", "waiting")] == ["whole", "in line"]
        assert (await server.history("s"))[: len(kept)] == kept
        # What came after the copy is unknown, and may be submitted again; a reader that is ahead is told so.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.run_view("after")
        assert reason(caught.value) == "RUN_NOT_FOUND"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.runs.WatchSession(
                run_service_pb2.WatchSessionRequest(session_id="s", after_seq=newest + 100)
            ).read()
        assert reason(caught.value) == "CURSOR_AHEAD"
        assert not (await server.submit("s", "later", run_id="after")).is_replay
        await server.terminals("s", ["after"])

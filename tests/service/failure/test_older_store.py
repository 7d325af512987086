"""A store whose open runs an older version had begun: they end, once, with what there is of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.service.failure.stories import directive, reason_of
from tests.service.harness import serving
from turnkeeper.v1 import event_pb2

HALF = directive("one two three four", gate="half", gate_after=2)
OLDER = "turn-0123456789abcdef01"
"""A turn as versions before this one named them."""


def rename_turns(data_dir: Path) -> None:
    """Give the turns of all events a name of before."""
    with closing(sqlite3.connect(data_dir / "turnkeeper.db")) as database:
        for session_id, seq, payload in database.execute("SELECT session_id, seq, payload FROM events").fetchall():
            event = event_pb2.Event.FromString(payload)
            if event.turn_id:
                event.turn_id = OLDER
                row = (event.SerializeToString(), session_id, seq)
                database.execute("UPDATE events SET payload = ? WHERE session_id = ? AND seq = ?", row)
        database.commit()


@pytest.mark.asyncio
async def test_open_runs_of_an_older_version_end_as_lost_with_their_partial_text(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await server.submit("s", HALF, "r")
        await server.gates.reached("half")
        await server.submit("s", "next", "n")
    rename_turns(tmp_path)
    async with serving(tmp_path) as server:
        outcomes = await server.terminals("s", ["r", "n"])
        assert (reason_of(outcomes["r"]), outcomes["r"].text) == ("FAILED/PROCESS_LOST", "one two ")
        assert (reason_of(outcomes["n"]), outcomes["n"].text) == ("COMPLETED/ANSWERED", "next")
        assert server.gates.num_waiting("half") == 0, "it was not driven again"
    async with serving(tmp_path) as server:
        assert reason_of((await server.run_view("r")).outcome) == "FAILED/PROCESS_LOST"

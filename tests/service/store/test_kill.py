"""A process that is killed while it writes: what it acknowledged is there, and nothing is there by half."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

from tests.service.store.harness import SqliteHarness
from tests.service.store.victim import EVENTS
from turnkeeper_service.store.conformance.harness import opened
from turnkeeper_service.store.slots import ALL_SLOTS

ROOT = Path(__file__).parents[3]
KILLS = 20


def test_kill_in_mid_write(tmp_path: Path) -> None:
    harness = SqliteHarness(tmp_path)
    chance = random.Random(7)
    acknowledged: set[int] = set()
    for _ in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.service.store.victim", str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as victim:
            assert victim.stdout is not None
            for _ in range(chance.randrange(1, 60)):
                acknowledged.add(int(victim.stdout.readline()))
            victim.kill()
            # What it printed before it died counts too; a last line may be cut off.
            acknowledged.update(int(line) for line in victim.stdout if line.endswith("\n"))
        _check(harness.path, acknowledged)
    assert asyncio.run(_open_sequences(harness)) >= acknowledged


async def _open_sequences(harness: SqliteHarness) -> set[int]:
    async with opened(harness) as store:
        return {row.accept_sequence for row in await store.open_runs(ALL_SLOTS)}


def _check(path: Path, acknowledged: set[int]) -> None:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        runs = {row[0] for row in connection.execute("SELECT accept_sequence FROM runs")}
        assert runs >= acknowledged
        names = {(f"s{number}",) for number in runs}
        for table in ("sessions", "messages", "partials"):
            assert set(connection.execute(f"SELECT session_id FROM {table}")) == names, table
        events = connection.execute("SELECT session_id FROM events GROUP BY session_id HAVING count(*) = ?", (EVENTS,))
        assert set(events) == names
        # The first number that the next process may give is above all that are stored.
        (last,) = connection.execute("SELECT last_sequence FROM boot").fetchone()
        assert last == max(runs)
    finally:
        connection.close()

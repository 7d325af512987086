"""Group commit of the store beside a bare sqlite3 group commit, in paired slices: ``python -m bench.store``.

Both write the same event rows with the same pragmas. The baseline is one thread that takes what is queued and inserts
it by one `executemany`: no fence, no session row, nothing but the rows.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from bench import load
from bench.baselines.group_commit import GroupCommit
from bench.report import Report
from bench.slices import Effort, Measure, Rounds, Slice, compared
from bench.usage import Usage
from turnkeeper_service.store.base import Commit, EventRow, SessionRow, SessionState
from turnkeeper_service.store.sqlite import SqliteStore

PAYLOAD = b"x" * 80
RUNS = 5

Write = Callable[[str, int], Awaitable[None]]


class Writers:
    """Writers that commit as fast as they are acknowledged, each into a session of its own, slice after slice."""

    def __init__(self, write: Write, count: int, rows: int) -> None:
        self._write = write
        self._rows = rows
        self._seqs = {f"session-{number}": 0 for number in range(count)}

    async def slice(self, seconds: float) -> Measure:
        """Write for so many seconds; the CPU is that of this process, which holds writers and store."""
        waits: list[float] = []
        start, cpu = time.perf_counter(), time.process_time()

        async def one(name: str) -> None:
            while (now := time.perf_counter()) - start < seconds:
                await self._write(name, self._seqs[name])
                self._seqs[name] += self._rows
                waits.append(time.perf_counter() - now)

        await asyncio.gather(*(one(name) for name in self._seqs))
        rate = len(waits) / (time.perf_counter() - start)
        return Measure(len(waits), rate, Usage(time.process_time() - cpu), waits)


async def compare(writers: int, rows: int, effort: Effort) -> Rounds:
    """The store beside the bare group commit, both open from beginning to end."""
    with tempfile.TemporaryDirectory() as directory:
        commits = GroupCommit(Path(directory) / "bare.db")
        store = SqliteStore(Path(directory) / "store")
        await store.open()
        for number in range(writers):
            row = SessionRow("acme", f"session-{number}", SessionState.ACTIVE, 1, 1, 0, "", b"", b"")
            await store.commit(Commit("acme", f"session-{number}", insert_session=row))

        async def bare(name: str, seq: int) -> None:
            await commits.commit([("acme", name, seq + i, "run-1", 21, PAYLOAD) for i in range(1, rows + 1)])

        async def ours(name: str, seq: int) -> None:
            events = [EventRow(seq + i, "run-1", 21, PAYLOAD) for i in range(1, rows + 1)]
            await store.commit(Commit("acme", name, events=events))

        slices: dict[str, Slice] = {
            "bare": partial(Writers(bare, writers, rows).slice, effort.seconds),
            "store": partial(Writers(ours, writers, rows).slice, effort.seconds),
        }
        found = await compared(slices, effort)
        commits.close()
        await store.close()
    return found


def per_statement() -> tuple[float, float]:
    """Microseconds of a statement by the driver's cursor and through SQLAlchemy's connection."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import StaticPool

    driver = sqlite3.connect(":memory:", isolation_level=None)
    driver.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b INTEGER)")
    driver.execute("INSERT INTO t VALUES (1, 0)")
    cursor = driver.cursor()
    engine = create_engine("sqlite://", creator=lambda: driver, poolclass=StaticPool, isolation_level="AUTOCOMMIT")
    statement, values = "UPDATE t SET b = ? WHERE a = ?", [(1, 1), (2, 1)]

    def time_of(call: Callable[[], object]) -> float:
        count = 5_000
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) / count * 1e6

    with engine.connect() as connection:
        plain = min(time_of(lambda: cursor.executemany(statement, values)) for _ in range(RUNS))
        through = min(time_of(lambda: connection.exec_driver_sql(statement, values)) for _ in range(RUNS))
    driver.close()
    return plain, through


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a slice")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=10, help="rows per commit")
    options = parser.parse_args()
    report = Report()
    for writers in 1, 64:
        rounds = asyncio.run(compare(writers, options.rows, Effort(rounds=options.rounds, seconds=options.seconds)))
        title = f"{writers} writers"
        report.variants(title, rounds, "commits")
        for name, measures in rounds.items():
            values = [load.percentile(one.waits, 0.5) * 1e3 for one in measures]
            report.figure(f"{title}, {name}: acknowledged, p50", values, "ms", None)
        report.pair(title, rounds, "store", "bare")
    plain, through = per_statement()
    report.note(f"one statement: driver {plain:.1f} µs, through SQLAlchemy {through:.1f} µs, {through / plain:.1f}x")


if __name__ == "__main__":
    main()

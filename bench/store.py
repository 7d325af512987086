"""Group commit of the store beside a bare sqlite3 group commit: commits and rows per second, printed as ratios.

    python bench/store.py [--seconds 2] [--rows 10]

Both write the same event rows with the same pragmas. The baseline is one thread that takes what is queued and inserts
it by one `executemany`: no fence, no session row, nothing but the rows.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import SimpleQueue

from turnkeeper_service.store.base import Commit, EventRow, SessionRow, SessionState
from turnkeeper_service.store.database import connect_writer
from turnkeeper_service.store.sqlite import SqliteStore

PAYLOAD = b"x" * 80
INSERT = "INSERT INTO events (tenant, session_id, seq, run_id, kind, payload) VALUES (?, ?, ?, ?, ?, ?)"
RUNS = 5

Write = Callable[[str, int], Awaitable[None]]


class Measure:
    """What one run came to."""

    def __init__(self, seconds: float, cpu: float, waits: list[float]) -> None:
        self.commits = len(waits) / seconds
        self.cpu_us = cpu / len(waits) * 1e6
        self.p50_ms = statistics.median(waits) * 1e3


async def drive(write: Write, writers: int, rows: int, seconds: float) -> Measure:
    """Let writers commit as fast as they are acknowledged."""
    waits: list[float] = []
    start, cpu = time.perf_counter(), time.process_time()

    async def one(name: str) -> None:
        seq = 0
        while (now := time.perf_counter()) - start < seconds:
            await write(name, seq)
            seq += rows
            waits.append(time.perf_counter() - now)

    await asyncio.gather(*(one(f"session-{number}") for number in range(writers)))
    return Measure(time.perf_counter() - start, time.process_time() - cpu, waits)


async def bare(writers: int, rows: int, seconds: float) -> Measure:
    """The baseline."""
    loop = asyncio.get_running_loop()
    queue: SimpleQueue[tuple[list[tuple[object, ...]], asyncio.Future[None]] | None] = SimpleQueue()

    def acknowledge(futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            future.set_result(None)

    def work(path: Path) -> None:
        connection = connect_writer(path)
        connection.execute(
            "CREATE TABLE events (tenant TEXT, session_id TEXT, seq INTEGER, run_id TEXT, kind INTEGER, payload BLOB, "
            "PRIMARY KEY (tenant, session_id, seq)) WITHOUT ROWID"
        )
        while (item := queue.get()) is not None:
            batch = [item]
            while not queue.empty() and (item := queue.get()) is not None:
                batch.append(item)
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(INSERT, [row for written, _ in batch for row in written])
            connection.execute("COMMIT")
            loop.call_soon_threadsafe(acknowledge, [future for _, future in batch])
        connection.close()

    async def write(name: str, seq: int) -> None:
        future: asyncio.Future[None] = loop.create_future()
        queue.put(([("acme", name, seq + i, "run-1", 21, PAYLOAD) for i in range(1, rows + 1)], future))
        await future

    with tempfile.TemporaryDirectory() as directory:
        thread = threading.Thread(target=work, args=(Path(directory) / "bare.db",))
        thread.start()
        measure = await drive(write, writers, rows, seconds)
        queue.put(None)
        thread.join()
    return measure


async def ours(writers: int, rows: int, seconds: float) -> Measure:
    """The store."""
    with tempfile.TemporaryDirectory() as directory:
        store = SqliteStore(directory)
        await store.open()
        for number in range(writers):
            row = SessionRow("acme", f"session-{number}", SessionState.ACTIVE, 1, 1, 0, "", b"", b"")
            await store.commit(Commit("acme", f"session-{number}", insert_session=row))

        async def write(name: str, seq: int) -> None:
            events = [EventRow(seq + i, "run-1", 21, PAYLOAD) for i in range(1, rows + 1)]
            await store.commit(Commit("acme", name, events=events))

        measure = await drive(write, writers, rows, seconds)
        await store.close()
    return measure


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
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rows", type=int, default=10, help="rows per commit")
    options = parser.parse_args()
    print(f"{'writers':>7} {'':7} {'commits/s':>10} {'rows/s':>9} {'ack p50 ms':>11} {'CPU µs/commit':>14}")
    for writers in 1, 64:
        # Interleaved, so that a slow minute of the machine meets both.
        pairs = [
            (
                asyncio.run(bare(writers, options.rows, options.seconds)),
                asyncio.run(ours(writers, options.rows, options.seconds)),
            )
            for _ in range(RUNS)
        ]
        for name, measures in (("bare", [a for a, _ in pairs]), ("store", [b for _, b in pairs])):
            commits = statistics.median(m.commits for m in measures)
            p50 = statistics.median(m.p50_ms for m in measures)
            cpu = statistics.median(m.cpu_us for m in measures)
            print(f"{writers:7} {name:7} {commits:10.0f} {commits * options.rows:9.0f} {p50:11.2f} {cpu:14.1f}")
        ratios = sorted(b.commits / a.commits for a, b in pairs)
        print(f"{writers:7} store/bare {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    plain, through = per_statement()
    print(f"one statement: driver {plain:.1f} µs, through SQLAlchemy {through:.1f} µs, {through / plain:.1f}x")


if __name__ == "__main__":
    main()

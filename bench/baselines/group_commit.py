"""A bare group commit: one thread takes all rows that are queued and makes them durable by one ``executemany``.

The same file, pragmas and table of events as the service's store, and nothing else: no fence, no sessions, no runs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue

from turnkeeper_service.store.database import connect_writer

Row = tuple[str, str, int, str, int, bytes]
"""Tenant, session, seq, run, kind, payload."""

_TABLE = """CREATE TABLE events (
    tenant TEXT NOT NULL, session_id TEXT NOT NULL, seq INTEGER NOT NULL,
    run_id TEXT NOT NULL, kind INTEGER NOT NULL, payload BLOB NOT NULL,
    PRIMARY KEY (tenant, session_id, seq)) WITHOUT ROWID"""
_INSERT = "INSERT INTO events (tenant, session_id, seq, run_id, kind, payload) VALUES (?, ?, ?, ?, ?, ?)"


class GroupCommit:
    """Commits of many, made durable together. Belongs to the loop that it is made on."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[tuple[Sequence[Row], asyncio.Future[None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(path,), name="group-commit", daemon=True)
        self._thread.start()

    def commit(self, rows: Sequence[Row]) -> asyncio.Future[None]:
        """Resolves when the rows are durable."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((rows, future))
        return future

    def close(self) -> None:
        """End the thread, once all that is queued is written."""
        self._queue.put(None)
        self._thread.join()

    def _work(self, path: Path) -> None:
        connection = connect_writer(path)
        connection.execute(_TABLE)
        is_open = True
        while is_open:
            items = [self._queue.get()]
            while not self._queue.empty():
                items.append(self._queue.get())
            is_open = None not in items
            batch = [item for item in items if item is not None]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_INSERT, [row for rows, _ in batch for row in rows])
            connection.execute("COMMIT")
            self._loop.call_soon_threadsafe(_acknowledge, [future for _, future in batch])
        connection.close()


def _acknowledge(futures: Sequence[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)

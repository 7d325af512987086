"""Reading, off the event loop. Look-ups by key have a lane of their own: none waits behind a range."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from turnkeeper_service.store.committer import is_busy
from turnkeeper_service.store.database import connect_reader
from turnkeeper_service.store.errors import StoreCorruptError, StoreError
from turnkeeper_service.store.reading import UNREADABLE, is_damage
from turnkeeper_service.store.threads import post, reject, resolve

T = TypeVar("T")
Query = Callable[[sqlite3.Connection], T]
_Settle = Callable[[], None]
BUSY_SECONDS = 0.05
"""Between two attempts to read what somebody else has locked."""


class Reader:
    """Threads with a read-only connection each. A read sees every commit that was acknowledged before it was asked."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path, *, range_threads: int = 2) -> None:
        self._loop = loop
        self._lookups = _Lane(loop, path, "store-lookup", threads=1)
        self._ranges = _Lane(loop, path, "store-range", threads=range_threads)

    def look_up(self, query: Query[T]) -> asyncio.Future[T]:
        """Read a row or a count. Look-ups that are asked together share one hop to the thread and back."""
        return self._lookups.ask(query)

    def read(self, query: Query[T]) -> asyncio.Future[T]:
        """Read a range of rows."""
        return self._ranges.ask(query)

    def close(self) -> None:
        """End the threads after what was asked. Blocks; called by the writer's thread, when nobody asks any more."""
        self._lookups.close()
        self._ranges.close()


class _Lane:
    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path, name: str, *, threads: int) -> None:
        self._loop = loop
        self._queue: SimpleQueue[Callable[[sqlite3.Connection], _Settle] | None] = SimpleQueue()
        # One thread alone may take all that waits; several share it out.
        self._batched = threads == 1
        self._closing = threading.Event()
        # Connected here, so that what cannot be read fails the opening and not some later read.
        self._threads = [
            threading.Thread(target=self._run, args=(connect_reader(path),), name=name, daemon=True)
            for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, query: Query[T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(partial(self._answer, future, query))
        return future

    def close(self) -> None:
        self._closing.set()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self, connection: sqlite3.Connection) -> None:
        open_ = True
        while open_:
            item = self._queue.get()
            settles: list[_Settle] = []
            while item is not None:
                settles.append(item(connection))
                if not self._batched or self._queue.empty():
                    break
                item = self._queue.get_nowait()
            open_ = item is not None
            if settles:
                post(self._loop, _call_all, settles)
        connection.close()

    def _answer(self, future: asyncio.Future[T], query: Query[T], connection: sqlite3.Connection) -> _Settle:
        while True:
            try:
                result = query(connection)
            except sqlite3.Error as error:
                if is_busy(error) and not self._closing.wait(BUSY_SECONDS):
                    continue
                kind = StoreCorruptError if is_damage(error) else StoreError
                failed = kind(f"cannot read: {error}")
                failed.__cause__ = error
                return partial(reject, future, failed)
            except UNREADABLE as error:
                damaged = StoreCorruptError(f"cannot read a row ({type(error).__name__})")
                damaged.__cause__ = error
                return partial(reject, future, damaged)
            except Exception as error:
                return partial(reject, future, error)
            return partial(resolve, future, result)


def _call_all(settles: list[_Settle]) -> None:
    for settle in settles:
        settle()

"""Faults that tests put into the writer: a batch that fails at a chosen point, or a writer that waits."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from turnkeeper_service.store.base import Commit

FaultPoint = Literal["before", "inside", "after"]
"""Before the transaction begins; inside, when all is written, nothing committed; after, durable but unacknowledged."""

ALWAYS = 1 << 30
"""As often as the writer tries."""


def disk_full() -> sqlite3.OperationalError:
    """What SQLite raises when the disk is full; the writer retries it a few times."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    error.sqlite_errorname = "SQLITE_FULL"
    return error


def busy() -> sqlite3.OperationalError:
    """What SQLite raises while somebody else holds its lock."""
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    error.sqlite_errorname = "SQLITE_BUSY"
    return error


@dataclass(slots=True)
class _Fault:
    point: FaultPoint
    batch: int | None
    when: Callable[[Commit], bool] | None
    times: int
    error: Callable[[], Exception]


class Faults:
    """A plan of faults. Give it to a store, and add to it at any time, from any thread."""

    def __init__(self) -> None:
        self._faults: list[_Fault] = []
        self._running = threading.Event()
        self._running.set()

    def fail(
        self,
        point: FaultPoint,
        *,
        batch: int | None = None,
        when: Callable[[Commit], bool] | None = None,
        times: int = ALWAYS,
        error: Callable[[], Exception] = disk_full,
    ) -> None:
        """Raise ``error()`` at ``point`` of batch number ``batch`` (from 1), or where a commit is one of ``when``.

        ``times`` counts attempts: below the writer's bound of retries the batch still succeeds. A fault "after" is
        never retried, since the batch is durable: it leaves an outcome that the caller does not know.
        """
        self._faults.append(_Fault(point, batch, when, times, error))

    def pause(self) -> None:
        """Hold the writer before it takes its next batch, so that all handed over meanwhile ends up in that batch."""
        self._running.clear()

    def resume(self) -> None:
        """Let the writer go on."""
        self._running.set()

    def wait(self) -> None:
        """Called by the writer."""
        self._running.wait()

    def reach(self, point: FaultPoint, batch: int, commits: Sequence[Commit]) -> None:
        """Called by the writer at each point."""
        for fault in self._faults:
            if fault.point != point or fault.times == 0 or fault.batch not in (None, batch):
                continue
            if fault.when is None or any(map(fault.when, commits)):
                fault.times -= 1
                raise fault.error()

"""The store under test: databases in a directory of the test's own."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from turnkeeper_service.store.faults import Faults
from turnkeeper_service.store.sqlite import SqliteStore


class SqliteHarness:
    """One data directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def path(self) -> Path:
        return self.directory / "turnkeeper.db"

    def store(self, faults: Faults | None = None) -> SqliteStore:
        return SqliteStore(self.directory, faults=faults)

    def break_lock(self) -> None:
        # What an operator does who takes it for stale: the next owner locks a file of its own.
        (self.directory / "LOCK").unlink()

    def dump(self) -> list[str]:
        """All that is stored, as SQL."""
        connection = sqlite3.connect(self.path)
        try:
            return list(connection.iterdump())
        finally:
            connection.close()

    def files(self) -> dict[str, bytes]:
        """Every file but the lock, with its bytes."""
        return {file.name: file.read_bytes() for file in self.directory.iterdir() if file.name != "LOCK"}

"""What a store raises."""

from __future__ import annotations


class StoreError(Exception):
    """The store cannot do what was asked. ``path`` names what it concerns."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class StoreUnreadableError(StoreError):
    """Not a database of ours: corrupt, or written by a newer version. It was left untouched (exit code 2)."""


class StoreUnwritableError(StoreError):
    """The database or its directory cannot be written (exit code 1)."""


class StoreLockedError(StoreError):
    """Another process holds the data directory (exit code 3)."""


class StoreFencedError(StoreError):
    """Another owner has the commit's slot, or the store; nothing of this commit was written (U-15)."""


class StoreClosedError(StoreError):
    """The store is closed, or has failed and stopped taking commits."""


class StoreBusyError(StoreError):
    """Somebody waited for too long. Nothing has failed: what was handed over is written once that is possible."""


class StoreCorruptError(StoreError):
    """What is stored cannot be read: a row, or what it holds."""

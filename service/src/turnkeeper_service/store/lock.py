"""The lock on the data directory: one process at a time owns the store under it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from turnkeeper_service.store.errors import StoreLockedError, StoreUnwritableError


class DirectoryLock:
    """An exclusive `flock` on the file `LOCK`, with the owner's pid inside.

    The kernel drops the lock with the process, however it ends. The file itself stays: whoever unlinks a
    lock file that another process is about to take gives the directory two owners.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "LOCK"
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock or raise `StoreLockedError`, naming the process that holds it."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnwritableError(f"cannot write {self.path}: {error.strerror}", path=str(self.path)) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            message = f"{self.path.parent} is in use by process {holder}"
            raise StoreLockedError(message, path=str(self.path)) from None
        except OSError as error:
            os.close(fd)
            raise StoreUnwritableError(f"cannot write {self.path}: {error.strerror}", path=str(self.path)) from error
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; without effect if it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

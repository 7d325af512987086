"""The files that a store has open, as they are on the disk: whoever writes to one that is gone writes to nobody."""

from __future__ import annotations

from pathlib import Path


class OpenFiles:
    """The database and its log, which SQLite neither deletes nor replaces while they are open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        names = (path, path.with_name(path.name + "-wal"))
        self._inodes = {name: _inode(name) for name in names}

    def find_taken(self) -> Path | None:
        """A file that was deleted, replaced or emptied since, None if there is none."""
        for path, inode in self._inodes.items():
            try:
                if _inode(path) != inode:
                    return path
                if path == self._path and path.stat().st_size == 0:
                    # The log may be empty; the database has at least its first page.
                    return path
            except PermissionError:
                # It can no longer be seen, which is no word about what is there.
                continue
            except OSError:
                return path
        return None


def _inode(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino

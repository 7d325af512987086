"""The database file: looked at before it is touched, opened for writing, opened for reading."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from turnkeeper_service.store import migrate
from turnkeeper_service.store.answers import Boot
from turnkeeper_service.store.errors import StoreError, StoreUnreadableError, StoreUnwritableError

FILE = "turnkeeper.db"
MARKER = "CREATED"
"""Beside the database, once it has its tables: an empty file is then no new one but a loss."""

OPEN_SECONDS = 30.0
"""How long a start waits for a lock that somebody else holds."""
MAX_EPOCH = (1 << 21) - 1
"""Epochs stay below 2**21, so that an epoch and a 42-bit counter fit into one positive 64-bit sequence."""

_MAGIC = b"SQLite format 3\x00"
_TABLES = ("boot", "sessions", "runs", "events", "messages", "partials", "tombstones")


def prepare_directory(directory: Path) -> None:
    """Make the data directory, for its owner alone, if it is not there."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnwritableError(f"cannot make {directory}: {error.strerror}", path=str(directory)) from error


def read_revision(path: Path) -> str | None:
    """Look at the file without writing to it. None means that there is nothing yet.

    Raises:
        StoreUnreadableError: It is damaged, is another program's, was written by a newer version, or is empty although
            there was a database.
    """
    revision = _look(path)
    marker = path.with_name(MARKER)
    # A first start that was cut off leaves neither: the database has its first page before there is a log.
    if revision is None and (marker.exists() or (_size(_log_of(path)) and not _size(path))):
        raise _unreadable(
            path,
            f"is empty or gone, and held a database before; put a copy of it there, or remove {marker} "
            f"and {_log_of(path).name} to begin anew",
        )
    return revision


def mark_created(path: Path) -> None:
    """Note for good that there is a database at ``path``."""
    marker = path.with_name(MARKER)
    if marker.exists():
        return
    try:
        with open(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "w", encoding="ascii") as file:
            file.write(f"There is a database in {FILE}. Remove this only where that is to be made anew.\n")
            file.flush()
            os.fsync(file.fileno())
        directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StoreUnwritableError(f"cannot write {marker}: {error.strerror}", path=str(marker)) from error


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _look(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            header = file.read(len(_MAGIC))
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnwritableError(f"cannot open {path}: {error.strerror}", path=str(path)) from error
    if size == 0:
        return None
    if not header.startswith(_MAGIC):
        raise _unreadable(path, "is not an SQLite database")
    wal = _log_of(path)
    has_wal = _size(wal) > 0
    # Without a log to replay, "immutable" leaves no trace at all. With one SQLite makes itself an index beside it.
    shm = path.with_name(path.name + "-shm")
    had_shm, had_wal = shm.exists(), wal.exists()
    try:
        return _read_tables(path, immutable=not has_wal)
    except sqlite3.DatabaseError as error:
        raise open_error(path, error) from error
    finally:
        if not had_shm:
            shm.unlink(missing_ok=True)
        if not had_wal:
            wal.unlink(missing_ok=True)


def _read_tables(path: Path, *, immutable: bool) -> str | None:
    connection = _connect_read_only(path, "&immutable=1" if immutable else "")
    try:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not names:
            return None
        versions = (
            connection.execute("SELECT version_num FROM alembic_version").fetchall()
            if ("alembic_version" in names)
            else []
        )
        if len(versions) != 1:
            raise _unreadable(path, "is not a Turnkeeper database")
        revision = str(versions[0][0])
        if not migrate.is_known(revision):
            raise _unreadable(path, f"has revision {revision}; this version knows up to {migrate.HEAD}")
        if revision == migrate.HEAD:
            # Whether the tables can be read. A text that is none is no reason not to serve the others.
            connection.text_factory = bytes
            for table in _TABLES:
                connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchall()
        return revision
    finally:
        connection.close()


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open for writing, making the file if it is not there."""
    try:
        # Made here rather than by SQLite, for its mode: the log beside it inherits it.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        # At the start nobody waits who could be told that it is busy; the writer has shorter waits.
        connection = sqlite3.connect(path, isolation_level=None, timeout=OPEN_SECONDS)
    except OSError as error:
        raise StoreUnwritableError(f"cannot write {path}: {error.strerror}", path=str(path)) from error
    except sqlite3.Error as error:
        raise open_error(path, error) from error
    try:
        for pragma in (
            # Before anything is in it: pages that are free can be given back while the server runs.
            "auto_vacuum = INCREMENTAL",
            "secure_delete = FAST",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = OFF",
            # No mmap: its pages count as the server's memory, and an I/O error there is a signal, not an error code.
            "mmap_size = 0",
            "cache_size = -16384",
            "temp_store = MEMORY",
            "wal_autocheckpoint = 4000",
            "journal_size_limit = 67108864",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except sqlite3.Error as error:
        connection.close()
        raise open_error(path, error) from error
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open for reading beside the writer."""
    connection = _connect_read_only(path, "")
    connection.execute("PRAGMA cache_size = -4096").fetchall()
    connection.execute("PRAGMA temp_store = MEMORY").fetchall()
    return connection


def _connect_read_only(path: Path, options: str) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro{options}"
    # Made on the writer's thread, used on a reader's alone.
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=2.0, check_same_thread=False)


def let_shrink(connection: sqlite3.Connection) -> None:
    """Rewrite a database that was made before it could give pages back. Without the room for it, it stays as it is."""
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    if mode == 0:
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("VACUUM")


def take_epoch(connection: sqlite3.Connection, path: Path) -> Boot:
    """Become the owner: one epoch above all before."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("UPDATE boot SET epoch = epoch + 1 WHERE id = 1")
        row = connection.execute("SELECT epoch, last_sequence FROM boot WHERE id = 1").fetchone()
        if row is None:
            raise _unreadable(path, "has no boot row")
        boot = Boot(epoch=row[0], last_sequence=row[1])
        if boot.epoch > MAX_EPOCH:
            raise StoreError(f"{path} has been opened {MAX_EPOCH} times, which is the bound", path=str(path))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return boot


def open_error(path: Path, error: sqlite3.Error) -> StoreError:
    """The error to raise where opening met ``error``: damaged, or just not writable."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    writable = {
        sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM,
    }  # fmt: skip
    if code in writable:
        return StoreUnwritableError(f"cannot write {path}: {error}", path=str(path))
    return _unreadable(path, f"cannot be read: {error}")


def _unreadable(path: Path, what: str) -> StoreUnreadableError:
    return StoreUnreadableError(f"{path} {what}", path=str(path))

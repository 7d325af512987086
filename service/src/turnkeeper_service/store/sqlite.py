"""The store on SQLite: one file, one writer thread with group commit, a few reader threads."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from turnkeeper_service.store import database, migrate, patience, queries
from turnkeeper_service.store import statements as sql
from turnkeeper_service.store.answers import Boot, Laid, Page, StoreStats
from turnkeeper_service.store.base import (
    PAGE_BYTES,
    Claim,
    Commit,
    EventRow,
    PartialRow,
    RunRow,
    RunState,
    SessionPage,
    SessionRow,
    TombstoneRow,
)
from turnkeeper_service.store.claims import Claims
from turnkeeper_service.store.errors import StoreClosedError, StoreError, StoreFencedError
from turnkeeper_service.store.faults import Faults
from turnkeeper_service.store.lock import DirectoryLock
from turnkeeper_service.store.open_files import OpenFiles
from turnkeeper_service.store.reader import Reader
from turnkeeper_service.store.writer import Opened, Writer

T = TypeVar("T")


class SqliteStore:
    """A `Store` in a data directory. Construct it on the event loop, open it once."""

    def __init__(self, directory: str | os.PathLike[str], *, faults: Faults | None = None) -> None:
        self._directory = Path(directory)
        self._path = self._directory / database.FILE
        self._lock = DirectoryLock(self._directory)
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(self._loop, faults)
        self._patience = patience.Patience(self._loop)
        self._claims = Claims(self._loop, self._patience)
        self._connection: sqlite3.Connection | None = None
        self._reader: Reader | None = None
        self._boot: Boot | None = None
        self._started = self._closing = False

    @property
    def failure(self) -> asyncio.Future[StoreError]:
        """Resolves once, when the store has stopped taking commits."""
        return self._writer.failure

    @property
    def is_stalled(self) -> bool:
        """Whether it was handed something and has written nothing for a while."""
        return self._writer.waited() >= patience.SECONDS

    async def open(self) -> Boot:
        """Take the lock, look at the file, migrate, take the next epoch."""
        if self._started:
            raise StoreError("a store is opened once", path=str(self._path))
        self._started = True
        boot = await self._writer.start(self._open_database, self._close_database)
        self._boot = boot
        return boot

    def _open_database(self) -> Opened:
        database.prepare_directory(self._directory)
        self._lock.acquire()
        revision = database.read_revision(self._path)
        self._connection = connection = database.connect_writer(self._path)
        try:
            if revision is None:
                migrate.create(connection)
            elif revision != migrate.HEAD:
                migrate.upgrade(connection)
            database.mark_created(self._path)
            database.let_shrink(connection)
            boot = database.take_epoch(connection, self._path)
            connection.execute(sql.PATIENT)
            self._reader = Reader(self._loop, self._path)
            self._files = OpenFiles(self._path)
        except BaseException as error:
            cause = getattr(error, "orig", error)
            if isinstance(cause, sqlite3.Error):
                raise database.open_error(self._path, cause) from error
            raise
        return connection, boot

    def _close_database(self) -> None:
        if self._reader is not None:
            self._reader.close()
        if self._connection is not None:
            # After the readers: the last one to close folds the log into the database, which a reader cannot.
            self._connection.close()
        self._lock.release()

    def commit(self, commit: Commit) -> asyncio.Future[None]:
        """Hand over a commit, which the caller must not change any more."""
        future: asyncio.Future[None] = self._loop.create_future()
        if self._closing or self._boot is None or self._writer.error is not None:
            future.set_exception(self._closed_error())
        else:
            self._writer.put(commit, future)
        return future

    async def patiently(self, future: asyncio.Future[T]) -> T:
        """The result of a future that the store resolves, after 2 s at most."""
        return await self._patience.wait(future)

    async def check_fence(self) -> None:
        """Raise StoreFencedError if another owner has taken over, StoreError if the database was taken away."""
        error: StoreError | None = None
        if (taken := await self._readers.look_up(lambda _: self._files.find_taken())) is not None:
            error = StoreError(f"{taken} was deleted, replaced or emptied while it was in use", path=str(taken))
        elif self._boot is None or await self._readers.look_up(queries.get_epoch) != self._boot.epoch:
            error = StoreFencedError("another process has taken over the store", path=str(self._path))
        if error is not None:
            self._writer.fail(error)
            raise error

    async def get_session(self, tenant: str, session_id: str) -> SessionRow | None:
        """The session's row."""
        return await self._readers.look_up(lambda c: queries.get_session(c, tenant, session_id))

    async def list_sessions(self, tenant: str, *, after: str, limit: int, max_bytes: int = PAGE_BYTES) -> SessionPage:
        """Sessions in creation order. Raises ValueError if ``after`` is no position that a page gave."""
        position = int(after) if after else 0
        if not 0 <= position < 1 << 63:
            raise ValueError("no position in the list of sessions")
        return await self._readers.read(lambda c: queries.list_sessions(c, tenant, position, limit, max_bytes))

    async def idle_sessions(self, *, before_us: int, after: int, limit: int) -> Sequence[tuple[int, str, str]]:
        """Sessions that were not changed for long, of all tenants."""
        return await self._readers.read(lambda c: queries.idle_sessions(c, before_us, after, limit))

    async def get_run(self, tenant: str, run_id: str) -> RunRow | None:
        """A run by its id."""
        return await self._readers.look_up(lambda c: queries.get_run(c, tenant, run_id))

    async def list_runs(
        self,
        tenant: str,
        session_id: str,
        *,
        after_sequence: int,
        limit: int,
        max_bytes: int = PAGE_BYTES,
        states: Sequence[RunState] = (),
    ) -> Page[RunRow]:
        """Runs of a session in accept order."""
        chosen = tuple(states)
        return await self._readers.read(
            lambda c: queries.list_runs(c, tenant, session_id, after_sequence, limit, max_bytes, chosen)
        )

    async def read_events(
        self, tenant: str, session_id: str, *, after_seq: int, limit: int, max_bytes: int = 4 << 20
    ) -> Sequence[EventRow]:
        """Events in order, bounded by count and bytes."""
        return await self._readers.read(
            lambda c: queries.read_events(c, tenant, session_id, after_seq, limit, max_bytes)
        )

    async def read_context(self, tenant: str, session_id: str, context_id: str) -> Sequence[EventRow]:
        """Events of the messages in a context."""
        return await self._readers.read(lambda c: queries.read_context(c, tenant, session_id, context_id))

    async def list_messages(
        self,
        tenant: str,
        session_id: str,
        *,
        context_id: str,
        after_seq: int,
        limit: int,
        max_bytes: int = PAGE_BYTES,
    ) -> Page[tuple[EventRow, bool]]:
        """All messages, with whether they are in context."""
        return await self._readers.read(
            lambda c: queries.list_messages(c, tenant, session_id, context_id, after_seq, limit, max_bytes)
        )

    async def open_runs(
        self, slots: Collection[int], *, after_sequence: int = 0, limit: int = 1000
    ) -> Sequence[RunRow]:
        """Runs not finished, in accept order."""
        return await self._readers.read(lambda c: queries.open_runs(c, slots, after_sequence, limit))

    async def deleting_sessions(self, slots: Collection[int]) -> Sequence[SessionRow]:
        """Sessions whose deletion has to go on."""
        return await self._readers.read(lambda c: queries.deleting_sessions(c, slots))

    async def read_run_events(self, tenant: str, session_id: str, run_id: str) -> Sequence[EventRow]:
        """All events of one run."""
        return await self._readers.read(lambda c: queries.read_run_events(c, tenant, session_id, run_id))

    async def read_partials(self, tenant: str, run_id: str) -> Sequence[PartialRow]:
        """Flushed pieces of a run's open message."""
        return await self._readers.read(lambda c: queries.read_partials(c, tenant, run_id))

    @asynccontextmanager
    async def claim_run(self, tenant: str, run_id: str) -> AsyncIterator[Claim]:
        """Hold a run id while its run is accepted."""
        name = (tenant, run_id)
        await self._claims.take(name)
        try:
            found = self._readers.look_up(lambda c: queries.find_claimed(c, tenant, run_id))
            yield await self._patience.wait(found)
        finally:
            self._claims.give_back(name)

    async def lay_tombstone(self, row: TombstoneRow, *, limit: int) -> Laid:
        """Let a cancel wait for a run that does not exist."""
        name = (row.tenant, row.run_id)
        await self._claims.take(name)
        try:
            laid = self._job(partial(_lay, row, limit))
        except BaseException:
            self._claims.give_back(name)
            raise
        # Whoever asked may leave: what is on its way to the disk keeps the id until it is there.
        laid.add_done_callback(lambda _: self._claims.give_back(name))
        return await asyncio.shield(laid)

    async def sweep(self, *, before_us: int) -> int:
        """Remove old tombstones and deleted sessions; counts these and the run rows."""
        return await self._job(partial(_sweep, before_us))

    def _job(self, job: Callable[[sqlite3.Cursor], T]) -> asyncio.Future[T]:
        if self._closing or self._boot is None or self._writer.error is not None:
            raise self._closed_error()
        return self._writer.run(job)

    def stats(self) -> StoreStats:
        """Counters of this process."""
        return self._writer.stats()

    async def close(self) -> None:
        """Write what was handed over, release the lock."""
        if not self._started:
            return
        if not self._closing:
            self._closing = True
            self._writer.stop()
            self._patience.close()
        # Shielded: the first caller to be cancelled must not cancel it for the others.
        await asyncio.shield(self._writer.closed)

    @property
    def _readers(self) -> Reader:
        if self._reader is None or self._boot is None or self._closing:
            raise self._closed_error()
        return self._reader

    def _closed_error(self) -> StoreClosedError:
        if self._writer.error is not None:
            return StoreClosedError(f"the store has stopped: {self._writer.error}", path=str(self._path))
        return StoreClosedError("the store is not open", path=str(self._path))


def _lay(row: TombstoneRow, limit: int, cursor: sqlite3.Cursor) -> Laid:
    values = (row.tenant, row.run_id, row.session_id, row.created_us, row.cancel, limit)
    if cursor.execute(sql.LAY_TOMBSTONE, values).rowcount:
        return Laid.LAID
    return Laid.HAS_RUN if cursor.execute(sql.HAS_RUN, values[:2]).fetchone() else Laid.FULL


def _sweep(before_us: int, cursor: sqlite3.Cursor) -> int:
    count = 0
    for statement in sql.SWEEP_COUNTED:
        count += cursor.execute(statement, (before_us,)).rowcount
    for statement in sql.SWEEP_REST:
        cursor.execute(statement, (before_us,))
    return count + cursor.execute(sql.SWEEP_SESSIONS, (before_us,)).rowcount

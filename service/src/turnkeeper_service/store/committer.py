"""A batch of commits becomes one transaction: fenced, retried where that can help, cut where one stops the store."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from turnkeeper_service.store import statements as sql
from turnkeeper_service.store.base import Commit
from turnkeeper_service.store.errors import StoreError, StoreFencedError
from turnkeeper_service.store.faults import FaultPoint, Faults
from turnkeeper_service.store.plan import Plan

T = TypeVar("T")

RETRIES = 3
RETRY_SECONDS = 0.05

_BUSY = frozenset((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED))
_TRANSIENT = _BUSY | {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CANTOPEN}


class _UnfitError(Exception):
    """Something in the batch cannot be applied."""


@dataclass(slots=True)
class Written:
    """What became of a batch."""

    rows: int
    errors: list[StoreError | None]
    """One per commit, None where it is durable."""
    stopped: StoreError | None = None
    """Set where the store must stop."""


class Committer:
    """Applies commits on one connection, for one owner. ``closing`` is set when nobody waits for it any more."""

    def __init__(
        self, connection: sqlite3.Connection, epoch: int, faults: Faults | None, closing: threading.Event
    ) -> None:
        self._connection = connection
        self._closing = closing
        self._cursor = connection.cursor()
        self._epoch = epoch
        self._faults = faults
        self._batch = 0
        self._is_untidy = False

    def write(self, commits: Sequence[Commit]) -> Written:
        """Make commits durable, in order, but those of owners that have lost their slot. Does not raise."""
        lost = [commit.epoch not in (None, self._epoch) for commit in commits]
        if not any(lost):
            return self._write(commits)
        kept = [commit for commit, is_lost in zip(commits, lost, strict=True) if not is_lost]
        written = self._write(kept) if kept else Written(0, [])
        of_kept = iter(written.errors)
        written.errors = [
            StoreFencedError(f"slot {commit.slot} has another owner") if is_lost else next(of_kept)
            for commit, is_lost in zip(commits, lost, strict=True)
        ]
        return written

    def _write(self, commits: Sequence[Commit]) -> Written:
        self._batch += 1
        try:
            try:
                return self._retried(lambda: self._together(commits))
            except _UnfitError:
                return self._retried(lambda: self._one_by_one(commits))
        except StoreError as error:
            return Written(0, [error] * len(commits), error)
        except Exception as error:
            stopped = StoreError(f"commit failed: {error}")
            stopped.__cause__ = error
            return Written(0, [stopped] * len(commits), stopped)

    def work(self, jobs: Sequence[Callable[[sqlite3.Cursor], object]]) -> list[object]:
        """Run jobs in a transaction of their own. Raises StoreError where the store must stop."""

        def attempt() -> list[object]:
            self._begin((), 0)
            results = [job(self._cursor) for job in jobs]
            self._commit(())
            return results

        self._batch += 1
        try:
            return self._retried(attempt)
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(f"cannot write: {error}") from error

    def tidy(self) -> bool:
        """Give some of the pages that deleting has left free back to the file system; whether to go on with it.

        At last the log, which still holds what was deleted, is folded into the database and cut.
        """
        if not self._is_untidy:
            return False
        try:
            (free,) = self._cursor.execute(sql.COUNT_FREE).fetchone()
            # As a script: the statement gives back a page per step, and `execute` takes one.
            self._cursor.executescript(sql.GIVE_BACK)
            if free > sql.FREE_AT_ONCE:
                return True
            self._cursor.execute(sql.IMPATIENT)
            try:
                (is_held_up, _, _) = self._cursor.execute(sql.CUT_LOG).fetchone()
            finally:
                self._cursor.execute(sql.PATIENT)
            # A reader that needs the log keeps it: another time, then.
            self._is_untidy = bool(is_held_up)
        except sqlite3.Error:
            # What is wrong, if it is more than a lock, the next commit meets too.
            self._roll_back()
        return False

    def _retried(self, attempt: Callable[[], T]) -> T:
        """Try a few times where that can help; as long as it takes while somebody else only holds the lock."""
        tries_left = RETRIES
        while True:
            try:
                return attempt()
            except sqlite3.Error as error:
                self._roll_back()
                if is_busy(error):
                    if self._closing.wait(RETRY_SECONDS):
                        raise StoreError(f"cannot write: {error}") from error
                elif tries_left and _is_transient(error):
                    tries_left -= 1
                    time.sleep(RETRY_SECONDS)
                else:
                    raise StoreError(f"cannot write: {error}") from error
            except BaseException:
                self._roll_back()
                raise

    def _together(self, commits: Sequence[Commit]) -> Written:
        plans = [Plan()]
        try:
            for commit in commits:
                if plans[-1].full:
                    plans.append(Plan())
                plans[-1].add(commit)
        except Exception as error:
            raise _UnfitError from error
        self._begin(commits, max(plan.max_sequence for plan in plans))
        try:
            for plan in plans:
                plan.apply(self._cursor)
        except Exception as error:
            if _is_transient(error):
                raise
            raise _UnfitError from error
        self._commit(commits)
        self._is_untidy |= any(plan.full for plan in plans)
        return Written(sum(plan.rows for plan in plans), [None] * len(commits))

    def _one_by_one(self, commits: Sequence[Commit]) -> Written:
        """Slow, and once: find the commit that stops the store; what came before it stands."""
        written = Written(0, [])
        sequence = 0
        self._begin(commits, 0)
        for commit in commits:
            self._cursor.execute("SAVEPOINT one")
            try:
                plan = Plan()
                plan.add(commit)
                plan.apply(self._cursor)
            except Exception as error:
                if _is_transient(error):
                    raise
                self._cursor.execute("ROLLBACK TO one")
                written.stopped = StoreError(f"cannot apply a commit of session {commit.session_id}: {error}")
                written.stopped.__cause__ = error
                break
            written.errors.append(None)
            written.rows += plan.rows
            sequence = max(sequence, plan.max_sequence)
            self._cursor.execute("RELEASE one")
        self._check_fence(sequence)
        self._commit(commits)
        written.errors += [written.stopped] * (len(commits) - len(written.errors))
        return written

    def _begin(self, commits: Sequence[Commit], sequence: int) -> None:
        self._reach("before", commits)
        self._cursor.execute("BEGIN IMMEDIATE")
        self._check_fence(sequence)

    def _check_fence(self, sequence: int) -> None:
        self._cursor.execute(sql.FENCE, (sequence, self._epoch))
        if self._cursor.rowcount != 1:
            raise StoreFencedError("another process has taken over the store")

    def _commit(self, commits: Sequence[Commit]) -> None:
        self._reach("inside", commits)
        self._cursor.execute("COMMIT")
        try:
            self._reach("after", commits)
        except Exception as error:
            raise StoreError(f"failed after the commit, whose outcome is not known: {error}") from error

    def _roll_back(self) -> None:
        # SQLite has rolled back on its own after some errors.
        if self._connection.in_transaction:
            self._cursor.execute("ROLLBACK")

    def _reach(self, point: FaultPoint, commits: Sequence[Commit]) -> None:
        if self._faults is not None:
            self._faults.reach(point, self._batch, commits)


def is_busy(error: Exception) -> bool:
    """Whether somebody else holds the database's lock: nothing has failed, and nothing was written."""
    return isinstance(error, sqlite3.OperationalError) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY


def _is_transient(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _TRANSIENT

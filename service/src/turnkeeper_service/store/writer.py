"""The one writer: a thread that takes everything queued and makes it durable by one transaction.

While one batch waits for the disk, the next one gathers; nothing ever waits for a timer.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from turnkeeper_service.store.answers import Boot, StoreStats
from turnkeeper_service.store.base import Commit
from turnkeeper_service.store.committer import Committer, Written
from turnkeeper_service.store.errors import StoreError
from turnkeeper_service.store.faults import Faults
from turnkeeper_service.store.threads import post, reject, resolve

T = TypeVar("T")
Opened = tuple[sqlite3.Connection, Boot]

MAX_BATCH = 1024
"""Commits in one transaction; it bounds how long an acknowledgement waits for the others."""


class Writer:
    """The face on the event loop's thread of the thread that writes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, faults: Faults | None) -> None:
        self.closed: asyncio.Future[None] = loop.create_future()
        self.error: StoreError | None = None
        self._failure: asyncio.Future[StoreError] = loop.create_future()
        self._loop = loop
        self._faults = faults
        self._queue: SimpleQueue[_Write | _Job | None] = SimpleQueue()
        self._gathered: list[_Write] = []
        """Commits of this turn of the loop, not handed over yet."""
        self._waiting = self._jobs = self._commits = self._batches = self._rows = 0
        self._since: float | None = None
        """Since when something waits and nothing was written."""
        self._closing = threading.Event()

    @property
    def failure(self) -> asyncio.Future[StoreError]:
        """Resolves when the store has stopped."""
        if self._failure.cancelled():
            # Cancelling a task that awaits it cancels the future too. That must not look like a failure.
            self._failure = self._loop.create_future()
            if self.error is not None:
                self._failure.set_result(self.error)
        return self._failure

    def start(self, open_database: Callable[[], Opened], close_database: Callable[[], None]) -> asyncio.Future[Boot]:
        """Start the thread. Both calls are made on it; closing follows a failed opening too."""
        opened: asyncio.Future[Boot] = self._loop.create_future()
        target = _Thread(self, self._loop, self._queue, self._faults, self._closing)
        args = (opened, open_database, close_database)
        # A daemon: a process that dies without closing must not be held up. What it wrote is acknowledged or not.
        threading.Thread(target=target.run, args=args, name="store-writer", daemon=True).start()
        return opened

    def put(self, commit: Commit, future: asyncio.Future[None]) -> None:
        """Queue a commit. Those of one turn of the loop are handed over together: they cost one sync."""
        self._waiting += 1
        self._begin()
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append(_Write(commit, future))

    def _hand_over(self) -> None:
        for write in self._gathered:
            self._queue.put(write)
        self._gathered.clear()

    def run(self, job: Callable[[sqlite3.Cursor], T]) -> asyncio.Future[T]:
        """Queue a job. It runs in order with the commits, in one transaction with the jobs right behind it."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs += 1
        self._begin()
        self._hand_over()
        self._queue.put(_Job(job, future))
        return future

    def stop(self) -> None:
        """End the thread once all that is queued is written; `closed` tells when."""
        self._hand_over()
        self._queue.put(None)
        self._closing.set()

    def waited(self) -> float:
        """Seconds for which nothing was written although something waits."""
        return 0.0 if self._since is None else self._loop.time() - self._since

    def _begin(self) -> None:
        if self._since is None:
            self._since = self._loop.time()

    def _written(self) -> None:
        self._since = self._loop.time() if self._waiting or self._jobs else None

    def stats(self) -> StoreStats:
        """Counters."""
        return StoreStats(self._commits, self._batches, self._rows, self._waiting)

    def fail(self, error: StoreError) -> None:
        """Note that the store has stopped."""
        if self.error is None:
            self.error = error
            resolve(self._failure, error)

    def settle(self, futures: Sequence[asyncio.Future[None]], written: Written) -> None:
        """Acknowledge a batch."""
        self._waiting -= len(futures)
        self._written()
        durable = written.errors.count(None)
        self._batches += durable > 0
        self._commits += durable
        self._rows += written.rows
        if written.stopped is not None:
            self.fail(written.stopped)
        for future, error in zip(futures, written.errors, strict=True):
            if error is None:
                resolve(future, None)
            else:
                reject(future, error)

    def done(self, settles: Sequence[Callable[[], None]]) -> None:
        """Answer jobs."""
        self._jobs -= len(settles)
        self._written()
        for settle in settles:
            settle()


class _Write:
    __slots__ = ("commit", "future")

    def __init__(self, commit: Commit, future: asyncio.Future[None]) -> None:
        self.commit = commit
        self.future = future


class _Job:
    __slots__ = ("call", "future")

    def __init__(self, call: Callable[[sqlite3.Cursor], object], future: asyncio.Future[Any]) -> None:
        self.call = call
        self.future = future


class _Thread:
    """What runs on the thread. It alone touches the connection."""

    def __init__(
        self,
        face: Writer,
        loop: asyncio.AbstractEventLoop,
        queue: SimpleQueue[_Write | _Job | None],
        faults: Faults | None,
        closing: threading.Event,
    ) -> None:
        self._face = face
        self._closing = closing
        self._loop = loop
        self._queue = queue
        self._faults = faults
        self._stopped: StoreError | None = None

    def run(
        self, opened: asyncio.Future[Boot], open_database: Callable[[], Opened], close_database: Callable[[], None]
    ) -> None:
        try:
            connection, boot = open_database()
        except Exception as error:
            close_database()
            post(self._loop, reject, opened, error)
        else:
            post(self._loop, resolve, opened, boot)
            try:
                self._serve(Committer(connection, boot.epoch, self._faults, self._closing))
            finally:
                close_database()
        finally:
            post(self._loop, resolve, self._face.closed, None)

    def _serve(self, committer: Committer) -> None:
        item = self._next(committer)
        while item is not None:
            if self._faults is not None:
                self._faults.wait()
            kind = type(item)
            items = [item]
            # What is of another kind begins the next batch.
            following: _Write | _Job | None = None
            has_following = False
            while len(items) < MAX_BATCH and not self._queue.empty():
                following = self._queue.get_nowait()
                has_following = type(following) is not kind
                if following is None or has_following:
                    break
                items.append(following)
            if kind is _Write:
                self._write(committer, cast("list[_Write]", items))
            else:
                self._work(committer, cast("list[_Job]", items))
            item = following if has_following else self._next(committer)

    def _next(self, committer: Committer) -> _Write | _Job | None:
        """What comes next; while nothing does, there is time to tidy up."""
        while self._stopped is None and self._queue.empty() and committer.tidy():
            pass
        return self._queue.get()

    def _write(self, committer: Committer, writes: Sequence[_Write]) -> None:
        if self._stopped is not None:
            written = Written(0, [self._stopped] * len(writes), self._stopped)
        else:
            written = committer.write([write.commit for write in writes])
            self._stopped = written.stopped
        # One wake-up of the loop for the whole batch.
        post(self._loop, self._face.settle, [write.future for write in writes], written)

    def _work(self, committer: Committer, jobs: Sequence[_Job]) -> None:
        try:
            if self._stopped is not None:
                raise self._stopped
            results = committer.work([job.call for job in jobs])
        except StoreError as error:
            self._stopped = error
            post(self._loop, self._face.fail, error)
            settles = [partial(reject, job.future, error) for job in jobs]
        else:
            settles = [partial(resolve, job.future, result) for job, result in zip(jobs, results, strict=True)]
        post(self._loop, self._face.done, settles)

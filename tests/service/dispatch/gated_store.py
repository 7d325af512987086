"""A store that a test holds at a commit of its choice, or whose histories cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.service.harness import LIMIT
from turnkeeper_service.store.base import Commit, EventRow
from turnkeeper_service.store.errors import StoreError
from turnkeeper_service.store.faults import Faults
from turnkeeper_service.store.sqlite import SqliteStore


class GatedStore(SqliteStore):
    """From the first commit that a test holds on, commits line up and none of them is written."""

    def __init__(self, data_dir: Path, *, faults: Faults | None = None) -> None:
        super().__init__(data_dir, faults=faults)
        self._when: Callable[[Commit], bool] | None = None
        self._held: list[tuple[Commit, asyncio.Future[None]]] = []
        self._came = asyncio.Event()
        self.unreadable = False
        """Whether the history of a session cannot be read."""

    def hold(self, when: Callable[[Commit], bool]) -> None:
        """Hold the first commit that is one of these, and all after it."""
        self._when = when

    async def came(self, number: int = 1) -> None:
        """Wait until so many commits are held."""
        async with asyncio.timeout(LIMIT):
            while len(self._held) < number:
                self._came.clear()
                await self._came.wait()

    def release(self, number: int | None = None) -> None:
        """Write what is held, in order, and hold nothing any more; with a number, hold what follows so many."""
        held, self._held = self._held[:number], self._held[number:] if number is not None else []
        if not self._held:
            self._when = None
        for commit, outer in held:
            self._write(commit, outer)

    def commit(self, commit: Commit) -> asyncio.Future[None]:
        """Hold the commit, or hand it over."""
        outer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._held and (self._when is None or not self._when(commit)):
            self._write(commit, outer)
        else:
            self._held.append((commit, outer))
            self._came.set()
        return outer

    def _write(self, commit: Commit, outer: asyncio.Future[None]) -> None:
        super().commit(commit).add_done_callback(partial(_pass_on, outer))

    async def read_context(self, tenant: str, session_id: str, context_id: str) -> Sequence[EventRow]:
        """Read a history, or fail as a bad disk makes it fail."""
        if self.unreadable:
            raise StoreError("cannot read: disk I/O error")
        return await super().read_context(tenant, session_id, context_id)


def _pass_on(outer: asyncio.Future[None], inner: asyncio.Future[None]) -> None:
    if outer.cancelled():
        return
    error = inner.exception()
    if error is not None:
        outer.set_exception(error)
    else:
        outer.set_result(None)


def cancels(commit: Commit) -> bool:
    """Whether a commit makes a cancel durable."""
    return bool(commit.cancel_runs)


def ends(run_id: str) -> Callable[[Commit], bool]:
    """The commits with the terminal of this run."""
    return lambda commit: any(finish.run_id == run_id for finish in commit.finish_runs)

"""A store whose commits wait while a test holds them."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from tests.service.harness import LIMIT
from turnkeeper_service.store.base import Commit
from turnkeeper_service.store.sqlite import SqliteStore


class HeldStore(SqliteStore):
    """While it is held, commits line up and nothing of them is written."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._held: list[tuple[Commit, asyncio.Future[None]]] | None = None
        self._came = asyncio.Event()

    def hold(self) -> None:
        """Hold all commits from now on."""
        self._held = []

    async def came(self, number: int) -> list[Commit]:
        """Wait until so many commits are held."""
        assert self._held is not None
        async with asyncio.timeout(LIMIT):
            while len(self._held) < number:
                self._came.clear()
                await self._came.wait()
        return [commit for commit, _ in self._held]

    def release(self) -> None:
        """Write what is held, in order, and hold nothing any more."""
        held, self._held = self._held or [], None
        for commit, outer in held:
            super().commit(commit).add_done_callback(partial(_pass_on, outer))

    def commit(self, commit: Commit) -> asyncio.Future[None]:
        if self._held is None:
            return super().commit(commit)
        outer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held.append((commit, outer))
        self._came.set()
        return outer


def _pass_on(outer: asyncio.Future[None], done: asyncio.Future[None]) -> None:
    if outer.done():
        return
    error = done.exception()
    if error is not None:
        outer.set_exception(error)
    else:
        outer.set_result(None)

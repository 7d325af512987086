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
        """Write what is held, in order, and hold nothing any more; all of it is told to be durable at once."""
        held, self._held = self._held or [], None
        written = asyncio.gather(*(super(HeldStore, self).commit(commit) for commit, _ in held), return_exceptions=True)
        written.add_done_callback(partial(_pass_on, [outer for _, outer in held]))

    def commit(self, commit: Commit) -> asyncio.Future[None]:
        if self._held is None:
            return super().commit(commit)
        outer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held.append((commit, outer))
        self._came.set()
        return outer


def _pass_on(outers: list[asyncio.Future[None]], written: asyncio.Future[list[BaseException | None]]) -> None:
    for outer, error in zip(outers, written.result(), strict=True):
        if outer.done():
            continue
        if error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(None)

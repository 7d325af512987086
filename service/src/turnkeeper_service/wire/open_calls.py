"""The calls under way, and how they end where their caller or the server goes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from turnkeeper_service.errors import Refused

QUIET_SECONDS = 0.15
"""How long no call has come before a server that goes away may close its port."""


class OpenCalls:
    """Tasks that serve calls, from their first step to their last."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stirred = asyncio.Event()
        """Set whenever a call comes or ends."""
        self._parting: asyncio.Future[Refused] | None = None
        """Once it is there, calls that come wait for it, and are refused with it."""
        self.are_over = False
        """Whether all that are left have been ended."""

    async def enter(self, task: asyncio.Task[Any]) -> None:
        """Take a call in. Raises Refused where it came too late."""
        self._tasks.add(task)
        self._stirred.set()
        if self._parting is not None:
            raise await asyncio.shield(self._parting)

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Let a call go. Idempotent."""
        self._tasks.discard(task)
        self._stirred.set()

    def part(self) -> None:
        """Begin to go away: calls that come from now on wait for the end. Idempotent.

        One that was answered at once would be followed by the next, and some of those would meet a server that is gone.
        """
        if self._parting is None:
            self._parting = asyncio.get_running_loop().create_future()

    async def quiet(self, seconds: float) -> None:
        """Wait until no call has come or ended for `QUIET_SECONDS`, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await self._stirs():
                    self._stirred.clear()

    async def _stirs(self) -> bool:
        try:
            await asyncio.wait_for(self._stirred.wait(), QUIET_SECONDS)
        except TimeoutError:
            return False
        return True

    async def end(self, refused: Refused, grace: float) -> None:
        """Refuse the calls that were kept; end those that have not ended by themselves after ``grace`` seconds.

        None may look as if its caller had cancelled it.
        """
        if self._parting is not None and not self._parting.done():
            self._parting.set_result(refused)
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=grace)
        self.are_over = True
        for task in self._tasks:
            task.cancel()

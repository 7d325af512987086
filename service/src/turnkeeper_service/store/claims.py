"""Names that are claimed: of what happens to one at the same time, one is first."""

from __future__ import annotations

import asyncio
from collections import deque

from turnkeeper_service.store.patience import Patience

Name = tuple[str, str]


class Claims:
    """Who has a name, and who waits for it, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: Patience) -> None:
        self._loop = loop
        self._patience = patience
        self._waiting: dict[Name, deque[asyncio.Future[None]]] = {}
        """By name that is taken."""

    async def take(self, name: Name) -> None:
        """Take a name, until it is given back. Raises StoreBusyError where whoever has it keeps it for too long."""
        waiting = self._waiting.get(name)
        if waiting is None:
            self._waiting[name] = deque()
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        waiting.append(turn)
        try:
            await self._patience.wait(turn)
        except BaseException:
            if not turn.cancel():
                # It came in the same moment.
                self.give_back(name)
            raise

    def give_back(self, name: Name) -> None:
        """Let the next one have a name."""
        waiting = self._waiting[name]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[name]

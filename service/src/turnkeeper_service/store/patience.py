"""How long a caller waits for the store. What it waits for is not given up: a busy store writes it later."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TypeVar

from turnkeeper_service.store.errors import StoreBusyError, StoreClosedError

T = TypeVar("T")

SECONDS = 2.0


class Patience:
    """Waits that end by themselves after `SECONDS`. They are equally long, so one timer serves all of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waits: deque[tuple[float, asyncio.Future[None]]] = deque()
        """Until when, and what ends the wait; in that order."""
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, future: asyncio.Future[T]) -> T:
        """The result of a future, which goes on if the caller leaves. Raises StoreBusyError where it takes too long."""
        if not future.done():
            waited: asyncio.Future[None] = self._loop.create_future()

            def end(_: object) -> None:
                if not waited.done():
                    waited.set_result(None)

            future.add_done_callback(end)
            self._waits.append((self._loop.time() + SECONDS, waited))
            if self._timer is None:
                self._timer = self._loop.call_later(SECONDS, self._look)
            try:
                await waited
            finally:
                future.remove_done_callback(end)
        if not future.done():
            raise StoreBusyError("the store is busy")
        if future.cancelled():
            raise StoreClosedError("the store closes")
        return future.result()

    def _look(self) -> None:
        now = self._loop.time()
        while self._waits and (self._waits[0][1].done() or self._waits[0][0] <= now):
            _, waited = self._waits.popleft()
            if not waited.done():
                waited.set_result(None)
        self._timer = self._loop.call_at(self._waits[0][0], self._look) if self._waits else None

    def close(self) -> None:
        """Stop the timer; whoever still waits is told by what it waits for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

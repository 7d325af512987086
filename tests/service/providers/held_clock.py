"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio


class HeldClock:
    """Time that only `advance` moves."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def time(self) -> float:
        return 1_700_000_000.0 + self._now

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (self._now + seconds, future)
        self._sleepers.append(entry)
        try:
            await future
        finally:
            self._sleepers.remove(entry)

    def advance(self, seconds: float) -> None:
        """Move on and wake who is due."""
        self._now += seconds
        for due, future in self._sleepers:
            if due <= self._now and not future.done():
                future.set_result(None)

    async def advance_until(self, task: asyncio.Task[object], step: float) -> float:
        """Move on in steps, with turns of the loop between them, until the task is over; give the seconds it took."""
        start = self._now
        while not task.done():
            self.advance(step)
            for _ in range(20):
                await asyncio.sleep(0)
        return self._now - start

"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class HeldTimer:
    """A call that is made when the clock gets there."""

    due: float
    callback: Callable[[], object]
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Do not make it."""
        self.is_cancelled = True


class HeldClock:
    """Time that only `advance` moves."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._timers: list[HeldTimer] = []

    def time(self) -> float:
        return 1_700_000_000.0 + self._now

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        timer = self.call_later(seconds, wake)
        try:
            await future
        finally:
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> HeldTimer:
        """Call back once when the clock was moved so far."""
        timer = HeldTimer(self._now + max(0.0, seconds), callback)
        self._timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Move on and call what is due."""
        self._now += seconds
        due = [timer for timer in self._timers if timer.due <= self._now]
        self._timers = [timer for timer in self._timers if timer.due > self._now and not timer.is_cancelled]
        for timer in due:
            if not timer.is_cancelled:
                timer.callback()

    async def advance_until(self, task: asyncio.Task[object], step: float) -> float:
        """Move on in steps, with turns of the loop between them, until the task is over; give the seconds it took."""
        start = self._now
        while not task.done():
            self.advance(step)
            for _ in range(20):
                await asyncio.sleep(0)
        return self._now - start

"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

LIMIT = 10.0


@dataclass(order=True)
class ManualTimer:
    """A call that is made when the clock gets there."""

    due: float
    number: int
    callback: Callable[[], object] = field(compare=False)
    is_cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        """Do not make it."""
        self.is_cancelled = True


class ManualClock:
    """Time that only `advance` moves.

    Wait for `armed` before you advance: what has not begun to wait yet begins at the new time.
    """

    def __init__(self) -> None:
        self._now = 1000.0
        self._numbers = itertools.count()
        self._timers: list[ManualTimer] = []
        self._begun: Counter[float] = Counter()
        self._changed = asyncio.Event()

    def time(self) -> float:
        """Wall-clock seconds since the epoch."""
        return 1_700_000_000.0 + self._now

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was moved so far."""
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

    def call_later(self, seconds: float, callback: Callable[[], object]) -> ManualTimer:
        """Call back once when the clock was moved so far."""
        timer = ManualTimer(self._now + max(0.0, seconds), next(self._numbers), callback)
        self._timers.append(timer)
        self._begun[round(seconds, 6)] += 1
        self._changed.set()
        return timer

    def advance(self, seconds: float) -> None:
        """Move on, and call what is due on the way, in order, each at its own time."""
        target = self._now + seconds
        while True:
            self._timers = sorted(timer for timer in self._timers if not timer.is_cancelled)
            if not self._timers or self._timers[0].due > target:
                break
            timer = self._timers.pop(0)
            self._now = max(self._now, timer.due)
            timer.callback()
        self._now = target

    def num_armed(self) -> int:
        """Waits and timers that have not ended."""
        return sum(not timer.is_cancelled for timer in self._timers)

    def num_begun(self, seconds: float) -> int:
        """How many waits of this length have begun in all."""
        return self._begun[round(seconds, 6)]

    async def armed(self, seconds: float, times: int = 1) -> None:
        """Wait until waits of this length have begun so often in all."""
        async with asyncio.timeout(LIMIT):
            while self.num_begun(seconds) < times:
                self._changed.clear()
                await self._changed.wait()

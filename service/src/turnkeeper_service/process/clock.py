"""The clock that the service runs on; tests put another in its place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration


class Timer(Protocol):
    """A call that will be made later."""

    def cancel(self) -> None:
        """Do not make it. Harmless once it was made."""
        ...


class Clock(Protocol):
    """Time, as the service sees it."""

    def time(self) -> float:
        """Wall-clock seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; 0 or less yields once."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call back once after so many seconds, on the event loop's thread. The caller keeps and cancels the timer."""
        ...


class SystemClock:
    """The machine's clock."""

    def time(self) -> float:
        """Wall-clock seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait; 0 or less yields once."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call back once after so many seconds, on the event loop's thread."""
        return asyncio.get_running_loop().call_later(max(0.0, seconds), callback)


async def within(clock: Clock, work: asyncio.Future[Any], seconds: float) -> None:
    """Wait until something has ended, at most so long; what has not goes on."""
    expired: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    timer = clock.call_later(seconds, expired.cancel)
    try:
        await asyncio.wait({work, expired}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
        expired.cancel()


def seconds_of(duration: Duration) -> float:
    """A duration of the contract in seconds."""
    return duration.seconds + duration.nanos / 1e9


def microseconds(seconds: float) -> int:
    """Seconds since the epoch as the store's integer microseconds."""
    return int(seconds * 1_000_000)

"""Bounds on the calls to one provider: how many at once, and how many in a while."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from turnkeeper_service.providers.base import (
    Clock,
    FailureReason,
    ModelEvent,
    ModelRequest,
    Provider,
    ProviderError,
)
from turnkeeper_service.providers.options import CallLimits


class LimitedProvider:
    """Lets calls through in the order in which they came. A cancelled one leaves the line."""

    def __init__(self, inner: Provider, limits: CallLimits, clock: Clock) -> None:
        if limits.max_concurrent == 0 or limits.max_starts == 0:
            raise ValueError("a limit of 0 calls lets none through")
        self._inner = inner
        self._limits = limits
        self._clock = clock
        self._num_open = 0
        self._starts: deque[float] = deque()
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def num_open(self) -> int:
        """Calls that are open now."""
        return self._num_open

    @property
    def num_waiting(self) -> int:
        """Calls that wait for their turn."""
        return len(self._line)

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Wait for the call's turn and open it; see `turnkeeper_service.providers.base.Provider`."""
        await self._enter()
        try:
            async with self._inner.stream(request) as events:
                yield events
        finally:
            self._num_open -= 1
            self._wake_first()

    async def close(self) -> None:
        """Release connections. Idempotent."""
        await self._inner.close()

    async def _enter(self) -> None:
        if self._line or self._seconds_left() != 0:
            await self._wait_in_line()
        self._num_open += 1
        if self._limits.max_starts is not None:
            self._starts.append(self._clock.monotonic())

    async def _wait_in_line(self) -> None:
        if len(self._line) >= self._limits.max_waiting:
            raise _busy(f"{len(self._line)} calls are waiting for this provider.")
        deadline = self._clock.monotonic() + self._limits.max_wait
        woken = asyncio.get_running_loop().create_future()
        self._line.append(woken)
        try:
            while True:
                is_first = self._line[0] is woken
                seconds = self._seconds_left() if is_first else None
                if seconds == 0:
                    return
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    raise _busy(f"The call had no turn within {self._limits.max_wait:g} s.")
                await self._until_woken(woken, left if seconds is None else min(left, seconds))
                if woken.done():
                    place = self._line.index(woken)
                    woken = asyncio.get_running_loop().create_future()
                    self._line[place] = woken
        finally:
            self._line.remove(woken)
            self._wake_first()

    def _seconds_left(self) -> float | None:
        """0 if a call may begin now, None if one has to end before that."""
        limits = self._limits
        if limits.max_concurrent is not None and self._num_open >= limits.max_concurrent:
            return None
        if limits.max_starts is None:
            return 0
        now = self._clock.monotonic()
        while self._starts and self._starts[0] + limits.per_seconds <= now:
            self._starts.popleft()
        if len(self._starts) < limits.max_starts:
            return 0
        return self._starts[0] + limits.per_seconds - now

    def _wake_first(self) -> None:
        if self._line and not self._line[0].done():
            self._line[0].set_result(None)

    async def _until_woken(self, woken: asyncio.Future[None], seconds: float) -> None:
        sleeper = asyncio.create_task(self._clock.sleep(seconds), name="provider-limit")
        try:
            await asyncio.wait({woken, sleeper}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            await asyncio.wait({sleeper})


def _busy(detail: str) -> ProviderError:
    return ProviderError(FailureReason.PROVIDER_RATE_LIMITED, "Provider busy", detail, is_retryable=True)

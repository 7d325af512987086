"""Deadlines of one upstream call, held by one timer of the injected clock.

The watchdog interrupts the call only while it waits for the vendor; a chunk costs one reading of the clock and sets no
timer. An interruption is a cancel of the waiting task that is taken back here, the way `asyncio.timeout` does it, so
that a cancel from outside always wins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from enum import Enum
from typing import TypeVar

from turnkeeper_service.providers.base import Clock, FailureReason, ProviderError, Timer
from turnkeeper_service.providers.options import Timeouts

T = TypeVar("T")
_NEVER = float("inf")
_LONGEST_WAIT = 3600.0


class _Phase(Enum):
    CONNECT = 0
    FIRST_TOKEN = 1
    IDLE = 2
    GRACE = 3


class Watchdog:
    """Guards the waits of one call; a context manager around the whole of it."""

    def __init__(self, clock: Clock, timeouts: Timeouts) -> None:
        self._clock = clock
        self._timeouts = timeouts
        self._first_token = _limit(timeouts.first_token)
        self._idle = _limit(timeouts.idle)
        self._phase = _Phase.CONNECT
        start = clock.monotonic()
        self._phase_at = start + _limit(timeouts.connect)
        self._total_at = start + _limit(timeouts.total)
        self._waiting: asyncio.Task[object] | None = None
        self._cancels = 0
        self._now = clock.monotonic
        self._expired: ProviderError | None = None
        self._timer: Timer | None = None

    def __enter__(self) -> Watchdog:
        self._look()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def connected(self) -> None:
        """The connection stands; from here on we wait for the first byte of the body."""
        if self._phase is _Phase.CONNECT:
            self._phase = _Phase.FIRST_TOKEN
            self._phase_at = self._now() + self._first_token

    def limit_rest(self, seconds: float) -> None:
        """Nothing more is needed: what is still waited for gets this long."""
        self._phase = _Phase.GRACE
        self._phase_at = self._now() + seconds
        if self._timer is not None:
            self._timer.cancel()
        self._look()

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Wait for something of the vendor's, interrupted by the deadlines."""
        self.begin_wait()
        try:
            return await awaitable
        except asyncio.CancelledError:
            self.interrupted()
            raise
        finally:
            self.leave()

    def begin_wait(self) -> None:
        """From here until `end_wait` the calling task waits for the vendor and may be interrupted."""
        if self._expired is not None:
            raise self._expired
        if self._phase is _Phase.IDLE:
            # Counted from here: a slow consumer is not the vendor's silence.
            self._phase_at = self._now() + self._idle
        task = asyncio.current_task()
        assert task is not None
        self._cancels = task.cancelling()
        self._waiting = task

    def end_wait(self) -> None:
        """Bytes of the body are here."""
        self._waiting = None
        if self._phase is _Phase.CONNECT or self._phase is _Phase.FIRST_TOKEN:
            self._phase = _Phase.IDLE

    def leave(self) -> None:
        """The wait is over without bytes."""
        self._waiting = None

    def interrupted(self) -> None:
        """Raise the timeout if the cancel that ended the wait is the watchdog's own and the only one."""
        if self._expired is not None and self._waiting is not None and self._waiting.uncancel() <= self._cancels:
            raise self._expired from None

    def _look(self) -> None:
        """Interrupt the call if its time is up, else look again when it may be."""
        now = self._now()
        waiting = self._waiting
        if now >= self._total_at or (now >= self._phase_at and waiting is not None):
            self._expired = self._error(now)
            if waiting is not None:
                waiting.cancel()
            return
        is_idle = waiting is None and self._phase is _Phase.IDLE
        phase_left = self._idle if is_idle else max(self._phase_at - now, 0.001)
        # A later phase starts its own limit, which may end before this one's: never wait past the shortest.
        if self._phase is _Phase.CONNECT:
            phase_left = min(phase_left, self._first_token, self._idle)
        elif self._phase is _Phase.FIRST_TOKEN:
            phase_left = min(phase_left, self._idle)
        self._timer = self._clock.call_later(min(phase_left, self._total_at - now, _LONGEST_WAIT), self._look)

    def _error(self, now: float) -> ProviderError:
        limits = self._timeouts
        if now >= self._total_at:
            return ProviderError(
                FailureReason.TOTAL_TIMEOUT, "Total timeout", f"The call was not over after {limits.total:g} s."
            )
        if self._phase is _Phase.CONNECT:
            return ProviderError(
                FailureReason.PROVIDER_UNREACHABLE,
                "Connect timeout",
                f"No connection within {limits.connect:g} s.",
                is_retryable=True,
            )
        if self._phase is _Phase.FIRST_TOKEN:
            return ProviderError(
                FailureReason.FIRST_TOKEN_TIMEOUT,
                "First token timeout",
                f"Connected, but nothing arrived within {limits.first_token:g} s.",
                is_retryable=True,
            )
        return ProviderError(
            FailureReason.IDLE_TIMEOUT,
            "Idle timeout",
            f"Nothing arrived for {limits.idle or 0:g} s.",
            is_retryable=True,
        )


def _limit(seconds: float | None) -> float:
    return _NEVER if seconds is None else seconds

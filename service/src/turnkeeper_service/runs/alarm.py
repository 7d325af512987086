"""One timer for all deadlines of the core."""

from __future__ import annotations

from collections.abc import Callable

from turnkeeper_service.process.clock import Clock, Timer

from .scheduler import CoreScheduler


class Alarm:
    """Goes off when the core's earliest deadline has passed."""

    def __init__(self, core: CoreScheduler, clock: Clock, due: Callable[[], None]) -> None:
        self._core = core
        self._clock = clock
        self._call = due
        self._timer: Timer | None = None
        self._at = 0.0
        self._is_stopped = False

    def wake_at(self, when: float) -> None:
        """The earliest deadline is now this one, as the core's clock says."""
        if self._timer is None or when < self._at:
            self._set(when, self._core.until(when))

    def _set(self, when: float, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if not self._is_stopped:
            self._at = when
            self._timer = self._clock.call_later(max(0.0, seconds), self._goes_off)

    def _goes_off(self) -> None:
        self._timer = None
        if self._is_stopped:
            return
        self._call()
        seconds = self._core.next_due()
        if seconds is not None:
            when = self._clock.monotonic() + seconds
            if self._timer is None or when < self._at:
                self._set(when, seconds)

    def stop(self) -> None:
        """Go off no more. Idempotent."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

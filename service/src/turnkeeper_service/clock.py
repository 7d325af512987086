"""The clock that the service runs on; tests put another in its place."""

from __future__ import annotations

import asyncio
import time


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

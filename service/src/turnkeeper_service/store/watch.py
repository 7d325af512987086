"""Whether this process still owns its store, looked at also while it writes nothing (U-15)."""

from __future__ import annotations

from turnkeeper_service.process.clock import Clock

from .base import Store

LOOK_SECONDS = 3.0
"""Between two looks. Every commit checks for itself, so this bounds how long an idle server does not know."""


class OwnershipWatch:
    """Looks at the fence of a store at intervals, whoever is connected or not."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def run(self) -> None:
        """Look until cancelled. Raises StoreFencedError or StoreError, when the store has stopped."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            await self._store.check_fence()

"""Names that are claimed: of what happens to one at the same time, one is first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary


class Claims:
    """A lock per name, there as long as somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def take(self, name: tuple[str, str]) -> Callable[[], None]:
        """Take a name, whoever comes first first; the result gives it back, and is called once."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        await lock.acquire()
        return lock.release

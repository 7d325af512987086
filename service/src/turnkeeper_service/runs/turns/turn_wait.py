"""One strand of a turn waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from turnkeeper_service.engine.scheduling import WaitKind


class TurnWait:
    """See `turnkeeper_service.engine.scheduling.Wait`."""

    __slots__ = ("_ends", "came", "is_granted", "is_parked", "kind", "wait_id")

    def __init__(
        self, ends: Callable[[int], None], wait_id: int, kind: WaitKind | Literal["lane"], *, is_parked: bool
    ) -> None:
        self._ends = ends
        self.wait_id = wait_id
        self.kind = kind
        self.is_parked = is_parked
        self.is_granted = False
        """Whether what it waited for came in time: a provider takes the call."""
        self.came: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        """What it waited for has come. Harmless when it is over."""
        self._ends(self.wait_id)

    def resolve(self) -> None:
        """The core has ended it."""
        if not self.came.done():
            self.came.set_result(None)

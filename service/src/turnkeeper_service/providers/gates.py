"""Named gates that a test holds shut and opens, for the scripted provider."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Gate:
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    num_reached: int = 0
    num_waiting: int = 0


class Gates:
    """Every gate is shut until it is opened, and stays open until it is held again."""

    def __init__(self) -> None:
        self._gates: dict[str, _Gate] = {}

    def open(self, name: str) -> None:
        """Let everybody at the gate, and all who come later, pass."""
        self._gate(name).opened.set()

    def hold(self, name: str) -> None:
        """Shut the gate again; who has passed has passed."""
        self._gate(name).opened.clear()

    async def reached(self, name: str, times: int = 1) -> None:
        """Wait until so many calls in all have come to the gate."""
        gate = self._gate(name)
        async with gate.changed:
            await gate.changed.wait_for(lambda: gate.num_reached >= times)

    def num_waiting(self, name: str) -> int:
        """How many are at the gate now."""
        return self._gate(name).num_waiting

    async def wait(self, name: str) -> None:
        """Come to the gate and wait until it is open."""
        gate = self._gate(name)
        async with gate.changed:
            gate.num_reached += 1
            gate.changed.notify_all()
        gate.num_waiting += 1
        try:
            await gate.opened.wait()
        finally:
            gate.num_waiting -= 1

    def _gate(self, name: str) -> _Gate:
        return self._gates.setdefault(name, _Gate())

"""What a turn leaves in memory: nothing that only the garbage collector could free."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service.harness import serving


@contextmanager
def kept() -> Iterator[list[object]]:
    """What the garbage collector finds to free behind this block."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    found: list[object] = []
    try:
        yield found
        gc.collect()
        found.extend(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.asyncio
async def test_a_turn_leaves_no_garbage(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await server.submit("s", "hello", "first")
        await server.terminals("s", ["first"])
        with kept() as found:
            runs = [f"r{number}" for number in range(10)]
            for run_id in runs:
                await server.submit("s", "hello", run_id)
            await server.terminals("s", runs)
        ours = Counter(type(one).__qualname__ for one in found if type(one).__module__.startswith("turnkeeper"))
        assert not ours

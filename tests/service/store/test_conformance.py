"""The suite that every store passes, on SQLite."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.service.store.harness import SqliteHarness
from turnkeeper_service.store.conformance import SCENARIOS, Harness


@pytest.mark.asyncio
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_conformance(scenario: Callable[[Harness], Awaitable[None]], tmp_path: Path) -> None:
    await scenario(SqliteHarness(tmp_path))

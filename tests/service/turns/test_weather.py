"""Whatever is thrown at turns that wait: everything ends, once, and nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.turns.weather import storm


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.asyncio
async def test_everything_ends_once_whatever_it_waits_for(
    seed: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert await storm(tmp_path, seed)
    said = "".join(capfd.readouterr())
    at = min((said.find(word) for word in ("fault", "Traceback") if word in said), default=-1)
    assert at < 0, said[max(0, at - 300) : at + 20_000]


@pytest.mark.asyncio
async def test_everything_ends_once_where_turns_cannot_be_planned(tmp_path: Path) -> None:
    assert await storm(tmp_path, 7, is_flawed=True)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 200))
@pytest.mark.asyncio
async def test_everything_ends_once_in_a_hundred_storms(
    seed: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if seed % 5 == 0:
        await storm(tmp_path, seed, is_flawed=True)
    else:
        await test_everything_ends_once_whatever_it_waits_for(seed, tmp_path, capfd)

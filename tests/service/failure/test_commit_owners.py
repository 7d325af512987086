"""Whatever the server writes of a session says as which owner of its slot it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.harness import serving
from turnkeeper_service.store.base import Commit
from turnkeeper_service.store.faults import Faults
from turnkeeper_service.store.sqlite import SqliteStore


@pytest.mark.asyncio
async def test_each_commit_carries_the_epoch_of_its_process(tmp_path: Path) -> None:
    for epoch in (1, 2):
        commits: list[Commit] = []

        def seen(commit: Commit, commits: list[Commit] = commits) -> bool:
            commits.append(commit)
            return False

        faults = Faults()
        faults.fail("before", when=seen)
        async with serving(tmp_path, store=SqliteStore(tmp_path, faults=faults)) as server:
            await server.session(f"s{epoch}")
            await server.submit("s1", '{"tokens": 30000}', f"r{epoch}")
            await server.terminals("s1", [f"r{epoch}"])
        # Also the text of an open message, which goes past the session's own commits.
        assert any(commit.partials for commit in commits)
        assert {commit.epoch for commit in commits} == {epoch}

"""The main job, once, end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from turnkeeper.v1 import event_pb2

from .harness import serving


@pytest.mark.asyncio
async def test_a_prompt_is_answered_and_has_one_terminal(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        receipt = await server.submit("s", "one two three", run_id="r")
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert receipt.run_id == "r"
        assert outcome.status == event_pb2.OUTCOME_STATUS_COMPLETED
        assert outcome.text == "one two three"
        assert [event.seq for event in await server.history("s")] == list(range(1, 9))

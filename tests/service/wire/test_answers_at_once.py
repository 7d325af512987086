"""Models that answer at once: their words come after the receipt, and as deltas from the first to the last."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.service.harness import serving
from turnkeeper.v1 import run_service_pb2

LIMIT = 30
ANSWER = "one two three"


def check(items: Sequence[run_service_pb2.StreamItem]) -> None:
    """The receipt comes first, then all of the answer."""
    kinds = [item.WhichOneof("item") for item in items]
    assert "snapshot" not in kinds
    assert kinds.index("receipt") < kinds.index("delta")
    deltas = [item.delta for item in items if item.HasField("delta")]
    text = ""
    for delta in deltas:
        assert delta.offset == len(text.encode())
        text += delta.text
    assert text == ANSWER


@pytest.mark.asyncio
async def test_a_run_that_begins_with_its_accept_is_streamed_whole(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, asyncio.timeout(LIMIT):
        await server.session("s")
        for _ in range(20):
            submission = run_service_pb2.Submission(session_id="s")
            submission.prompt.add().text.text = ANSWER
            call = server.runs.Run(run_service_pb2.RunRequest(submission=submission))
            check([response.item async for response in call])


@pytest.mark.asyncio
async def test_a_conversation_is_told_the_receipt_before_the_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, asyncio.timeout(LIMIT):
        await server.session("s")
        call = server.runs.Converse()
        await call.write(run_service_pb2.ConverseRequest(open=run_service_pb2.OpenFrame(session_id="s")))
        assert (await anext(aiter(call))).item.HasField("receipt")
        for number in range(20):
            frame = run_service_pb2.ConverseRequest(frame_id=str(number))
            frame.submit.prompt.add().text.text = ANSWER
            await call.write(frame)
            items = []
            async for response in call:
                items.append(response.item)
                if response.item.event.HasField("run_finished"):
                    break
            check(items)
        await call.done_writing()
        assert [response async for response in call] == []

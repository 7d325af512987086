"""Table G of the dispatch rows: ten thousand runs in the line of one session."""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.dispatch.script import at_gate, provider, reply
from tests.service.dispatch.watch import COMPLETED
from tests.service.harness import Harness, Places, serving, submission
from turnkeeper.v1 import admin_service_pb2, content_pb2, run_service_pb2, session_service_pb2
from turnkeeper_service.engine.turn import FloorTurn

NUM_RUNS = 10_000
PAGE = 500
LIMIT = 240.0
"""Seconds after which it hangs; by itself it takes a small part of that."""
MEMORY = Path("/dev/shm")
BYTES_PER_RUN = 16 << 10
"""Each run leaves its prompt and answer in the session's context, and pages in the store's caches."""


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory in memory, where there is such: the row is about the line, and a disk syncs every commit."""
    if not MEMORY.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


class Probe(Places):
    """Looks at the process whenever a turn begins."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []
        self.depths: list[int] = []
        self.tasks: list[int] = []
        self.turns: list[int] = []

    def reach(self, place: str, run_id: str) -> Coroutine[Any, Any, None] | None:
        """Count the frames below this one, and now and then the tasks and the turns that are kept."""
        if place == "turn":
            self.order.append(run_id)
            frame, depth = sys._getframe(), 0
            while (caller := frame.f_back) is not None:
                frame, depth = caller, depth + 1
            self.depths.append(depth)
            if len(self.depths) % (NUM_RUNS // 5) == 0:
                self.tasks.append(len(asyncio.all_tasks()))
                gc.collect()
                self.turns.append(sum(isinstance(one, FloorTurn) for one in gc.get_objects()))
        return super().reach(place, run_id)


async def runs_of(server: Harness) -> AsyncIterator[run_service_pb2.Run]:
    """All runs of the session, in accept order."""
    request = run_service_pb2.ListRunsRequest(session_id="s", page_size=PAGE)
    while True:
        response = await server.runs.ListRuns(request)
        for run in response.runs:
            yield run
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token


async def messages_of(server: Harness) -> AsyncIterator[content_pb2.Message]:
    """All messages of the session, in order."""
    request = session_service_pb2.ListMessagesRequest(session_id="s", page_size=PAGE)
    while True:
        response = await server.sessions.ListMessages(request)
        for message in response.messages:
            yield message
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token


async def rss(server: Harness) -> int:
    """Bytes that the process has in memory."""
    response: admin_service_pb2.GetStatsResponse = await server.admin.GetStats(admin_service_pb2.GetStatsRequest())
    return response.rss_bytes


async def pipeline(server: Harness, names: list[str]) -> AsyncIterator[run_service_pb2.StreamItem]:
    """Submit them all over one stream without waiting in between; what comes back, up to its end."""
    call = server.runs.Converse()
    opening = run_service_pb2.OpenFrame(session_id="s")
    # Only the last run's events come back, beside the receipts.
    opening.filter.run_ids.append(names[-1])
    opening.filter.without_deltas = True

    async def submit() -> None:
        await call.write(run_service_pb2.ConverseRequest(open=opening))
        for name in names:
            # Usage that is given need not be counted, over a history that grows and grows.
            prompt = reply(name, usage={"input_tokens": 1, "output_tokens": 1})
            await call.write(run_service_pb2.ConverseRequest(frame_id=name, submit=submission("s", prompt, name)))
        await call.done_writing()

    submitting = asyncio.create_task(submit())
    async for response in call:
        yield response.item
    await submitting


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:G-13")
async def test_ten_thousand_queued_prompts_complete_in_accept_order(data_dir: Path) -> None:
    probe = Probe()
    names = [f"r{number}" for number in range(NUM_RUNS)]
    async with asyncio.timeout(LIMIT), serving(data_dir, places=probe) as server:
        await server.session("s")
        await server.submit("s", reply("first", gate="g"), run_id="first")
        await at_gate(server, "g")
        receipts: list[run_service_pb2.RunReceipt] = []
        before = 0
        async for item in pipeline(server, names):
            assert not item.HasField("error"), item
            if item.receipt.HasField("run"):
                receipts.append(item.receipt.run)
            if len(receipts) == NUM_RUNS and not before:
                # All are in line; now the line moves.
                assert server.counts("s").queued == NUM_RUNS
                before = await rss(server)
                server.gates.open("g")
        grown = await rss(server) - before
        assert [receipt.run_id for receipt in receipts] == names
        assert [receipt.position for receipt in receipts] == list(range(1, NUM_RUNS + 1))
        assert server.snapshot("s") is None
        assert provider(server).max_open == 1

        assert probe.order == ["first", *names]
        finished = [run async for run in runs_of(server)]
        assert [run.run_id for run in finished] == probe.order
        assert {run.outcome.status for run in finished} == {COMPLETED}
        times = [run.finish_time.ToNanoseconds() for run in finished]
        assert times == sorted(times)
        answers = [m.parts[0].text.text async for m in messages_of(server) if m.role == content_pb2.ROLE_ASSISTANT]
        assert answers == probe.order

        assert max(probe.depths) <= max(probe.depths[:10]), "the stack grows with the line"
        assert max(probe.tasks) <= min(probe.tasks) + 2, "tasks pile up"
        assert max(probe.turns) <= 3, "turns that are over are kept"
        assert grown < NUM_RUNS * BYTES_PER_RUN

"""kill -9 while a run waits for somebody's leave and others stand behind it (U-16)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import grpc.aio
import pytest

from tests.service.failure.process import ROOT, ServerProcess
from tests.service.failure.remote import Remote, connected
from tests.service.failure.stories import is_valid, reason_of, started_order
from tests.service.harness import reason
from tests.service.turns.scenes import calls, script
from turnkeeper.v1 import event_pb2, session_service_pb2

TOOLS = '''
"""A tool that asks first and notes that it ran."""
from turnkeeper_service.tools.functions import FunctionTool


def order_book() -> str:
    """Orders a book."""
    with open({path!r}, "a") as note:
        note.write("ran\\n")
    return "ordered"


order = FunctionTool(order_book, name="order", needs_approval=True)
'''
RUNS = ["r", "q0", "q1", "q2"]


class Shop:
    """Servers, one after another, on the same data."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, default: str = "deny") -> None:
        self._data = folder / "data"
        self._note = folder / "note"
        (folder / "shop_tools.py").write_text(TOOLS.format(path=str(self._note)))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
        self._flags = ["--set", 'tools.functions=["shop_tools:order"]', "--set", f"tools.approval_default={default}"]

    def open(self, module: str = "turnkeeper_service") -> ServerProcess:
        """The next server."""
        return ServerProcess(self._data, *self._flags, module=module)

    @property
    def num_orders(self) -> int:
        """How often the tool ran."""
        return len(self._note.read_text().splitlines()) if self._note.exists() else 0


async def approvals(server: Remote) -> Sequence[session_service_pb2.Approval]:
    """Those of the session that wait."""
    response = await server.sessions.ListApprovals(session_service_pb2.ListApprovalsRequest(session_id="s"))
    return list(response.approvals)


async def asks(server: Remote) -> event_pb2.ApprovalRequested:
    """A run that waits for leave, and three behind it."""
    await server.session("s")
    await server.submit("s", script(calls("order"), "done"), "r")
    for run_id in RUNS[1:]:
        await server.submit("s", f"text of {run_id}", run_id)
    run = server.runs.Run(server.run_request("s", script(calls("order"), "done"), "r"))
    async for item in run:
        if item.item.event.HasField("approval_requested"):
            run.cancel()
            asked: event_pb2.ApprovalRequested = item.item.event.approval_requested
            return asked
    raise AssertionError("nobody was asked")


async def answer(server: Remote, approval_id: str) -> str:
    """Allow it; why not, where that is refused."""
    request = session_service_pb2.AnswerApprovalRequest(session_id="s", approval_id=approval_id, is_allowed=True)
    try:
        await server.sessions.AnswerApproval(request)
    except grpc.aio.AioRpcError as error:
        return reason(error)
    return ""


async def check(server: Remote, texts: list[str]) -> list[event_pb2.Event]:
    """All runs have ended, in order; what the session's log says."""
    outcomes = await server.terminals("s", RUNS)
    assert [reason_of(outcome) for outcome in outcomes.values()] == ["COMPLETED/ANSWERED"] * 4
    assert [outcomes[run_id].text for run_id in RUNS] == texts
    events = await server.history("s")
    assert started_order(events) == RUNS
    listed = await server.messages("s")
    assert is_valid(listed)
    assert sum(part.HasField("tool_result") for message in listed for part in message.parts) == 1
    return events


TEXTS = ["done", "text of q0", "text of q1", "text of q2"]


@pytest.mark.asyncio
async def test_an_approval_that_waits_survives_a_kill_with_its_deadline_and_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path, monkeypatch)
    with shop.open() as process:
        async with connected(process.serving()) as server:
            asked = await asks(server)
            process.kill()
    with shop.open() as process:
        async with connected(process.serving()) as server:
            (waiting,) = await approvals(server)
            assert (waiting.approval_id, waiting.deadline) == (asked.approval_id, asked.deadline)
            assert [(await server.run_view(run_id)).position for run_id in RUNS] == [0, 1, 2, 3]
            assert shop.num_orders == 0
            assert await answer(server, asked.approval_id) == ""
            await check(server, TEXTS)
            process.kill()
    with shop.open() as process:
        async with connected(process.serving()) as server:
            assert await answer(server, asked.approval_id) == "APPROVAL_ANSWERED"
            assert await approvals(server) == []
            events = await check(server, TEXTS)
            assert [one.approval_resolved.is_allowed for one in events if one.HasField("approval_resolved")] == [True]
    assert shop.num_orders == 1


@pytest.mark.parametrize(("default", "num_orders"), [("deny", 0), ("allow", 1)])
@pytest.mark.asyncio
async def test_an_approval_whose_deadline_passed_after_a_kill_has_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default: str, num_orders: int
) -> None:
    shop = Shop(tmp_path, monkeypatch, default)
    with shop.open() as process:
        async with connected(process.serving()) as server:
            asked = await asks(server)
            process.kill()
    with shop.open("tests.service.failure.later") as process:
        async with connected(process.serving()) as server:
            events = await check(server, TEXTS)
            (resolved,) = [one for one in events if one.HasField("approval_resolved")]
            assert resolved.approval_resolved.is_allowed is (default == "allow")
            assert resolved.approval_resolved.actor == ""
            assert resolved.time.ToSeconds() > asked.deadline.ToSeconds()
            assert await answer(server, asked.approval_id) == "APPROVAL_ANSWERED"
    assert shop.num_orders == num_orders

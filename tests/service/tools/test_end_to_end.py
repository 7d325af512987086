"""A tool of the server, and one of a client that needs an approval, end to end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.service.harness import LIMIT, serving, submission
from turnkeeper.v1 import content_pb2, session_service_pb2, tool_service_pb2
from turnkeeper.v1 import run_service_pb2 as pb
from turnkeeper_service.tools.functions import FunctionTool

CALL = {"tool_calls": [{"name": "add", "arguments": {"a": 1, "b": 2}, "id": "c1"}]}
PROMPT = json.dumps({"replies": [CALL, {"text": "it is three"}]})
CALLED = ["tool_call_requested", "tool_call_started", "tool_call_finished"]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.mark.asyncio
async def test_a_function_of_the_server_is_called_and_its_result_is_answered(tmp_path: Path) -> None:
    async with serving(tmp_path, tools={"add": FunctionTool(add).offered()}) as server:
        await server.session("s", model="scripted/echo")
        await server.submit("s", PROMPT, run_id="r")
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (outcome.text, outcome.num_steps) == ("it is three", 2)
        events = [event for event in await server.history("s") if event.run_id == "r"]
        told = [event.WhichOneof("payload") for event in events]
        assert [payload for payload in told if payload in CALLED] == CALLED
        user, asking, result, answer = await server.messages("s")
        assert (user.role, answer.role) == (content_pb2.ROLE_USER, content_pb2.ROLE_ASSISTANT)
        assert asking.parts[0].tool_call.tool_call_id == result.parts[0].tool_result.tool_call_id == "c1"
        assert result.parts[0].tool_result.content[0].text.text == "3"


@pytest.mark.asyncio
async def test_a_tool_of_a_client_runs_once_somebody_else_has_allowed_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s", model="scripted/echo")
        call = server.runs.Converse()
        opening = pb.OpenFrame(session_id="s", after_seq=0, client_name="me")
        await call.write(pb.ConverseRequest(open=opening))
        tool = tool_service_pb2.Tool(name="add", needs_approval=True)
        await call.write(pb.ConverseRequest(offer_tools=tool_service_pb2.OfferTools(tools=[tool])))
        await call.write(pb.ConverseRequest(submit=submission("s", PROMPT, "r")))
        told: list[str] = []
        text = ""
        async with asyncio.timeout(LIMIT):
            while not text:
                item = (await call.read()).item
                told.append(item.event.WhichOneof("payload") or item.WhichOneof("item") or "")
                if item.event.HasField("approval_requested"):
                    wanted = item.event.approval_requested.approval_id
                    listed = await server.sessions.ListApprovals(
                        session_service_pb2.ListApprovalsRequest(session_id="s")
                    )
                    assert [one.approval_id for one in listed.approvals] == [wanted]
                    answer = session_service_pb2.AnswerApprovalRequest(
                        session_id="s", approval_id=wanted, is_allowed=True
                    )
                    await server.sessions.AnswerApproval(answer)
                if item.HasField("tool_invocation"):
                    result = tool_service_pb2.ToolInvocationResult(lease_id=item.tool_invocation.lease_id)
                    result.result.content.add().text.text = "3"
                    await call.write(pb.ConverseRequest(frame_id="result", tool_result=result))
                if item.event.HasField("run_finished"):
                    text = item.event.run_finished.outcome.text
            await call.done_writing()
            while await call.read():
                pass
        assert text == "it is three"
        order = [
            "approval_requested",
            "approval_resolved",
            "tool_call_started",
            "tool_invocation",
            "tool_call_finished",
        ]
        assert [one for one in told if one in order] == order

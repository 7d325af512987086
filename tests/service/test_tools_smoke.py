from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from turnkeeper.v1 import run_service_pb2 as pb
from turnkeeper.v1 import session_service_pb2, tool_service_pb2
from turnkeeper_service.tools.functions import FunctionTool

from .harness import LIMIT, serving, submission


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


CALL = json.dumps(
    {"replies": [{"tool_calls": [{"name": "add", "arguments": {"a": 1, "b": 2}, "id": "c1"}]}, {"text": "it is three"}]}
)


@pytest.mark.asyncio
async def test_function_tool(tmp_path: Path) -> None:
    async with serving(tmp_path, tools={"add": FunctionTool(add).offered()}) as server:
        await server.session("s", model="scripted/echo")
        await server.submit("s", CALL, run_id="r")
        out = (await server.terminals("s", ["r"]))["r"]
        for e in await server.history("s"):
            print(e.seq, e.WhichOneof("payload"))
        print(out)
        msgs = await server.messages("s")
        print([(m.role, [p.WhichOneof("part") for p in m.parts]) for m in msgs])
        assert out.text == "it is three"


@pytest.mark.asyncio
async def test_client_tool(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s", model="scripted/echo")
        call = server.runs.Converse()
        await call.write(
            pb.ConverseRequest(frame_id="o", open=pb.OpenFrame(session_id="s", after_seq=0, client_name="me"))
        )
        tool = tool_service_pb2.Tool(name="add", input_schema_json='{"type":"object"}', needs_approval=True)
        await call.write(pb.ConverseRequest(frame_id="t", offer_tools=tool_service_pb2.OfferTools(tools=[tool])))
        await call.write(pb.ConverseRequest(frame_id="s", submit=submission("s", CALL, "r")))
        async with asyncio.timeout(LIMIT):
            while True:
                r = await call.read()
                it = r.item
                print(it.WhichOneof("item"), it.event.WhichOneof("payload") if it.HasField("event") else "")
                if it.event.HasField("approval_requested"):
                    a = it.event.approval_requested
                    got = await server.sessions.ListApprovals(session_service_pb2.ListApprovalsRequest(session_id="s"))
                    assert [x.approval_id for x in got.approvals] == [a.approval_id]
                    await server.sessions.AnswerApproval(
                        session_service_pb2.AnswerApprovalRequest(
                            session_id="s", approval_id=a.approval_id, is_allowed=True
                        )
                    )
                if it.HasField("tool_invocation"):
                    res = tool_service_pb2.ToolInvocationResult(lease_id=it.tool_invocation.lease_id)
                    res.result.content.add().text.text = "3"
                    await call.write(pb.ConverseRequest(frame_id="x", tool_result=res))
                if it.event.HasField("run_finished"):
                    assert it.event.run_finished.outcome.text == "it is three", it.event
                    break
        await call.done_writing()
        while await call.read():
            pass

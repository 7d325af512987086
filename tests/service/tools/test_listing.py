"""ListTools: what tools there are for a session, and which of them its model is not told of, and why."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.service.harness import Harness, load_settings, serving
from tests.service.tools.holders import Worker
from tests.service.turns.scenes import Tools
from tests.service.wire.refusals import refusal, refused
from turnkeeper.v1 import tool_service_pb2 as pb
from turnkeeper.v1 import tool_service_pb2_grpc

ODD_SERVER = Path(__file__).parents[1] / "mcp" / "odd_server.py"
ODD = json.dumps({"type": "object", "properties": {"große Stadt": {"type": "string"}}})
TEXT = json.dumps({"type": "string"})
NO_OBJECT = "its arguments are no object"
ODD_TOOLS = [
    {"name": "any_of", "inputSchema": {"type": "object", "anyOf": [{"properties": {"a": {"type": "string"}}}]}},
    {"name": "elsewhere", "inputSchema": {"type": "object", "$ref": "https://schemas.example/a.json"}},
    {"name": "polled", "inputSchema": {"type": "object"}, "execution": {"taskSupport": "required"}},
]


async def listed(server: Harness, session_id: str = "", model: str = "") -> pb.ListToolsResponse:
    stub: Any = tool_service_pb2_grpc.ToolServiceStub(server.channel)
    response: pb.ListToolsResponse = await stub.ListTools(pb.ListToolsRequest(session_id=session_id, model=model))
    return response


def left_out(response: pb.ListToolsResponse) -> dict[str, str]:
    return {one.name: one.left_out for one in response.tools}


@pytest.mark.asyncio
async def test_a_list_says_who_runs_a_tool_and_why_a_model_is_not_told_of_it(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look", "odd", "text")
    tools.offered["text"].tool.input_schema_json = TEXT
    tools.offered["odd"].tool.input_schema_json = ODD
    tools.offered["look"].tool.description = "Looks. " * 200
    settings = {
        "providers.a.format": "anthropic-messages",
        "providers.a.base_url": "http://127.0.0.1:9",
        "providers.o.format": "openai-chat",
        "providers.o.base_url": "http://127.0.0.1:9",
        "defaults.model": "a/m",
    }
    async with serving(tmp_path, settings=load_settings(tmp_path, **settings), tools=tools.offered) as server:
        worker = await Worker.serve(server, "far", name="w")
        await server.session("s")
        await server.session("some", tools=["look", "text"], model="o/m")
        await server.session("none", is_tool_free=True)
        response = await listed(server, "s")
        assert response.model == "a/m"
        assert [(one.name, one.executor) for one in response.tools] == [
            ("far", "w"),
            ("look", "server"),
            ("odd", "server"),
            ("text", "server"),
        ]
        assert len(response.tools[1].description) == 500
        odd = "the vendor takes no argument named 'große Stadt'"
        assert left_out(response) == {"far": "", "look": "", "odd": odd, "text": NO_OBJECT}
        everywhere = await listed(server)
        assert (everywhere.model, left_out(everywhere)) == (
            "",
            {"far": "", "look": "", "odd": f"a: {odd}", "text": f"a: {NO_OBJECT}; o: {NO_OBJECT}"},
        )
        assert everywhere.tools[1] == response.tools[1]
        assert left_out(await listed(server, "s", "o/m")) == {"far": "", "look": "", "odd": "", "text": NO_OBJECT}
        assert set(left_out(await listed(server, "s", "scripted/echo")).values()) == {""}
        unnamed = "the session does not name it"
        assert left_out(await listed(server, "some")) == {"far": unnamed, "look": "", "odd": unnamed, "text": NO_OBJECT}
        assert set(left_out(await listed(server, "none")).values()) == {"the session is tool-free"}
        unknown = refusal(grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_MODEL", "model")
        assert await refused(listed(server, "s", "zzz/m")) == unknown
        assert (await refused(listed(server, "absent"))).reason == "SESSION_NOT_FOUND"
        assert (await refused(listed(server, "a b"))).reason == "INVALID_ID"
        worker.kill()


@pytest.mark.asyncio
async def test_a_tool_server_with_one_odd_tool_serves_the_others(tmp_path: Path) -> None:
    answers = tmp_path / "answers"
    answers.mkdir()
    (answers / "tools-list").write_text(f'{{"jsonrpc":"2.0","id":@ID@,"result":{{"tools":{json.dumps(ODD_TOOLS)}}}}}\n')
    settings = {
        "mcp.x.command": sys.executable,
        "mcp.x.args": json.dumps([str(ODD_SERVER), str(answers)]),
        "mcp.x.wait": "true",
        "providers.o.format": "openai-chat",
        "providers.o.base_url": "http://127.0.0.1:9",
    }
    async with serving(tmp_path, settings=load_settings(tmp_path, **settings)) as server:
        await server.session("s")
        # A run waits for the server; then its tools are known.
        await server.submit("s", "hello", "r")
        await server.terminals("s", ["r"])
        assert left_out(await listed(server, "s", "o/m")) == {
            "x_any_of": "",
            "x_elsewhere": "its schema refers to what is not in it",
            "x_polled": "it answers with a task to poll",
        }

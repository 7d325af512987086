"""What a tool's result may hold: what no vendor would take is told to the model, and not kept in the history."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.tools.holders import Client
from tests.service.turns.scenes import calls, result_text, scene, script
from turnkeeper.v1 import content_pb2, tool_service_pb2

TEXT = content_pb2.Part(text=content_pb2.Text(text="fine"))


def media(**fields: object) -> content_pb2.Part:
    part = content_pb2.Part()
    part.media.CopyFrom(content_pb2.Media(**fields))  # type: ignore[arg-type]
    return part


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        (content_pb2.Part(tool_result=content_pb2.ToolResult(tool_call_id="x")), "is neither text nor media"),
        (content_pb2.Part(tool_call=content_pb2.ToolCall(tool_call_id="x", name="t")), "is neither text nor media"),
        (content_pb2.Part(), "is neither text nor media"),
        (media(mime_type="png", data=b"x"), "has no media type such as image/png"),
        (media(mime_type="image/png"), "has to have either data or a uri"),
        (media(mime_type="image/png", uri="file:///etc/passwd"), "has a uri that is not https"),
    ],
)
@pytest.mark.asyncio
async def test_a_result_that_no_vendor_takes_is_an_error_that_the_model_sees(
    part: content_pb2.Part, problem: str, tmp_path: Path
) -> None:
    async with scene(tmp_path) as on:
        client = await Client.serve(on.server, "look")
        await on.server.submit("s", script(calls("look"), "done"), "r")
        invocation = await client.invoked()
        given = tool_service_pb2.ToolInvocationResult(lease_id=invocation.lease_id)
        given.result.content.extend([TEXT, part])
        answer = await client.talk.ask("bad", tool_result=given)
        assert not answer.receipt.tool_result.is_late
        assert (await on.watch.terminal("r")).text == "done"
        (found,) = (await on.results()).values()
        assert found.is_error
        assert result_text(found) == f"the tool gave a result that cannot be used: part 2 {problem}"
        client.lose()


@pytest.mark.parametrize(
    "part",
    [media(mime_type="image/png", data=b"x", name="a.png"), media(mime_type="image/png", uri="https://example.com/a")],
)
@pytest.mark.asyncio
async def test_media_come_through_as_they_are(part: content_pb2.Part, tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        client = await Client.serve(on.server, "look")
        await on.server.submit("s", script(calls("look"), "done"), "r")
        invocation = await client.invoked()
        given = tool_service_pb2.ToolInvocationResult(lease_id=invocation.lease_id)
        given.result.content.extend([TEXT, part])
        await client.talk.ask("good", tool_result=given)
        await on.watch.terminal("r")
        (found,) = (await on.results()).values()
        assert not found.is_error
        assert list(found.content) == [TEXT, part]
        client.lose()

"""What the tests of tool servers share: scripts of a model that calls tools, and what came of the calls."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.service.harness import LIMIT, Harness
from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2
from turnkeeper_service.process.clock import SystemClock
from turnkeeper_service.tools.mcp.connection import LISTEN_AGAIN
from turnkeeper_service.tools.mcp.server import FIRST_BACKOFF, MAX_BACKOFF

HASTY = {LISTEN_AGAIN, MAX_BACKOFF, *(FIRST_BACKOFF * 2**times for times in range(8))}
OWN_SERVER = Path(__file__).with_name("own_server.py")


def calling(*names_and_arguments: tuple[str, dict[str, Any]], **reply: Any) -> dict[str, Any]:
    """A reply that makes calls, with the tools' names as ids."""
    calls = [{"name": name, "arguments": arguments, "id": name} for name, arguments in names_and_arguments]
    return {"tool_calls": calls, **reply}


def script(*replies: dict[str, Any]) -> str:
    """A prompt that makes the scripted model answer so, step by step; then it says "done"."""
    return json.dumps({"replies": [*replies, {"text": "done"}]})


async def results(server: Harness, session_id: str) -> dict[str, content_pb2.ToolResult]:
    """The results in a session's history, by the ids of their calls; the last one of each."""
    return {
        part.tool_result.tool_call_id: part.tool_result
        for message in await server.messages(session_id)
        for part in message.parts
        if part.HasField("tool_result")
    }


def text(result: content_pb2.ToolResult) -> str:
    """The texts of a result."""
    return "".join(part.text.text for part in result.content)


def on_stdio(gate: str, **more: str) -> dict[str, str]:
    """Settings for the tests' own server on standard input and output. Runs wait for it."""
    settings = {
        "mcp__own__command": sys.executable,
        "mcp__own__args": json.dumps([str(OWN_SERVER)]),
        "mcp__own__env": json.dumps({"GATE": gate, "COLOUR": "blue"}),
        "mcp__own__wait": "true",
    }
    return settings | {f"mcp__own__{key}": value for key, value in more.items()}


def at_address(url: str, name: str = "own", **more: str) -> dict[str, str]:
    """Settings for a server over HTTP. Runs wait for it."""
    return {f"mcp__{name}__{key}": value for key, value in {"url": url, "wait": "true", **more}.items()}


async def event(server: Harness, session_id: str, payload: str, call_id: str = "") -> event_pb2.Event:
    """Wait for the first event of a kind, or the first of a call."""
    stream = server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id=session_id, after_seq=0))
    async with asyncio.timeout(LIMIT):
        async for response in stream:
            found: event_pb2.Event = response.item.event
            if found.HasField(payload) and call_id in ("", found.tool_call_finished.result.tool_call_id):  # type: ignore[arg-type]
                stream.cancel()
                return found
    raise AssertionError(f"the stream ended without {payload}")


class Hasty(SystemClock):
    """A clock on which nobody waits before a server is tried again."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(0 if seconds in HASTY else seconds)


async def connected(server: Harness, tool: str = "own_add", *, is_offered: bool = True) -> None:
    """Turn the loop until a tool is offered, or is not any more: nothing on the wire tells it."""
    servers = server.server._tool_servers
    assert servers is not None
    async with asyncio.timeout(LIMIT):
        while (tool in servers.tools()) is not is_offered:  # noqa: ASYNC110
            await asyncio.sleep(0)

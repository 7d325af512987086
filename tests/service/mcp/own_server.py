"""A small tool server, written with the official SDK: on standard input and output as a script, else over HTTP.

What it does when is decided by the test: it asks at a gate, a socket whose path is in ``GATE``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from typing import Any

import mcp_types
from mcp import MCPError
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

PICTURE = bytes(range(256))
INSTRUCTIONS = "Add with care."


async def ask(gate: str, what: str, key: str) -> None:
    """Say at the gate that something is reached, and wait there; say it too if the wait is cancelled."""
    reader, writer = await asyncio.open_unix_connection(gate)
    try:
        writer.write(_line(what, key))
        await reader.readline()
    except asyncio.CancelledError:
        writer.write(_line(f"cancelled {what}", key))
        raise
    finally:
        writer.close()


def _line(what: str, key: str) -> bytes:
    return json.dumps({"what": what, "process": os.getpid(), "key": key}).encode() + b"\n"


def build(gate: str) -> MCPServer[Any]:
    """The server."""
    is_slow = False

    async def slowly(ctx: Any, call_next: Any) -> Any:
        if is_slow and ctx.method == "tools/list":
            await ask(gate, "list", "")
        return await call_next(ctx)

    server: MCPServer[Any] = MCPServer("own", instructions=INSTRUCTIONS, middleware=[slowly])

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool(annotations=mcp_types.ToolAnnotations(read_only_hint=True))
    def picture() -> list[mcp_types.TextContent | mcp_types.ImageContent]:
        """Show a picture."""
        data = base64.b64encode(PICTURE).decode()
        return [
            mcp_types.TextContent(text="look:"),
            mcp_types.ImageContent(data=data, mime_type="image/png"),
        ]

    @server.tool()
    def variable(name: str) -> str:
        """Tell an environment variable."""
        return os.environ.get(name, "not set")

    @server.tool()
    def fail() -> str:
        """Fail while it runs."""
        raise ToolError("out of paper")

    @server.tool()
    def refuse() -> str:
        """Be refused by the protocol."""
        raise MCPError(mcp_types.INVALID_PARAMS, "nobody may call this")

    @server.tool()
    async def hold(what: str, context: Context) -> str:
        """Wait at the gate."""
        meta: Any = context.request_context.meta or {}
        await ask(gate, what, meta.get("turnkeeper.dev/idempotency-key", ""))
        return f"{what} is over"

    @server.tool()
    async def grow(context: Context, asks: bool = False) -> str:
        """Learn another tool, and perhaps be slow to tell of it."""
        nonlocal is_slow
        is_slow = asks
        server.add_tool(lambda: "grown up", name="extra", description="The other tool.")
        await context.notify_tools_changed()
        await context.session.send_tool_list_changed()
        return "there is more now"

    return server


if __name__ == "__main__":
    build(os.environ["GATE"]).run("stdio")

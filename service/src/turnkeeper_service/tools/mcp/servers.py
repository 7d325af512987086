"""Tool servers that speak MCP, all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Container, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from turnkeeper_service.process.clock import Clock
from turnkeeper_service.tools.base import OfferedTool

from .options import McpOptions
from .server import McpServer


class McpServers:
    """The tool servers of the configuration; see `turnkeeper_service.tools.base.ToolServers`."""

    def __init__(self, options: Iterable[McpOptions], clock: Clock) -> None:
        self._tools: dict[str, OfferedTool] = {}
        self._servers = [McpServer(one, clock, self._merge) for one in options]

    def start(self) -> None:
        """Begin to connect to all of them."""
        for name in ("client", "httpcore2", "httpx2", "mcp"):
            # The SDK writes whole messages, and so what users and tools say, into its debug log.
            logging.getLogger(name).setLevel(logging.WARNING)
        for server in self._servers:
            server.start()

    async def close(self) -> None:
        """End all connections and child processes. Idempotent."""
        await asyncio.gather(*(server.close() for server in self._servers))

    def _merge(self) -> None:
        # Prefixes tell servers apart, but `a_` + `b_c` is `a_b_` + `c`: then the first one has the name.
        self._tools = {name: tool for server in reversed(self._servers) for name, tool in server.tools.items()}

    def tools(self) -> Mapping[str, OfferedTool]:
        """The tools by name, as they are now."""
        return self._tools

    def left_out(self) -> Mapping[str, str]:
        """Tools of theirs that are not offered, by name, each with why."""
        return {name: why for server in self._servers for name, why in server.left_out.items()}

    def absent(self, name: str) -> OfferedTool | None:
        """A tool of a server that is not connected; None if the name is none of theirs."""
        fitting = [server for server in self._servers if name.startswith(server.options.prefix)]
        if not fitting:
            return None
        return max(fitting, key=lambda server: len(server.options.prefix)).absent(name)

    def instructions(self, names: Container[str]) -> Sequence[str]:
        """What the servers want the system prompt to say, of those that have a tool among ``names``."""
        return [
            server.instructions
            for server in self._servers
            if server.instructions and any(name in names for name in server.tools)
        ]

    def ready(self) -> Coroutine[Any, Any, None] | None:
        """A wait for the servers that runs wait for; None if there is nothing to wait for."""
        missing = [server for server in self._servers if server.options.wait and not server.settled.is_set()]
        return _settled(missing) if missing else None


async def _settled(servers: Iterable[McpServer]) -> None:
    for server in servers:
        await server.settled.wait()

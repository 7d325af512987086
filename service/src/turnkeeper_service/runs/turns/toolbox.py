"""All tools that sessions have: functions and tool servers of this process, and what clients and workers serve."""

from __future__ import annotations

from collections.abc import Container, Coroutine, Mapping, Sequence
from typing import Any

from turnkeeper.v1 import session_service_pb2
from turnkeeper_service.tools.base import OfferedTool, ToolServers
from turnkeeper_service.tools.remote.remote import RemoteTools


def why_withheld(settings: session_service_pb2.SessionSettings, name: str) -> str:
    """Why a session does not offer a tool, "" where it does."""
    if settings.is_tool_free:
        return "the session is tool-free"
    return "" if not settings.tools or name in settings.tools else "the session does not name it"


class SessionToolbox:
    """The toolbox of all sessions.

    Where two offer one name, a client of the session comes before a worker, and what is served from outside before what
    is built in; a function comes before a tool server.
    """

    def __init__(
        self, remote: RemoteTools, builtin: Mapping[str, OfferedTool], servers: ToolServers | None = None
    ) -> None:
        self.remote = remote
        self._builtin = dict(builtin)
        self._servers = servers

    def tools(self, tenant: str, session_id: str) -> Mapping[str, OfferedTool]:
        """The tools by name, as they are now."""
        served = self.remote.tools(tenant, session_id)
        own = {**self._servers.tools(), **self._builtin} if self._servers is not None else self._builtin
        return {**own, **served} if served else own

    def left_out(self) -> Mapping[str, str]:
        """Tools of tool servers that are not offered, by name, each with why."""
        return self._servers.left_out() if self._servers is not None else {}

    def absent(self, name: str) -> OfferedTool | None:
        """A tool of a server that is not connected; None for one that is gone from the configuration."""
        return self._servers.absent(name) if self._servers is not None else None

    async def tool_returned(self, tenant: str, session_id: str, name: str) -> None:
        """Wait, for a bounded time after a restart, until a client or worker offers a tool to a session."""
        await self.remote.tool_returned(tenant, session_id, name)

    async def holder_returned(
        self, tenant: str, session_id: str, holder: str, grace: float, name: str = ""
    ) -> OfferedTool | None:
        """Wait, so long after a restart, until a client or worker is back; the tool of it that is asked for."""
        return await self.remote.holder_returned(tenant, session_id, holder, grace, name)

    def instructions(self, names: Container[str]) -> Sequence[str]:
        """What tool servers want the system prompt to say."""
        return self._servers.instructions(names) if self._servers is not None else ()

    def ready(self) -> Coroutine[Any, Any, None] | None:
        """A wait for tool servers that still connect."""
        return self._servers.ready() if self._servers is not None else None

"""All tools that sessions have: functions and tool servers of this process, and what clients and workers serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from turnkeeper.v1 import tool_service_pb2
from turnkeeper_service.tools.base import OfferedTool, Tool
from turnkeeper_service.tools.remote import RemoteTools


class SessionToolbox:
    """The toolbox of all sessions.

    Where two offer one name, a client of the session comes before a worker, and what is served from outside before what
    is built in.
    """

    def __init__(self, remote: RemoteTools, builtin: Mapping[str, OfferedTool]) -> None:
        self.remote = remote
        self._builtin = dict(builtin)

    def tools(self, tenant: str, session_id: str) -> Mapping[str, OfferedTool]:
        """The tools by name, as they are now."""
        served = self.remote.tools(tenant, session_id)
        return {**self._builtin, **served} if served else self._builtin

    def absent(self, name: str) -> OfferedTool:
        """A call that had started elsewhere waits for a client that serves it again."""
        tool = Tool(name=name, replay_class=tool_service_pb2.REPLAY_CLASS_SAFE)
        return OfferedTool(tool, self.remote, "client")

    def instructions(self, tenant: str, session_id: str) -> Sequence[str]:
        """What tool servers want the system prompt to say."""
        return ()

"""What a tool is: something that is offered to a session and answers calls, whoever runs it.

A call gets exactly one result. Whatever goes wrong with it, an unknown tool, bad arguments, an exception, a lost
client, becomes an error result that the model sees; only the turn's own end cuts a call short.
"""

from __future__ import annotations

import re
from collections.abc import Container, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from turnkeeper.v1 import content_pb2, tool_service_pb2

Tool = tool_service_pb2.Tool
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
SERVER = "server"
"""The executor's name of tools that run in this process."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of one tool. ``deadline`` is in seconds since the epoch; ``attempt`` counts from 1."""

    tenant: str
    session_id: str
    run_id: str
    turn_id: str
    call: content_pb2.ToolCall
    message_id: str
    lease_id: str
    deadline: float
    attempt: int = 1
    holder: str = ""
    """The one client or worker that may run it: a lost process had given it that call."""

    @property
    def idempotency_key(self) -> str:
        """The same however often the call is handed out; ids of calls are unique in their message only."""
        return f"{self.session_id}:{self.run_id}:{self.message_id}:{self.call.tool_call_id}"


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What a call came to."""

    result: content_pb2.ToolResult
    is_turn_end: bool = False


class ToolExecutor(Protocol):
    """Runs calls."""

    async def call(self, invocation: Invocation) -> ToolAnswer:
        """Run one call. May raise anything: it becomes an error result. Cancelling it takes the call back."""
        ...


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool as a session has it now."""

    tool: Tool
    executor: ToolExecutor
    executor_name: str = SERVER
    reconnect_grace: float | None = None
    """Seconds that a client or worker which is lost is waited for; None for tools of this process."""


class Toolbox(Protocol):
    """All tools that a session has."""

    def tools(self, tenant: str, session_id: str) -> Mapping[str, OfferedTool]:
        """The tools by name, as they are now; asked before every step."""
        ...

    def absent(self, name: str) -> OfferedTool | None:
        """A tool of this process that is not offered now, whose call of before a restart is worth waiting for."""
        ...

    async def tool_returned(self, tenant: str, session_id: str, name: str) -> None:
        """Wait, for a bounded time after a restart, until a client or worker offers a tool to a session."""
        ...

    async def holder_returned(
        self, tenant: str, session_id: str, holder: str, grace: float, name: str = ""
    ) -> OfferedTool | None:
        """Wait, so long after a restart, until a client or worker is back; the tool of it that is asked for."""
        ...

    def instructions(self, names: Container[str]) -> Sequence[str]:
        """What tool servers want the system prompt to say, of those that have a tool among ``names``."""
        ...

    def ready(self) -> Coroutine[Any, Any, None] | None:
        """A wait before a run's first step; None if there is nothing to wait for."""
        ...


class ToolServers(Protocol):
    """Servers of tools that come and go while the process runs, for all sessions."""

    def tools(self) -> Mapping[str, OfferedTool]:
        """The tools by name, as they are now."""
        ...

    def left_out(self) -> Mapping[str, str]:
        """Tools of theirs that are not offered, by name, each with why."""
        ...

    def absent(self, name: str) -> OfferedTool | None:
        """A tool of a server that is not connected; None if the name is none of theirs."""
        ...

    def instructions(self, names: Container[str]) -> Sequence[str]:
        """What the servers want the system prompt to say, of those that have a tool among ``names``."""
        ...

    def ready(self) -> Coroutine[Any, Any, None] | None:
        """A wait for the servers that runs wait for; None if there is nothing to wait for."""
        ...


def text_of(text: str) -> str:
    """A text that every message can hold: UTF-8 without NUL. What cannot be is U+FFFD."""
    return _NO_TEXT.sub("\ufffd", text)


def text_result(call: content_pb2.ToolCall, text: str, *, is_error: bool = False) -> content_pb2.ToolResult:
    """A result of one text."""
    result = content_pb2.ToolResult(tool_call_id=call.tool_call_id, name=call.name, is_error=is_error)
    result.content.add().text.text = text_of(text)
    return result


def synthetic_result(call: content_pb2.ToolCall, text: str) -> content_pb2.ToolResult:
    """An error result for a call that gave none (promise 8)."""
    result = text_result(call, text, is_error=True)
    result.is_synthetic = True
    return result

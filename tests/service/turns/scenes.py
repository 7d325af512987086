"""What the tests of turns share: scripts with tool calls, tools that a test holds, requests that a model got."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.service.dispatch.script import provider
from tests.service.dispatch.watch import Watch, watching
from tests.service.failure.stories import is_valid, text_of
from tests.service.harness import Harness, serving
from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.providers.base import ModelRequest
from turnkeeper_service.providers.gates import Gates
from turnkeeper_service.tools.base import OfferedTool
from turnkeeper_service.tools.functions import FunctionTool

STEER = event_pb2.DELIVERY_STEER
STOP = event_pb2.CANCEL_MODE_STOP


def call(name: str, call_id: str = "", **arguments: Any) -> dict[str, Any]:
    """A tool call of a scripted reply; without an id the provider's adapter mints one."""
    return {"name": name, "arguments": arguments, **({"id": call_id} if call_id else {})}


def calls(*names: str) -> dict[str, Any]:
    """A scripted reply that calls tools without arguments; the call of tool ``t`` has the id ``id-t``."""
    return {"tool_calls": [call(name, f"id-{name}") for name in names]}


def script(*replies: dict[str, Any] | str) -> str:
    """A prompt that is answered by these replies, step by step; a string is a text."""
    return json.dumps({"replies": [{"text": one} if isinstance(one, str) else one for one in replies]})


@dataclass
class Tools:
    """Tools of the server. What runs is noted in ``ran``; a held one waits at the gate of its name."""

    gates: Gates = field(default_factory=Gates)
    ran: list[str] = field(default_factory=list)
    offered: dict[str, OfferedTool] = field(default_factory=dict)

    def add(self, name: str, body: Callable[..., Any], **options: Any) -> None:
        """Offer a function."""
        self.offered[name] = FunctionTool(body, name=name, **options).offered()

    def quick(self, *names: str, **options: Any) -> None:
        """Offer tools that answer at once."""
        for name in names:
            self.add(name, self._body(name, is_held=False), **options)

    def held(self, *names: str, **options: Any) -> None:
        """Offer tools that wait at the gate of their name."""
        for name in names:
            self.add(name, self._body(name, is_held=True), **options)

    def _body(self, name: str, *, is_held: bool) -> Callable[..., Any]:
        async def body() -> str:
            self.ran.append(name)
            if is_held:
                await self.gates.wait(name)
            return f"{name} is done"

        return body


@dataclass
class Scene:
    """A server with the session ``s``, a subscriber of it, and the requests that its model got."""

    server: Harness
    watch: Watch
    requests: list[ModelRequest]

    def sent(self, index: int = -1) -> list[content_pb2.Message]:
        """The messages of a request."""
        return list(self.requests[index].messages)

    def told(self, index: int = -1) -> list[str]:
        """The texts of a request: of each message what it says, asks or answers."""
        return [said(message) for message in self.sent(index)]

    def offered(self, index: int = -1) -> list[str]:
        """The names of the tools of a request."""
        return sorted(tool.name for tool in self.requests[index].tools)

    async def results(self, run_id: str = "r") -> dict[str, content_pb2.ToolResult]:
        """The results of a run's calls as the history has them, by call id."""
        return {
            part.tool_result.tool_call_id: part.tool_result
            for message in await self.server.messages("s")
            if message.run_id == run_id
            for part in message.parts
            if part.HasField("tool_result")
        }

    async def idle(self) -> None:
        """Check that nothing is open or in line."""
        assert self.server.snapshot("s") is None


def said(message: content_pb2.Message) -> str:
    """A message in short."""
    parts: list[str] = []
    for part in message.parts:
        if part.HasField("tool_call"):
            parts.append(f"call {part.tool_call.name}")
        elif part.HasField("tool_result"):
            parts.append(f"{part.tool_result.name}: {result_text(part.tool_result)}")
        else:
            parts.append(part.text.text)
    return " | ".join(parts)


def result_text(result: content_pb2.ToolResult) -> str:
    """The text of a result."""
    return "".join(part.text.text for part in result.content)


def recorded(server: Harness) -> list[ModelRequest]:
    """From now on, every request to the scripted provider, as it was when it was made. Each is checked (promise 8)."""
    scripted = provider(server)
    ask = scripted.stream
    requests: list[ModelRequest] = []

    @asynccontextmanager
    async def stream(request: ModelRequest) -> AsyncIterator[Any]:
        # The history is the live list: what is kept must not grow with it.
        requests.append(ModelRequest(request.model, [*request.messages], tools=[*request.tools]))
        assert is_valid(request.messages), [said(message) for message in request.messages]
        # A message without an id stands in for one that the history lacks: nothing here may have to be mended.
        assert all(one.message_id for one in request.messages if one.role == content_pb2.ROLE_TOOL)
        async with ask(request) as events:
            yield events

    scripted.stream = stream  # type: ignore[method-assign]
    return requests


@asynccontextmanager
async def scene(data_dir: Path, tools: Tools | None = None, **options: Any) -> AsyncIterator[Scene]:
    """A server with these tools and the session ``s``; ``is_new=False`` finds it in the data."""
    tools = tools or Tools()
    settings = options.pop("session", {})
    is_new = options.pop("is_new", True)
    async with serving(data_dir, gates=tools.gates, tools=tools.offered, **options) as server:
        requests = recorded(server)
        if is_new:
            await server.session("s", **settings)
        async with watching(server, "s") as watch:
            yield Scene(server, watch, requests)


def texts(messages: Sequence[content_pb2.Message], role: content_pb2.Role.ValueType) -> list[str]:
    """The texts of the messages of a role."""
    return [text_of(message) for message in messages if message.role == role]

"""Runs a call to its end and checks on the way that its events keep the rules of parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import (
    ModelEvent,
    ModelFinished,
    ModelRequest,
    PartDelta,
    PartEnded,
    PartKind,
    PartStarted,
    Provider,
    ProviderError,
)
from turnkeeper_service.providers.formats.call_arguments import is_object


@dataclass
class Collected:
    """What one call gave."""

    events: list[ModelEvent] = field(default_factory=list)
    error: ProviderError | None = None

    @property
    def finished(self) -> ModelFinished:
        last = self.events[-1]
        assert isinstance(last, ModelFinished)
        return last

    @property
    def parts(self) -> list[content_pb2.Part]:
        return [event.content for event in self.events if isinstance(event, PartEnded)]

    @property
    def usage(self) -> content_pb2.Usage | None:
        return self.finished.usage if self.error is None else self.error.usage

    def text(self, kind: PartKind = PartKind.TEXT) -> str:
        """All deltas of one kind."""
        return "".join(event.text for event in self.events if isinstance(event, PartDelta) and event.kind is kind)

    @property
    def calls(self) -> list[content_pb2.ToolCall]:
        """The calls that the caller must run."""
        calls = [part.tool_call for part in self.parts if part.HasField("tool_call")]
        return [call for call in calls if not call.is_provider_executed]

    @property
    def kinds(self) -> list[PartKind]:
        return [event.kind for event in self.events if isinstance(event, PartStarted)]


def request(model: str = "m", *texts: str) -> ModelRequest:
    """A request with user messages."""
    return ModelRequest(model, [user(text) for text in texts or ("hello",)])


def user(text: str) -> content_pb2.Message:
    message = content_pb2.Message(role=content_pb2.ROLE_USER)
    message.parts.add().text.text = text
    return message


async def collect(provider: Provider, model_request: ModelRequest) -> Collected:
    """Run a call; a `ProviderError` ends it and is kept."""
    collected = Collected()
    try:
        async with provider.stream(model_request) as events:
            async for event in events:
                collected.events.append(event)
    except ProviderError as error:
        collected.error = error
    check_parts(collected)
    return collected


async def after(
    stream: AbstractAsyncContextManager[AsyncIterator[ModelEvent]], num_characters: int, seen: asyncio.Event
) -> list[ModelEvent]:
    """Read a call and say when so much text has come."""
    events: list[ModelEvent] = []
    async with stream as incoming:
        async for event in incoming:
            events.append(event)
            if sum(len(event.text) for event in events if isinstance(event, PartDelta)) >= num_characters:
                seen.set()
    return events


def check_parts(collected: Collected) -> None:
    """Parts come one at a time, are numbered without gaps, and are committed as what was streamed."""
    is_open, kind, text, next_part = False, PartKind.TEXT, "", 0
    for event in collected.events:
        match event:
            case PartStarted():
                assert not is_open
                assert event.part == next_part
                is_open, kind, text = True, event.kind, ""
            case PartDelta():
                assert is_open
                assert (event.part, event.kind) == (next_part, kind)
                assert event.text
                text += event.text
            case PartEnded():
                assert is_open
                assert event.part == next_part
                _check_content(event.content, kind, text)
                is_open = False
                next_part += 1
            case ModelFinished():
                assert not is_open
                assert event is collected.events[-1]


def _check_content(part: content_pb2.Part, kind: PartKind, text: str) -> None:
    if kind is PartKind.TEXT:
        assert part.text.text == text
    elif kind is PartKind.REASONING:
        assert part.reasoning.text == text
    elif kind is PartKind.TOOL_CALL:
        assert part.tool_call.tool_call_id
        if is_object(text):
            # What was no object is mended, or marked.
            assert part.tool_call.arguments_json == text

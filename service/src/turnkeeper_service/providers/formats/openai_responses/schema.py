"""The events of an ``openai-responses`` stream: only what is read, everything else is skipped while parsing."""

from __future__ import annotations

from typing import Any

import msgspec

from turnkeeper_service.providers.leniency import Shape


class ContentPart(msgspec.Struct, gc=False):
    """A piece of a message or of reasoning."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    annotations: list[msgspec.Raw] | None = None


class Head(msgspec.Struct, gc=False):
    """What tells items apart."""

    type: str = ""
    id: str | None = None


class Item(msgspec.Struct, gc=False):
    """A message, a piece of reasoning, or a call for the caller."""

    type: str = ""
    id: str | None = None
    phase: str | None = None
    content: str | list[ContentPart] | None = None
    summary: list[ContentPart] | None = None
    encrypted_content: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: Any = None


class OwnTool(msgspec.Struct, gc=False):
    """A call of a tool that the provider ran itself."""

    type: str = ""
    id: str | None = None
    name: str | None = None
    arguments: Any = None
    action: Any = None
    code: Any = None
    queries: Any = None
    tools: Any = None


class InputDetails(msgspec.Struct, gc=False):
    """What the input's tokens are made of."""

    cached_tokens: Any = None
    cache_write_tokens: Any = None


class OutputDetails(msgspec.Struct, gc=False):
    """What the output's tokens are made of."""

    reasoning_tokens: Any = None


class Usage(msgspec.Struct, gc=False):
    """Tokens of the whole response."""

    input_tokens: Any = None
    output_tokens: Any = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None


class Incomplete(msgspec.Struct, gc=False):
    """Why a response is not complete."""

    reason: str | None = None


class Response(msgspec.Struct, gc=False):
    """The response as a whole, at its begin and at its end."""

    id: str | None = None
    status: str | None = None
    output: list[msgspec.Raw] | None = None
    incomplete_details: Incomplete | None = None
    usage: Usage | None = None
    error: Any = None


class StreamEvent(msgspec.Struct, gc=False):
    """One event's data."""

    type: str = ""
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    item_id: str | None = None
    delta: Any = None
    text: Any = None
    refusal: Any = None
    arguments: Any = None
    item: msgspec.Raw = msgspec.Raw(b"")
    response: Response | None = None
    error: Any = None
    code: Any = None
    message: Any = None
    object: str | None = None
    id: str | None = None
    status: str | None = None
    output: list[msgspec.Raw] | None = None
    incomplete_details: Incomplete | None = None
    usage: Usage | None = None
    """This and what is above it, up to the object: of a response that comes whole, from servers that do not stream."""


EVENT = Shape(StreamEvent)
HEAD = Shape(Head)
ITEM = Shape(Item)
OWN_TOOL = Shape(OwnTool)

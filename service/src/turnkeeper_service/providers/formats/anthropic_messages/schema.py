"""The events of an ``anthropic-messages`` stream: only what is read, everything else is skipped while parsing."""

from __future__ import annotations

from typing import Any

import msgspec

from turnkeeper_service.providers.leniency import Shape


class OutputDetails(msgspec.Struct, gc=False):
    """What the answer's tokens are made of."""

    thinking_tokens: Any = None


class Usage(msgspec.Struct, gc=False):
    """Tokens so far; later events overwrite earlier ones field by field."""

    input_tokens: Any = None
    output_tokens: Any = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None
    output_tokens_details: OutputDetails | None = None


class Message(msgspec.Struct, gc=False):
    """The message that begins."""

    id: str | None = None
    usage: Usage | None = None


class Delta(msgspec.Struct, gc=False):
    """What an event adds to a block, or to the message."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: Any = None
    citation: msgspec.Raw = msgspec.Raw(b"")
    content: Any = None
    stop_reason: str | None = None


class StreamEvent(msgspec.Struct, gc=False):
    """One event's data."""

    type: str = ""
    index: int = 0
    delta: Delta | None = None
    content_block: msgspec.Raw = msgspec.Raw(b"")
    message: Message | None = None
    usage: Usage | None = None
    error: Any = None
    id: str | None = None
    content: list[msgspec.Raw] | None = None
    stop_reason: str | None = None
    """This and what is above it: of a message that comes whole, from servers that do not stream."""


class Block(msgspec.Struct, gc=False):
    """The start of a content block."""

    type: str = ""
    id: str | None = None
    name: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"")
    tool_use_id: str | None = None


EVENT = Shape(StreamEvent)
BLOCK_START = Shape(Block)

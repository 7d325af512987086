"""The chunks of an ``openai-chat`` stream: only what is read, everything else is skipped while parsing."""

from __future__ import annotations

from typing import Any

import msgspec

from turnkeeper_service.providers.leniency import Shape

Number = Any
"""What a vendor gives for one: `counts` says whether it is."""


class Function(msgspec.Struct, gc=False):
    """Name and arguments of a call; some servers send the arguments as an object."""

    name: str | None = None
    arguments: Any = None


class ToolCall(msgspec.Struct, gc=False):
    """A piece of a tool call."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class ReasoningDetail(msgspec.Struct, gc=False, omit_defaults=True):
    """A piece of structured reasoning, in the form that it is sent back in."""

    type: str | None = None
    text: str | None = None
    summary: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    format: str | None = None
    index: int | None = None


class ContentPart(msgspec.Struct, gc=False):
    """An item of content that is a list."""

    type: str = ""
    text: str | None = None
    thinking: str | list[ContentPart] | None = None


class Delta(msgspec.Struct, gc=False):
    """What a chunk adds to the message."""

    content: str | list[ContentPart] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[ReasoningDetail] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None
    """The only call, from servers of before there could be several."""
    provider_metadata: dict[str, Any] | None = None


class PromptDetails(msgspec.Struct, gc=False):
    """What the prompt's tokens are made of."""

    cached_tokens: Number = None
    cache_write_tokens: Number = None


class CompletionDetails(msgspec.Struct, gc=False):
    """What the answer's tokens are made of."""

    reasoning_tokens: Number = None


class Usage(msgspec.Struct, gc=False):
    """Tokens, under all the names that are in use."""

    prompt_tokens: Number = None
    completion_tokens: Number = None
    total_tokens: Number = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    prompt_cache_hit_tokens: Number = None
    cached_tokens: Number = None
    cache_creation_input_tokens: Number = None
    cost: Any = None


class Choice(msgspec.Struct, gc=False):
    """One of the answers asked for; only the first is ever read."""

    index: int | None = None
    delta: Delta | None = None
    message: Delta | None = None
    """The whole of it, from servers that do not stream."""
    finish_reason: str | None = None
    usage: Usage | None = None
    error: Any = None


class Carrier(msgspec.Struct, gc=False):
    """A vendor's own envelope around usage."""

    usage: Usage | None = None


class Chunk(msgspec.Struct, gc=False):
    """One event's data."""

    id: str | None = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    x_groq: Carrier | None = None
    error: Any = None
    base_resp: Any = None


CHUNK = Shape(Chunk)

"""The chunks of a ``gemini`` stream: only what is read, everything else is skipped while parsing."""

from __future__ import annotations

from typing import Any

import msgspec

from turnkeeper_service.providers.leniency import Shape


class FunctionCall(msgspec.Struct, gc=False):
    """A whole call; many servers send no id."""

    name: str | None = None
    args: msgspec.Raw = msgspec.Raw(b"")
    id: str | None = None


class Blob(msgspec.Struct, gc=False, rename="camel"):
    """Bytes in base64."""

    mime_type: str = ""
    data: str = ""


class ContentPart(msgspec.Struct, gc=False, rename="camel"):
    """A piece of the answer."""

    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCall | None = None
    inline_data: Blob | None = None
    executable_code: msgspec.Raw = msgspec.Raw(b"")
    code_execution_result: msgspec.Raw = msgspec.Raw(b"")
    tool_call: msgspec.Raw = msgspec.Raw(b"")
    tool_response: msgspec.Raw = msgspec.Raw(b"")


class Content(msgspec.Struct, gc=False):
    """What a chunk adds to the answer."""

    parts: list[ContentPart] | None = None


class Candidate(msgspec.Struct, gc=False, rename="camel"):
    """One of the answers asked for; only the first is ever read."""

    index: int | None = None
    content: Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None


class Usage(msgspec.Struct, gc=False, rename="camel"):
    """Tokens so far; each chunk says all of them anew, and not always more."""

    prompt_token_count: Any = None
    tool_use_prompt_token_count: Any = None
    cached_content_token_count: Any = None
    candidates_token_count: Any = None
    thoughts_token_count: Any = None

    @property
    def says_something(self) -> bool:
        """Some chunks carry usage without a count."""
        return not (self.prompt_token_count is None and self.candidates_token_count is None)


class PromptFeedback(msgspec.Struct, gc=False, rename="camel"):
    """Why there is no answer."""

    block_reason: str | None = None


class Chunk(msgspec.Struct, gc=False, rename="camel"):
    """One event's data."""

    candidates: list[Candidate] | None = None
    usage_metadata: Usage | None = None
    prompt_feedback: PromptFeedback | None = None
    response_id: str | None = None
    error: Any = None


CHUNK = Shape(Chunk)

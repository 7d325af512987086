"""Decodes ``gemini`` streams."""

from __future__ import annotations

import base64

import msgspec
import structlog

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import ModelFinished, PartKind
from turnkeeper_service.providers.counts import are_usable, count_of, total_of
from turnkeeper_service.providers.formats.assembly import OpenPart
from turnkeeper_service.providers.formats.decoding import StreamDecoder

from .schema import CHUNK, Blob, Chunk, ContentPart, FunctionCall, Usage

log = structlog.get_logger(__name__)

SIGNATURE = "thought_signature"
"""Provider detail of a text or a call: the signature that rode on it, and goes back on it."""
CALL_ID = "call_id"
"""Provider detail of a call: the id that the vendor gave it; only such ids go back."""
OWN = "own"
"""Provider detail: a part of the provider's own tools as JSON, to go back unchanged."""
_FILTERED = frozenset(
    {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT"}
)


class GeminiDecoder(StreamDecoder[Chunk]):
    """One stream of chunks. It has no last event of its own; the end of HTTP ends it."""

    failure_words = frozenset(
        {
            "MALFORMED_FUNCTION_CALL",
            "UNEXPECTED_TOOL_CALL",
            "TOO_MANY_TOOL_CALLS",
            "MALFORMED_RESPONSE",
            "MISSING_THOUGHT_SIGNATURE",
        }
    )

    def __init__(self) -> None:
        super().__init__(CHUNK)
        self._finish_reason = ""
        self._finish_message = ""
        self._is_blocked = False
        self._response_id = ""
        self._usage: Usage | None = None

    def _finished(self) -> ModelFinished:
        reason = content_pb2.FINISH_REASON_OTHER
        if self._is_blocked or self._finish_reason in _FILTERED:
            reason = content_pb2.FINISH_REASON_CONTENT_FILTER
        elif self._finish_reason == "STOP":
            has_calls = self._parts.has_tool_calls
            reason = content_pb2.FINISH_REASON_TOOL_USE if has_calls else content_pb2.FINISH_REASON_END_TURN
        elif self._finish_reason == "MAX_TOKENS":
            reason = content_pb2.FINISH_REASON_MAX_TOKENS
        elif not self._finish_reason:
            reason = content_pb2.FINISH_REASON_UNSPECIFIED
        return ModelFinished(reason, self._finish_reason, self._told_usage() or content_pb2.Usage(), self._response_id)

    def _told_usage(self) -> content_pb2.Usage | None:
        return _usage(self._usage) if self._usage is not None else None

    def _words(self) -> str:
        return self._finish_message

    def _read(self, chunk: Chunk) -> bool:
        if chunk.response_id and not self._response_id:
            self._response_id = chunk.response_id
        if chunk.usage_metadata is not None and chunk.usage_metadata.says_something:
            self._usage = chunk.usage_metadata
        for candidate in chunk.candidates or ():
            if candidate.index is not None and candidate.index > 0:
                continue
            if candidate.content is not None:
                for part in candidate.content.parts or ():
                    self._read_part(part)
            if candidate.finish_reason:
                self._finish_reason = candidate.finish_reason
                self._finish_message = candidate.finish_message or ""
                self.is_complete = True
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason:
            self._finish_reason = chunk.prompt_feedback.block_reason
            self._is_blocked = self.is_complete = True
        return bool(chunk.candidates or chunk.usage_metadata or chunk.prompt_feedback) and not chunk.error

    def _read_part(self, part: ContentPart) -> None:
        signature = part.thought_signature or ""
        if part.function_call is not None:
            self._call(part.function_call, signature)
        elif part.executable_code:
            self._own_call("code_execution", "executableCode", part.executable_code, signature)
        elif part.tool_call:
            self._own_call("tool", "toolCall", part.tool_call, signature)
        elif part.code_execution_result:
            self._own("codeExecutionResult", part.code_execution_result, signature)
        elif part.tool_response:
            self._own("toolResponse", part.tool_response, signature)
        elif part.inline_data is not None:
            self._media(part.inline_data, signature)
        else:
            self._text(PartKind.REASONING if part.thought else PartKind.TEXT, part.text or "", signature)

    def _text(self, kind: PartKind, text: str, signature: str) -> None:
        if not signature:
            self._parts.text(kind, text)
            return
        # A signature belongs to the very piece that it came on, be it empty: signed pieces are never joined.
        part = self._parts.open(OpenPart(kind, signature=signature))
        if kind is PartKind.TEXT:
            part.details[SIGNATURE] = signature
        self._parts.append(part, text)
        self._parts.close(part)

    def _call(self, call: FunctionCall, signature: str) -> None:
        part = self._parts.open(OpenPart(PartKind.TOOL_CALL, call.name or "", call.id or ""))
        self._parts.count(len(signature))
        if signature:
            part.details[SIGNATURE] = signature
        if call.id:
            part.details[CALL_ID] = call.id
        self._parts.append(part, bytes(call.args).decode())
        self._parts.close(part)

    def _own_call(self, name: str, key: str, raw: msgspec.Raw, signature: str) -> None:
        part = self._parts.open(OpenPart(PartKind.TOOL_CALL, name, is_provider_executed=True))
        part.details[OWN] = _kept(key, raw, signature)
        self._parts.count(len(part.details[OWN]))
        self._parts.append(part, bytes(raw).decode())
        self._parts.close(part)

    def _own(self, key: str, raw: msgspec.Raw, signature: str) -> None:
        content = content_pb2.Part()
        content.provider_details.fields[OWN].string_value = _kept(key, raw, signature)
        self._parts.close(self._parts.open(OpenPart(PartKind.PROVIDER, key, content=content)))

    def _media(self, blob: Blob, signature: str) -> None:
        content = content_pb2.Part()
        content.media.mime_type = blob.mime_type
        try:
            content.media.data = base64.b64decode(blob.data, validate=True)
        except ValueError:
            log.warning("media of the provider's answer are not base64", mime_type=blob.mime_type[:100])
            return
        if signature:
            content.provider_details.fields[SIGNATURE].string_value = signature
        self._parts.close(self._parts.open(OpenPart(PartKind.PROVIDER, "media", content=content)))


def _kept(key: str, raw: msgspec.Raw, signature: str) -> str:
    kept: dict[str, object] = {key: raw}
    if signature:
        kept["thoughtSignature"] = signature
    return msgspec.json.encode(kept).decode()


def _usage(usage: Usage) -> content_pb2.Usage:
    """Counts in our terms: input without cache, output with thoughts; what was not said stays unset."""
    result = content_pb2.Usage(num_calls=1)
    read = count_of(usage.cached_content_token_count, "cachedContentTokenCount")
    thoughts = count_of(usage.thoughts_token_count, "thoughtsTokenCount")
    sent = count_of(usage.prompt_token_count, "promptTokenCount")
    said = count_of(usage.candidates_token_count, "candidatesTokenCount")
    result.is_estimated = not are_usable((usage.prompt_token_count, usage.candidates_token_count), (sent, said))
    if sent is not None:
        shown = total_of(sent, count_of(usage.tool_use_prompt_token_count, "toolUsePromptTokenCount"))
        result.input_tokens = max(0, (shown or 0) - (read or 0))
    # Thoughts alone are told where there was no answer; a count of it that is none makes no sum.
    output = None if said is None and usage.candidates_token_count is not None else total_of(said, thoughts)
    if output is not None:
        result.output_tokens = output
    if read is not None:
        result.cache_read_tokens = read
    if thoughts is not None:
        result.reasoning_tokens = thoughts
    return result

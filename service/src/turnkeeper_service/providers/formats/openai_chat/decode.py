"""Decodes ``openai-chat`` streams. Every quirk is told by its structure, never by who sends it."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import ModelFinished, PartKind
from turnkeeper_service.providers.counts import are_usable, cost_of, count_of, total_of
from turnkeeper_service.providers.formats.assembly import OpenPart
from turnkeeper_service.providers.formats.call_arguments import is_object
from turnkeeper_service.providers.formats.decoding import StreamDecoder

from .schema import (
    CHUNK,
    Chunk,
    ContentPart,
    Delta,
    ReasoningDetail,
    ToolCall,
    Usage,
)

REASONING_FIELD = "reasoning_field"
"""Provider detail: the field that the reasoning came in, and goes back in."""
REASONING_DETAILS = "reasoning_details"
"""Provider detail: structured reasoning as a JSON list, merged piece by piece, to go back unchanged."""
_FINISH = {
    "stop": content_pb2.FINISH_REASON_END_TURN,
    "eos": content_pb2.FINISH_REASON_END_TURN,
    "length": content_pb2.FINISH_REASON_MAX_TOKENS,
    "model_length": content_pb2.FINISH_REASON_MAX_TOKENS,
    "tool_calls": content_pb2.FINISH_REASON_TOOL_USE,
    "function_call": content_pb2.FINISH_REASON_TOOL_USE,
    "content_filter": content_pb2.FINISH_REASON_CONTENT_FILTER,
    "error": content_pb2.FINISH_REASON_ERROR,
}


class ChatDecoder(StreamDecoder[Chunk]):
    """One stream of chunks."""

    failure_words = frozenset({"error"})

    def __init__(self) -> None:
        super().__init__(CHUNK)
        self._calls: dict[int, OpenPart] = {}
        self._calls_by_id: dict[str, OpenPart] = {}
        self._shared_ids: set[str] = set()
        """Those that several calls were given, and that tell none of them."""
        self._last_call: OpenPart | None = None
        self._details: dict[int, list[ReasoningDetail]] = {}
        self._finish_reason = ""
        self._is_refused = False
        self._response_id = ""
        self._usage: Usage | None = None
        self._carried_usage: Usage | None = None
        self._proven_output: int | None = None

    def _finished(self) -> ModelFinished:
        reason = _FINISH.get(self._finish_reason, content_pb2.FINISH_REASON_OTHER)
        if not self._finish_reason:
            reason = content_pb2.FINISH_REASON_UNSPECIFIED
        elif self._is_refused and reason == content_pb2.FINISH_REASON_END_TURN:
            reason = content_pb2.FINISH_REASON_CONTENT_FILTER
        elif self._parts.has_tool_calls and reason == content_pb2.FINISH_REASON_END_TURN:
            # Local servers say `stop` where calls are waiting.
            reason = content_pb2.FINISH_REASON_TOOL_USE
        usage = self._usage or self._carried_usage
        cost = cost_of(usage.cost) if usage is not None else None
        told = self._told_usage() or content_pb2.Usage()
        return ModelFinished(reason, self._finish_reason, told, self._response_id, cost)

    def _read(self, chunk: Chunk) -> bool:
        if chunk.id and not self._response_id:
            self._response_id = chunk.id
        if chunk.usage is not None:
            self._usage = chunk.usage
        if chunk.x_groq is not None and chunk.x_groq.usage is not None:
            self._carried_usage = chunk.x_groq.usage
        for choice in chunk.choices or ():
            if choice.index is not None and choice.index > 0:
                continue
            delta = choice.delta or choice.message
            if delta is not None:
                self._read_delta(delta)
            if choice.usage is not None:
                self._carried_usage = choice.usage
            if choice.error:
                self._fail(choice.error, is_retryable=True)
            if choice.finish_reason:
                self._finish_reason = choice.finish_reason
                self.is_complete = True
        return bool(chunk.choices or chunk.usage is not None) and not (chunk.error or chunk.base_resp)

    def _read_delta(self, delta: Delta) -> None:
        if delta.reasoning_content:
            self._reason(delta.reasoning_content, "reasoning_content")
        elif delta.reasoning:
            self._reason(delta.reasoning, "reasoning")
        if delta.reasoning_details:
            has_text = bool(delta.reasoning_content or delta.reasoning)
            for item in delta.reasoning_details:
                self._read_detail(item, has_text)
        content = delta.content
        if content:
            if isinstance(content, str):
                self._parts.text(PartKind.TEXT, content)
            else:
                self._read_content(content)
        if delta.refusal:
            self._is_refused = True
            self._parts.text(PartKind.TEXT, delta.refusal)
        if delta.tool_calls:
            for call in delta.tool_calls:
                self._read_call(call)
        elif delta.function_call is not None:
            self._read_call(ToolCall(function=delta.function_call))
        if delta.provider_metadata:
            self._proven_output = _output_by_metadata(delta.provider_metadata) or self._proven_output

    def _reason(self, text: str, field: str) -> None:
        part = self._parts.text(PartKind.REASONING, text)
        if part is not None and field and REASONING_FIELD not in part.details:
            part.details[REASONING_FIELD] = field

    def _read_content(self, items: list[ContentPart]) -> None:
        for item in items:
            thinking = item.thinking
            if isinstance(thinking, list):
                thinking = "".join(inner.text or "" for inner in thinking)
            if thinking:
                self._reason(thinking, "thinking")
            elif item.text:
                self._parts.text(PartKind.TEXT, item.text)

    def _read_detail(self, item: ReasoningDetail, has_text: bool) -> None:
        """Keep a piece to be sent back; take its text only where no plain field says the same."""
        text = item.text or item.summary or ""
        signature = item.signature or item.data or ""
        if text and not has_text:
            self._reason(text, "")
        if not item.type:
            # Sent back so it would be refused.
            self.leave_out("reasoning_details[].type")
            return
        part = self._parts.last
        if part is None or part.kind is not PartKind.REASONING:
            if not signature:
                return
            part = self._parts.open(OpenPart(PartKind.REASONING))
        if signature:
            part.signature = signature
        self._parts.count(len(msgspec.json.encode(item)))
        kept = self._details.setdefault(id(part), [])
        last = kept[-1] if kept else None
        if last is not None and last.type == item.type and last.index == item.index and not (last.data or item.data):
            last.text = _joined(last.text, item.text)
            last.summary = _joined(last.summary, item.summary)
            last.signature = item.signature or last.signature
            last.id = last.id or item.id
            last.format = last.format or item.format
        else:
            kept.append(item)
        part.finishing = self._keep_details

    def _keep_details(self, part: OpenPart) -> None:
        kept = self._details.pop(id(part), None)
        if kept:
            part.details[REASONING_DETAILS] = msgspec.json.encode(kept).decode()

    def _read_call(self, piece: ToolCall) -> None:
        function = piece.function
        name = function.name if function is not None and function.name else ""
        part = self._open_call(piece, name)
        if part is None:
            part = self._parts.open(OpenPart(PartKind.TOOL_CALL, name, piece.id or ""))
            if piece.index is not None:
                self._calls[piece.index] = part
        elif part.number < 0:
            part.tool_call_id = part.tool_call_id or piece.id or ""
            if name != part.name:
                self._parts.count(len(name))
                # Some say the whole of it each time.
                part.name = name if name.startswith(part.name) else part.name + name
        if piece.id and self._calls_by_id.setdefault(piece.id, part) is not part:
            self._shared_ids.add(piece.id)
        self._last_call = part
        if function is not None and function.arguments:
            arguments = function.arguments
            self._parts.append(part, arguments if isinstance(arguments, str) else json.dumps(arguments))

    def _open_call(self, piece: ToolCall, name: str) -> OpenPart | None:
        """The call that a piece continues, None if it begins one.

        Calls are told apart by id, else by index, else by a second name; but some servers claim one index for all
        calls, or none, and some give a new id to every piece of one call.
        """
        known = self._calls_by_id.get(piece.id) if piece.id and piece.id not in self._shared_ids else None
        part = self._last_call if piece.index is None else self._calls.get(piece.index)
        if known is not None and (known is part or not name or (part is not None and not is_object(known.text))):
            return known
        if not name:
            return part or self._last_call
        if part is None:
            return None
        if part.texts:
            is_same = part.name in ("", name) and not is_object(part.text)
            return part if is_same else None
        if piece.id:
            return None if part.tool_call_id else part
        return None if piece.index is None else part

    def _told_usage(self) -> content_pb2.Usage | None:
        usage = self._usage or self._carried_usage
        return None if usage is None else _usage(usage, self._proven_output)


def _joined(first: str | None, second: str | None) -> str | None:
    return second if first is None else first + (second or "")


def _usage(usage: Usage, proven_output: int | None) -> content_pb2.Usage:
    """Counts in our terms: input without cache, output with reasoning; what was not said stays unset."""
    prompt = usage.prompt_tokens_details
    read = _first(
        ("cached_tokens", prompt.cached_tokens if prompt else None),
        ("prompt_cache_hit_tokens", usage.prompt_cache_hit_tokens),
        ("cached_tokens", usage.cached_tokens),
    )
    written = _first(
        ("cache_write_tokens", prompt.cache_write_tokens if prompt else None),
        ("cache_creation_input_tokens", usage.cache_creation_input_tokens),
    )
    completion = usage.completion_tokens_details
    reasoning = count_of(completion.reasoning_tokens if completion else None, "reasoning_tokens")
    result = content_pb2.Usage(num_calls=1)
    sent = count_of(usage.prompt_tokens, "prompt_tokens")
    output = count_of(usage.completion_tokens, "completion_tokens")
    if sent is not None:
        result.input_tokens = max(0, sent - (read or 0) - (written or 0))
    result.is_estimated = not are_usable((usage.prompt_tokens, usage.completion_tokens), (sent, output))
    # Some count reasoning beside the completion; the total gives it away.
    if reasoning and output is not None and usage.total_tokens == (sent or 0) + output + reasoning:
        output = total_of(output, reasoning)
    if proven_output is not None:
        output = proven_output
    if output is not None:
        result.output_tokens = output
    if read is not None:
        result.cache_read_tokens = read
    if written is not None:
        result.cache_write_tokens = written
    if reasoning is not None:
        result.reasoning_tokens = reasoning
    return result


def _first(*told: tuple[str, object]) -> int | None:
    """The first count that is one, of fields that mean the same."""
    counts = (count_of(value, name) for name, value in told)
    return next((count for count in counts if count is not None), None)


def _output_by_metadata(metadata: dict[str, Any]) -> int | None:
    """Output with thoughts, where a gateway passes on the counts of a vendor that keeps the two apart."""
    for value in metadata.values():
        counts = value.get("usageMetadata") if isinstance(value, dict) else None
        thoughts = (
            count_of(counts.get("thoughtsTokenCount"), "thoughtsTokenCount") if isinstance(counts, dict) else None
        )
        if isinstance(counts, dict) and thoughts is not None:
            return total_of(count_of(counts.get("candidatesTokenCount"), "candidatesTokenCount"), thoughts)
    return None

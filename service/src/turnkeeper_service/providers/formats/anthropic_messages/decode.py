"""Decodes ``anthropic-messages`` streams."""

from __future__ import annotations

import msgspec

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import ModelFinished, PartKind
from turnkeeper_service.providers.counts import are_usable, count_of
from turnkeeper_service.providers.formats.assembly import OpenPart
from turnkeeper_service.providers.formats.call_arguments import object_in
from turnkeeper_service.providers.formats.decoding import StreamDecoder
from turnkeeper_service.providers.formats.wire_json import has_type

from .schema import (
    BLOCK_START,
    EVENT,
    Block,
    Delta,
    StreamEvent,
    Usage,
)

BLOCK = "block"
"""Provider detail: a block as JSON, to go back unchanged: the provider's own tools, their results and the like."""
CITATIONS = "citations"
"""Provider detail of a text: its citations as a JSON list."""
PAUSE = "pause_turn"
"""The stop reason of an answer that waits for tools of the provider's own, and goes on when it is sent back."""
_FINISH = {
    "end_turn": content_pb2.FINISH_REASON_END_TURN,
    "stop_sequence": content_pb2.FINISH_REASON_END_TURN,
    "tool_use": content_pb2.FINISH_REASON_TOOL_USE,
    "max_tokens": content_pb2.FINISH_REASON_MAX_TOKENS,
    "model_context_window_exceeded": content_pb2.FINISH_REASON_MAX_TOKENS,
    "refusal": content_pb2.FINISH_REASON_CONTENT_FILTER,
}
_KINDS = {"text": PartKind.TEXT, "thinking": PartKind.REASONING, "redacted_thinking": PartKind.REASONING}


class MessagesDecoder(StreamDecoder[StreamEvent]):
    """One stream of message events."""

    def __init__(self) -> None:
        super().__init__(EVENT)
        self._blocks: dict[int, OpenPart] = {}
        self._raw_blocks: dict[int, msgspec.Raw] = {}
        self._citations: dict[int, list[msgspec.Raw]] = {}
        self._stop_reason = ""
        self._message_id = ""
        self._usage = content_pb2.Usage(num_calls=1)
        self._has_usage = False

    def _finished(self) -> ModelFinished:
        reason = _FINISH.get(self._stop_reason, content_pb2.FINISH_REASON_OTHER)
        if not self._stop_reason:
            reason = content_pb2.FINISH_REASON_UNSPECIFIED
        is_paused = self._stop_reason == PAUSE
        return ModelFinished(reason, self._stop_reason, self._usage, self._message_id, is_paused=is_paused)

    def _told_usage(self) -> content_pb2.Usage | None:
        return self._usage if self._has_usage else None

    def _end(self) -> None:
        for index in list(self._blocks):
            self._stop(index)

    def _read(self, event: StreamEvent) -> bool:
        match event.type:
            case "content_block_delta":
                if event.delta is not None:
                    self._add(event.index, event.delta)
            case "content_block_start":
                self._start(event.index, event.content_block)
            case "content_block_stop":
                self._stop(event.index)
            case "message_start":
                if event.message is not None:
                    self._message_id = event.message.id or ""
                    self._count(event.message.usage)
            case "message_delta":
                self._count(event.usage)
                if event.delta is not None and event.delta.stop_reason:
                    self._stop_reason = event.delta.stop_reason
                    self.is_complete = True
            case "message_stop":
                self.is_over = self.is_complete = True
            case "message":
                self._read_whole(event)
            case _:
                return False
        return not event.error

    def _read_whole(self, event: StreamEvent) -> None:
        for index, raw in enumerate(event.content or ()):
            self._start(index, raw)
            self._stop(index)
        self._message_id = event.id or ""
        self._count(event.usage)
        self._stop_reason = event.stop_reason or ""
        self.is_complete = True

    def _start(self, index: int, raw: msgspec.Raw) -> None:
        # Some servers number every block alike, and end none.
        self._stop(index)
        if not bytes(raw).lstrip().startswith(b"{"):
            # What it is, its deltas say.
            return
        block = self._part_of(BLOCK_START, raw)
        kind = _KINDS.get(block.type or _type_of(block))
        if kind is not None:
            part = self._parts.open(OpenPart(kind, signature=block.signature or block.data or ""))
            part.is_redacted = block.type == "redacted_thinking"
        elif block.type.endswith("tool_use") or (not block.type and block.name):
            own = block.type not in ("", "tool_use")
            part = self._parts.open(OpenPart(PartKind.TOOL_CALL, block.name or "", block.id or "", own))
        elif has_type(bytes(raw)):
            part = self._parts.open(OpenPart(PartKind.PROVIDER, block.type, block.tool_use_id or ""))
        else:
            self.leave_out("content_block")
            return
        if part.kind is PartKind.PROVIDER or part.is_provider_executed:
            self._parts.count(len(bytes(raw)))
            self._raw_blocks[index] = msgspec.Raw(bytes(raw))
        self._blocks[index] = part
        if kind is not None:
            self._parts.append(part, block.text or block.thinking or "")
        elif part.kind is PartKind.TOOL_CALL and bytes(block.input) not in (b"", b"{}", b"null"):
            # Usually `{}` here and streamed behind it; a server that does not stream arguments sends them whole.
            self._parts.append(part, bytes(block.input).decode())

    def _add(self, index: int, delta: Delta) -> None:
        part = self._blocks.get(index)
        if part is not None and delta.text and part.kind is PartKind.TEXT:
            # What nearly every event says.
            self._parts.append(part, delta.text)
            return
        index = self._place_of(index, delta)
        part = self._blocks.get(index)
        if part is None:
            self.leave_out("content_block_delta.delta")
            return
        if part.kind is PartKind.PROVIDER:
            # Blocks that we do not know grow by deltas named after them; what those carry belongs into the block.
            if delta.content is not None:
                self._parts.count(len(msgspec.json.encode(delta.content)))
                self._raw_blocks[index] = _with(self._raw_blocks[index], "content", delta.content)
            return
        if isinstance(delta.partial_json, str):
            self._parts.append(part, delta.text or delta.thinking or delta.partial_json)
        elif delta.partial_json is not None:
            self._parts.complete(part, delta.partial_json)
        else:
            self._parts.append(part, delta.text or delta.thinking or "")
        if delta.signature:
            self._parts.count(len(delta.signature))
            part.signature += delta.signature
        if has_type(bytes(delta.citation)):
            self._parts.count(len(bytes(delta.citation)))
            self._citations.setdefault(index, []).append(msgspec.Raw(bytes(delta.citation)))

    def _place_of(self, index: int, delta: Delta) -> int:
        """The block that a delta grows: the one of its number, else the newest that takes it, else a new one."""
        kind = _grown_by(delta)
        part = self._blocks.get(index)
        if kind is None or (part is not None and part.kind in (kind, PartKind.PROVIDER)):
            return index
        for other in reversed(self._blocks):
            if self._blocks[other].kind is kind:
                return other
        if kind is not PartKind.TOOL_CALL:
            # Of a call without a start nobody knows the name.
            self._stop(index)
            self._blocks[index] = self._parts.open(OpenPart(kind))
        return index

    def _stop(self, index: int) -> None:
        part = self._blocks.pop(index, None)
        if part is None:
            return
        raw = self._raw_blocks.pop(index, None)
        citations = self._citations.pop(index, None)
        if citations:
            part.details[CITATIONS] = msgspec.json.encode(citations).decode()
        if raw is not None and part.kind is PartKind.PROVIDER:
            part.content = _provider_part(raw)
        elif raw is not None:
            part.details[BLOCK] = bytes(_with_input(raw, part)).decode()
        self._parts.close(part)

    def _count(self, usage: Usage | None) -> None:
        """Later counts replace earlier ones; what is not sent keeps its value."""
        if usage is None:
            return
        self._has_usage = True
        total = self._usage
        sent, said = count_of(usage.input_tokens, "input_tokens"), count_of(usage.output_tokens, "output_tokens")
        if sent is not None:
            total.input_tokens = sent
        if said is not None:
            total.output_tokens = said
        if not are_usable((usage.input_tokens, usage.output_tokens), (sent, said)):
            total.is_estimated = True
            if said is None:
                # What was said at the begin is no count of the answer.
                total.ClearField("output_tokens")
        if (read := count_of(usage.cache_read_input_tokens, "cache_read_input_tokens")) is not None:
            total.cache_read_tokens = read
        if (written := count_of(usage.cache_creation_input_tokens, "cache_creation_input_tokens")) is not None:
            total.cache_write_tokens = written
        details = usage.output_tokens_details
        if (thought := count_of(details.thinking_tokens if details else None, "thinking_tokens")) is not None:
            total.reasoning_tokens = thought


def _type_of(block: Block) -> str:
    """The type of a block that does not name it."""
    return "thinking" if block.thinking is not None else "text" if block.text is not None else ""


def _grown_by(delta: Delta) -> PartKind | None:
    """The kind of block that a delta adds to; None where any block takes it, or none."""
    if delta.text:
        return PartKind.TEXT
    if delta.thinking or delta.signature:
        return PartKind.REASONING
    return PartKind.TOOL_CALL if delta.partial_json else None


def _with(raw: msgspec.Raw, key: str, value: object) -> msgspec.Raw:
    block = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    block[key] = msgspec.Raw(msgspec.json.encode(value))
    return msgspec.Raw(msgspec.json.encode(block))


def _with_input(raw: msgspec.Raw, part: OpenPart) -> msgspec.Raw:
    """The call with the arguments that were streamed behind its start."""
    block = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    if part.texts:
        block["input"] = msgspec.Raw((object_in(part.text) or "{}").encode())
    return msgspec.Raw(msgspec.json.encode(block))


def _provider_part(raw: msgspec.Raw) -> content_pb2.Part:
    part = content_pb2.Part()
    part.provider_details.fields[BLOCK].string_value = bytes(raw).decode()
    return part

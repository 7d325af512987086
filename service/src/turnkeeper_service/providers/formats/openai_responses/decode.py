"""Decodes ``openai-responses`` streams."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import ModelFinished, PartKind
from turnkeeper_service.providers.counts import are_usable, count_of
from turnkeeper_service.providers.formats.assembly import OpenPart
from turnkeeper_service.providers.formats.decoding import StreamDecoder
from turnkeeper_service.providers.formats.wire_json import has_type

from .items import (
    ANNOTATIONS,
    ITEM_ID,
    OPEN_REASONING,
    PHASE,
    own_part,
)
from .schema import (
    EVENT,
    HEAD,
    ITEM,
    OWN_TOOL,
    ContentPart,
    Head,
    Item,
    Response,
    StreamEvent,
    Usage,
)

_TEXT, _REFUSAL, _SUMMARY, _THOUGHT, _CALL = range(5)
_TAKERS = ("message", "message", "reasoning", "reasoning", "function_call")
"""The type of item that takes what is numbered so."""
_DELTAS = {
    "response.output_text.delta": _TEXT,
    "response.refusal.delta": _REFUSAL,
    "response.reasoning_summary_text.delta": _SUMMARY,
    "response.reasoning_text.delta": _THOUGHT,
    "response.function_call_arguments.delta": _CALL,
}
_WHOLES = {
    "response.output_text.done": _TEXT,
    "response.refusal.done": _REFUSAL,
    "response.reasoning_summary_text.done": _SUMMARY,
    "response.reasoning_text.done": _THOUGHT,
    "response.function_call_arguments.done": _CALL,
}
"""What says again, whole, what has grown; or says it for the first time."""
_ENDS = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
}
_INCOMPLETE = {
    "max_output_tokens": content_pb2.FINISH_REASON_MAX_TOKENS,
    "content_filter": content_pb2.FINISH_REASON_CONTENT_FILTER,
}
_ITEM_BYTES = 64
"""What an item counts for, be it empty."""


@dataclass(slots=True)
class _OpenItem:
    """An item of the output. Its parts are known by what they hold and by their number within it."""

    type: str
    id: str
    parts: dict[tuple[int, int], OpenPart] = field(default_factory=dict)
    is_done: bool = False

    def has(self, kind: int) -> bool:
        return any(key[0] == kind for key in self.parts)


class ResponsesDecoder(StreamDecoder[StreamEvent]):
    """One stream of response events."""

    def __init__(self) -> None:
        super().__init__(EVENT)
        self._items: dict[int, _OpenItem] = {}
        self._items_by_id: dict[str, _OpenItem] = {}
        self._num_done = 0
        self._finish_reason = ""
        self._incomplete = ""
        self._is_refused = False
        self._response_id = ""
        self._usage: Usage | None = None

    def _finished(self) -> ModelFinished:
        reason = content_pb2.FINISH_REASON_OTHER
        if self._finish_reason == "completed":
            reason = content_pb2.FINISH_REASON_END_TURN
            if self._parts.has_tool_calls:
                reason = content_pb2.FINISH_REASON_TOOL_USE
            elif self._is_refused:
                reason = content_pb2.FINISH_REASON_CONTENT_FILTER
        elif self._finish_reason == "incomplete":
            reason = _INCOMPLETE.get(self._incomplete, content_pb2.FINISH_REASON_OTHER)
        elif not self._finish_reason:
            reason = content_pb2.FINISH_REASON_UNSPECIFIED
        word = f"{self._finish_reason}:{self._incomplete}" if self._incomplete else self._finish_reason
        return ModelFinished(reason, word, self._told_usage() or content_pb2.Usage(), self._response_id)

    def _told_usage(self) -> content_pb2.Usage | None:
        return _usage(self._usage) if self._usage is not None else None

    def _read(self, event: StreamEvent) -> bool:
        kind = _DELTAS.get(event.type)
        if kind is not None:
            if isinstance(event.delta, str):
                self._grow(event, kind, event.delta)
            return not event.error
        if event.type == "response.output_item.added":
            self._add(event)
        elif event.type == "response.output_item.done":
            self._done(event.output_index, event.item)
        elif event.type in _WHOLES:
            self._whole(event, _WHOLES[event.type])
        elif event.type in _ENDS:
            self._close(event.response or Response(error=event.error), _ENDS[event.type])
        elif event.type == "response.created" and event.response is not None:
            self._response_id = event.response.id or ""
        elif event.object == "response" and not event.error:
            whole = Response(event.id, event.status, event.output, event.incomplete_details, event.usage)
            self._close(whole, event.status or "completed")
            return True
        return event.type.startswith("response.") and not event.error

    def _add(self, event: StreamEvent) -> None:
        if not self._is_item(event.item):
            return
        item = self._part_of(HEAD, event.item)
        # Some gateways number every item 0: a later one takes the number over.
        self._parts.count(_ITEM_BYTES)
        opened = self._items[event.output_index] = _OpenItem(item.type, item.id or "")
        if opened.id:
            self._items_by_id[opened.id] = opened
        if item.type == "function_call":
            self._open_call(opened, self._part_of(ITEM, event.item))

    def _place_of(self, event: StreamEvent, kind: int) -> _OpenItem:
        """The item for a delta whose number is none of an item: by id, else the newest that takes it, or a new one."""
        types = ("", _TAKERS[kind])
        open_items = [one for one in reversed(self._items.values()) if one.type in types and not one.is_done]
        named = [one for one in open_items if event.item_id and one.id == event.item_id]
        if named or open_items:
            return (named or open_items)[0]
        self._parts.count(_ITEM_BYTES)
        opened = self._items[event.output_index] = _OpenItem("", "")
        return opened

    def _open_call(self, opened: _OpenItem, item: Item) -> OpenPart:
        part = OpenPart(PartKind.TOOL_CALL, item.name or "", item.call_id or item.id or "")
        opened.parts[_CALL, 0] = self._parts.open(part)
        return part

    def _is_item(self, raw: msgspec.Raw) -> bool:
        if bytes(raw).lstrip().startswith(b"{"):
            return True
        self.leave_out("item")
        return False

    def _item_of(self, index: int, item_id: str | None) -> _OpenItem | None:
        """The item of this number; or the one of this id, where the number's is called otherwise."""
        opened = self._items.get(index)
        if not item_id or (opened is not None and opened.id == item_id):
            return opened
        return self._items_by_id.get(item_id, opened)

    def _taker(self, event: StreamEvent, kind: int) -> _OpenItem:
        """The item that an event adds to."""
        opened = self._item_of(event.output_index, event.item_id)
        return opened if opened is not None and opened.type in ("", _TAKERS[kind]) else self._place_of(event, kind)

    def _whole(self, event: StreamEvent, kind: int) -> None:
        opened = self._taker(event, kind)
        if kind == _CALL:
            part = opened.parts.get((_CALL, 0))
            if part is not None:
                self._parts.complete(part, event.arguments)
            return
        number = event.summary_index if kind == _SUMMARY else event.content_index
        text = event.refusal if kind == _REFUSAL else event.text
        self._fill_in(opened, kind, number, text if isinstance(text, str) else None)

    def _grow(self, event: StreamEvent, kind: int, text: str) -> None:
        opened = self._taker(event, kind)
        if kind == _CALL:
            part = opened.parts.get((_CALL, 0))
            if part is not None:
                self._parts.append(part, text)
            else:
                self.leave_out("response.function_call_arguments.delta")
            return
        number = event.summary_index if kind == _SUMMARY else event.content_index
        self._append(opened, kind, number, text)

    def _append(self, opened: _OpenItem, kind: int, number: int, text: str) -> None:
        if not text or (kind == _THOUGHT and opened.has(_SUMMARY)) or (kind == _SUMMARY and opened.has(_THOUGHT)):
            # Reasoning comes as a summary or in full; where a vendor sends both, the first one is shown.
            return
        part = opened.parts.get((kind, number))
        if part is None or part.is_ended:
            # Ended before its item: another item's part came between.
            is_reasoning = kind in (_SUMMARY, _THOUGHT)
            part = self._parts.open(OpenPart(PartKind.REASONING if is_reasoning else PartKind.TEXT))
            if is_reasoning:
                # Now, since it may be ended before its item is.
                part.details[ITEM_ID] = opened.id
            if kind == _THOUGHT:
                part.details[OPEN_REASONING] = "1"
            opened.parts[kind, number] = part
        self._is_refused |= kind == _REFUSAL
        self._parts.append(part, text)

    def _done(self, index: int, raw: msgspec.Raw) -> None:
        """An item is whole: fill in what was not streamed, and end its parts."""
        if not self._is_item(raw):
            return
        head = self._part_of(HEAD, raw)
        opened = self._item_of(index, head.id)
        if opened is None or opened.is_done or opened.type not in ("", head.type):
            # What has grown under another number: by its id, or since its deltas came before anything else of it.
            known = [one for one in self._items.values() if not one.is_done and _is_same(one, head)]
            opened = known[0] if known else _OpenItem(head.type, head.id or "")
            self._items[index] = opened
        opened.is_done = True
        self._num_done += 1
        if head.type == "message":
            self._done_message(opened, self._part_of(ITEM, raw))
        elif head.type == "reasoning":
            self._done_reasoning(opened, self._part_of(ITEM, raw))
        elif head.type == "function_call":
            item = self._part_of(ITEM, raw)
            part = opened.parts.get((_CALL, 0)) or self._open_call(opened, item)
            self._parts.complete(part, item.arguments)
        else:
            self._own(raw)
        for part in opened.parts.values():
            self._parts.close(part)

    def _done_message(self, opened: _OpenItem, item: Item) -> None:
        for number, piece in enumerate(_pieces(item.content)):
            kind = _REFUSAL if piece.type == "refusal" else _TEXT
            self._fill_in(opened, kind, number, piece.refusal if kind == _REFUSAL else piece.text)
            part = opened.parts.get((kind, number))
            annotations = [one for one in piece.annotations or () if has_type(bytes(one))]
            if part is not None and annotations:
                part.details[ANNOTATIONS] = msgspec.json.encode(annotations).decode()
                self._parts.count(len(part.details[ANNOTATIONS]))
        if item.phase:
            for part in opened.parts.values():
                part.details[PHASE] = item.phase

    def _done_reasoning(self, opened: _OpenItem, item: Item) -> None:
        pieces: list[tuple[int, list[ContentPart]]] = [
            (_SUMMARY, item.summary or []),
            (_THOUGHT, _pieces(item.content)),
        ]
        for kind, items in pieces:
            for number, piece in enumerate(items):
                self._fill_in(opened, kind, number, piece.text)
        if item.encrypted_content:
            # One signature seals all parts of the item and rides on its last.
            last = next(reversed(opened.parts.values()), None)
            if last is None or last.is_ended:
                last = opened.parts[_SUMMARY, len(opened.parts)] = self._parts.open(OpenPart(PartKind.REASONING))
            self._parts.count(len(item.encrypted_content))
            last.signature = item.encrypted_content
            last.details[ITEM_ID] = opened.id or item.id or ""

    def _fill_in(self, opened: _OpenItem, kind: int, number: int, text: str | None) -> None:
        said = [part.text for (key, _), part in opened.parts.items() if key == kind]
        if text and (kind, number) not in opened.parts and text not in said:
            self._append(opened, kind, number, text)

    def _own(self, raw: msgspec.Raw) -> None:
        if not has_type(bytes(raw)):
            self.leave_out("item")
            return
        part, arguments = own_part(raw, self._part_of(OWN_TOOL, raw))
        if part is not None:
            self._parts.count(sum(map(len, part.details.values())))
            self._parts.open(part)
            self._parts.append(part, arguments)
            self._parts.close(part)

    def _close(self, response: Response, word: str) -> None:
        output = [raw for raw in response.output or () if self._is_item(raw)]
        if self._num_done < len(output):
            # Items that were announced by nothing else, all of them on servers that stream no items.
            for index, raw in enumerate(output):
                known = self._items.get(index)
                if known is None or not known.is_done:
                    self._done(index, raw)
        self._usage = response.usage
        self._response_id = response.id or self._response_id
        if "failed" in (word, response.status) or response.error:
            self._fail(response.error or {"message": "The response failed."})
            return
        self._finish_reason = response.status or word
        if response.incomplete_details is not None:
            self._incomplete = response.incomplete_details.reason or ""
        self.is_over = self.is_complete = True


def _pieces(content: str | list[ContentPart] | None) -> list[ContentPart]:
    return [ContentPart(text=content)] if isinstance(content, str) else content or []


def _is_same(opened: _OpenItem, head: Head) -> bool:
    """Whether an item that is whole now is the one that has grown."""
    return opened.id == head.id if opened.id and head.id else opened.type in ("", head.type)


def _usage(usage: Usage) -> content_pb2.Usage:
    """Counts in our terms: input without cache; what was not said stays unset."""
    result = content_pb2.Usage(num_calls=1)
    details = usage.input_tokens_details
    read = count_of(details.cached_tokens if details is not None else None, "cached_tokens")
    written = count_of(details.cache_write_tokens if details is not None else None, "cache_write_tokens")
    sent = count_of(usage.input_tokens, "input_tokens")
    said = count_of(usage.output_tokens, "output_tokens")
    result.is_estimated = not are_usable((usage.input_tokens, usage.output_tokens), (sent, said))
    if sent is not None:
        result.input_tokens = max(0, sent - (read or 0) - (written or 0))
    if said is not None:
        result.output_tokens = said
    if read is not None:
        result.cache_read_tokens = read
    if written is not None:
        result.cache_write_tokens = written
    output = usage.output_tokens_details
    reasoning = count_of(output.reasoning_tokens if output is not None else None, "reasoning_tokens")
    if reasoning is not None:
        result.reasoning_tokens = reasoning
    return result

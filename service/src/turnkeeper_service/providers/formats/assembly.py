"""Vendor deltas into the parts of one answer: one assembler for all wire formats.

Parts never overlap. A tool call whose arguments are not complete JSON yet keeps its place: what arrives for other parts
in the meantime waits behind it, and so do vendors that interleave the arguments of several calls come out in order.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import (
    FailureReason,
    ModelEvent,
    PartDelta,
    PartEnded,
    PartKind,
    PartStarted,
    ProviderError,
)

from .call_arguments import is_nothing, is_object, object_in
from .reasoning_tags import ReasoningTags

MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_DELTA_BYTES = 16 * 1024
"""What arrives together leaves together, up to this size; a single longer piece leaves as it came."""
INVALID_ARGUMENTS = "invalid_arguments"
"""In a tool call's provider details: the arguments as sent, where they were no JSON object."""
_MAX_KEPT_INVALID = 4096
_PART_BYTES = 64
"""What a part counts for, be it empty: an answer of empty parts is not endless either."""


@dataclass(slots=True)
class OpenPart:
    """A part under construction; adapters set name, signature and details on it."""

    kind: PartKind
    name: str = ""
    tool_call_id: str = ""
    is_provider_executed: bool = False
    is_redacted: bool = False
    signature: str = ""
    details: dict[str, str] = field(default_factory=dict)
    content: content_pb2.Part | None = None
    """What a `PartKind.PROVIDER` part commits."""
    texts: list[str] = field(default_factory=list)
    num_shown: int = 0
    """How many of the texts have left as deltas."""
    finishing: Callable[[OpenPart], None] | None = None
    """Called before the part is committed, for details that are only known then."""
    number: int = -1
    """The part's number, -1 until it is started."""
    is_ended: bool = False

    @property
    def text(self) -> str:
        """All text of the part so far."""
        return "".join(self.texts)


class PartAssembler:
    """Builds the parts of one answer and collects the events that this causes."""

    def __init__(self, max_bytes: int = MAX_ANSWER_BYTES, *, sorts_tags: bool = False) -> None:
        """``sorts_tags``: reasoning that stands between tags at the beginning of the text becomes reasoning."""
        self.has_tool_calls = False
        """Whether a call for the caller was opened."""
        self._events: list[ModelEvent] = []
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._shown_at = 0
        self._free_until = min(MAX_DELTA_BYTES, max_bytes)
        """Up to here text may be added without a delta or an end being due."""
        self._current: OpenPart | None = None
        self._waiting: deque[OpenPart] = deque()
        self._tags = ReasoningTags() if sorts_tags else None
        """Looks for reasoning at the beginning of the text; None once there is none left to look for."""
        self._aside: OpenPart | None = None
        """The first text, where reasoning between tags in it stands in its place."""
        self._num_parts = 0
        self._call_ids: set[str] = set()

    def take(self) -> list[ModelEvent]:
        """The events since the last call; text of one part that came since then is one delta."""
        if self._current is not None:
            self._show(self._current)
        events = self._events
        self._events = []
        return events

    @property
    def has_any(self) -> bool:
        """Whether the answer has a part."""
        return self._num_parts > 0 or self._current is not None

    @property
    def last(self) -> OpenPart | None:
        """The newest part that is not ended."""
        return self._waiting[-1] if self._waiting else self._current

    def text(self, kind: PartKind, text: str) -> OpenPart | None:
        """Append to the newest part if it is of this kind, else to a new one. Empty text opens nothing."""
        if not text:
            return None
        part = self._current
        if part is not None and part.kind is kind and part.number >= 0 and not self._waiting and "\0" not in text:
            # What nearly every piece of a long answer is: more of the same, in few steps.
            num_bytes = self._num_bytes + (len(text) if text.isascii() else len(text.encode()))
            if num_bytes <= self._free_until:
                self._num_bytes = num_bytes
                part.texts.append(text)
                return part
        part = self._waiting[-1] if self._waiting else self._current
        if self._aside is not None and kind is PartKind.TEXT:
            part = self._aside
        if part is None or part.kind is not kind:
            part = self.open(OpenPart(kind))
        self.append(part, text)
        return part

    def append(self, part: OpenPart, text: str) -> None:
        """Append to one part; what comes after its end is dropped."""
        tags = self._tags
        if tags is not None and part.kind is PartKind.TEXT and (part is self._current or part is self._aside):
            self._tags = None
            self._sort(part, tags.feed(text))
            self._tags = None if tags.is_done else tags
            return
        if "\0" in text:
            text = text.replace("\0", "")
        if not text or part.is_ended:
            return
        size = len(text) if text.isascii() else len(text.encode())
        if self._num_bytes + size - self._shown_at > MAX_DELTA_BYTES and part is self._current:
            self._show(part)
        self.count(size)
        part.texts.append(text)
        if part is self._current:
            if part.number < 0 and _may_start(part):
                self._start(part)
            if self._waiting and _may_end(part):
                self._end(part)
                self._advance()

    def _sort(self, part: OpenPart, pieces: list[tuple[bool, str]]) -> None:
        """Append to the first text what is text, and put the reasoning before it."""
        for is_thought, piece in pieces:
            if not is_thought:
                self._take_place()
            elif self._aside is None:
                self._aside, self._current = part, OpenPart(PartKind.REASONING)
            current = self._current
            assert current is not None
            self.append(current, piece)

    def _take_place(self) -> None:
        """The reasoning that stands in the place of the text is over."""
        if self._aside is not None and self._current is not None:
            self._end(self._current)
            self._current, self._aside = self._aside, None

    def _settle(self) -> None:
        """No more text comes to the first one: give it what is held back."""
        tags, part = self._tags, self._aside or self._current
        if tags is not None and part is not None and tags.has_begun:
            self._tags = None
            self._sort(part, tags.finish())
            self._take_place()

    def open(self, part: OpenPart) -> OpenPart:
        """Add a part behind all others. It is announced with its first text or at its end."""
        size = 0 if part.content is None else part.content.ByteSize()
        self.count(_PART_BYTES + len(part.name) + len(part.tool_call_id) + len(part.signature) + size)
        if part.kind is PartKind.TOOL_CALL and not part.is_provider_executed:
            self.has_tool_calls = True
        self._settle()
        if self._current is not None and not self._waiting and _may_end(self._current):
            self._end(self._current)
            self._current = None
        if self._current is None:
            self._current = part
        else:
            self._waiting.append(part)
        return part

    def complete(self, part: OpenPart, arguments: object) -> None:
        """The vendor says a call's arguments once more, whole: they count where what came in pieces is not."""
        if arguments is None:
            return
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        if not part.texts:
            self.append(part, text)
        elif not part.is_ended and object_in(text) is not None and object_in(part.text) is None:
            self.count(len(text))
            part.texts[:] = [text]
            part.num_shown = 1

    def close(self, part: OpenPart) -> None:
        """The vendor says that a part is whole."""
        if part.is_ended:
            return
        if part is self._aside or part is self._current:
            self._settle()
        if part is self._current:
            self._end(part)
            self._advance()
        else:
            part.is_ended = True

    def finish(self) -> None:
        """The answer is over: end what is open, in order."""
        self._settle()
        if self._current is not None:
            self._end(self._current)
            self._current = None
        while self._waiting:
            self._end(self._waiting.popleft())

    def _advance(self) -> None:
        """Put the next waiting part in the ended one's place, ending on the way what is whole."""
        self._current = None
        while self._waiting:
            part = self._waiting.popleft()
            if part.is_ended or (self._waiting and _may_end(part)):
                self._end(part)
                continue
            self._current = part
            if part.texts and _may_start(part):
                self._start(part)
            return

    def _start(self, part: OpenPart) -> None:
        part.number = self._num_parts
        self._num_parts += 1
        if part.kind is PartKind.TOOL_CALL:
            part.tool_call_id = self._unique_id(part.tool_call_id, part.number)
        self._events.append(PartStarted(part.number, part.kind, part.tool_call_id, part.name))

    def _show(self, part: OpenPart) -> None:
        """Let the texts leave that have not yet."""
        if part.number < 0 and part.texts:
            return
        shown, texts = part.num_shown, part.texts
        if shown < len(texts):
            text = texts[-1] if shown == len(texts) - 1 else "".join(texts[shown:])
            part.num_shown = len(texts)
            self._events.append(PartDelta(part.number, part.kind, text))
        self._shown_at = self._num_bytes
        self._free_until = min(self._num_bytes + MAX_DELTA_BYTES, self._max_bytes)

    def _end(self, part: OpenPart) -> None:
        part.is_ended = True
        if part.number < 0:
            has_content = part.texts or part.signature or part.is_redacted
            if part.kind in (PartKind.TEXT, PartKind.REASONING) and not has_content:
                return
            self._start(part)
        self._show(part)
        if part.finishing is not None:
            part.finishing(part)
        self._events.append(PartEnded(part.number, _content(part)))

    def count(self, num_bytes: int) -> None:
        """Let what is kept beside the texts count: names, signatures, details."""
        self._num_bytes += num_bytes
        if self._num_bytes > self._max_bytes:
            raise ProviderError(
                FailureReason.PROVIDER_PROTOCOL, "Answer too large", f"The answer is over {self._max_bytes} bytes."
            )

    def _unique_id(self, wanted: str, number: int) -> str:
        if not wanted or wanted in self._call_ids:
            wanted = f"call_{number}"
            while wanted in self._call_ids:
                wanted += "_"
        self._call_ids.add(wanted)
        return wanted


def _may_start(part: OpenPart) -> bool:
    """Whether a part can be announced: a call whose arguments come before its name cannot."""
    return part.kind is not PartKind.TOOL_CALL or bool(part.name)


def _may_end(part: OpenPart) -> bool:
    """Whether a part can be ended because another one begins."""
    if part.kind is not PartKind.TOOL_CALL:
        return True
    if not part.texts or not part.texts[-1].rstrip().endswith("}"):
        return False
    # An empty object may be what stands there until the arguments come.
    return part.text.strip() != "{}" and is_object(part.text)


def _content(part: OpenPart) -> content_pb2.Part:
    if part.content is not None:
        return part.content
    content = content_pb2.Part()
    if part.kind is PartKind.TEXT:
        content.text.text = part.text
    elif part.kind is PartKind.REASONING:
        content.reasoning.text = part.text
        content.reasoning.signature = part.signature.encode()
        content.reasoning.is_redacted = part.is_redacted
    else:
        call = content.tool_call
        call.tool_call_id = part.tool_call_id
        call.name = part.name
        call.is_provider_executed = part.is_provider_executed
        call.arguments_json = _arguments(part)
    for key, value in part.details.items():
        content.provider_details.fields[key].string_value = value
    return content


def _arguments(part: OpenPart) -> str:
    """The arguments as one JSON object, else ``{}``, with a mark unless nothing was sent."""
    text = part.text
    found = object_in(text)
    if found is not None:
        return found
    if not is_nothing(text):
        part.details[INVALID_ARGUMENTS] = text[:_MAX_KEPT_INVALID]
    return "{}"

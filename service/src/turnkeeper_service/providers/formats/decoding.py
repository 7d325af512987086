"""What the decoders of all formats share: from an event's bytes to what it says, and the judgement at the end."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

import msgspec
import structlog

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import FailureReason, ModelEvent, ModelFinished, ProviderError
from turnkeeper_service.providers.http.errors import stream_error
from turnkeeper_service.providers.http.failure_body import clip, message_of, stated_failure
from turnkeeper_service.providers.http.sse import SseEvent
from turnkeeper_service.providers.leniency import UNREADABLE, Shape, loads, objects_in

from .assembly import PartAssembler

log = structlog.get_logger(__name__)

Event = TypeVar("Event")
T = TypeVar("T")
_EXPLAINS_SILENCE = frozenset({content_pb2.FINISH_REASON_MAX_TOKENS, content_pb2.FINISH_REASON_CONTENT_FILTER})
_MAX_WORD = 200
_NAMED_AGAIN = re.compile(rb"\s*(?:data:\s*)+")
"""In front of data that is one event's text inside another's."""


class StreamDecoder(ABC, Generic[Event]):
    """Turns the events of one stream into model events. One per call."""

    is_complete = False
    """Whether the answer is whole, though more may follow (usage, for one)."""
    is_over = False
    """Whether the stream's own last event was seen."""
    failure: ProviderError | None = None
    """The error that the stream carried."""
    remark: ProviderError | None = None
    """What was said that is no event: why there is no answer, if none comes; a sign of life, if one does."""
    failure_words: ClassVar[frozenset[str]] = frozenset()
    """The finish reasons by which a vendor says that its own attempt failed, whatever it has said before."""

    def __init__(self, shape: Shape[Event]) -> None:
        self._parts = PartAssembler(sorts_tags=True)
        self._shape = shape
        self._decode = shape.strict
        self._left_out: set[str] = set()
        self._has_read = False
        self._first_words = ""

    @property
    def is_silent(self) -> bool:
        """Whether nothing of the format was seen yet."""
        return not self._has_read

    def broken_off(self) -> ProviderError:
        """The error of a stream that ended before its answer did."""
        if self.remark is not None:
            return self.remark
        said = f" It said: {self._first_words}" if self.is_silent and self._first_words else ""
        return ProviderError(
            FailureReason.PROVIDER_STREAM_BROKEN,
            "Stream broken",
            f"The stream ended before the answer did.{said}",
            is_retryable=True,
        )

    def decode(self, event: SseEvent) -> None:
        """Take in one event. An error event is kept in `failure`; what came before it stays."""
        try:
            found = self._decode(event.data)
        except UNREADABLE:
            mended = self._mended(event)
            if mended is None:
                return
            found = mended
        try:
            if self._read(found) and event.event != "error":
                self._has_read = True
            else:
                self._look_for_failure(event)
        except UNREADABLE as error:
            raise _unreadable(error) from None

    def take(self) -> list[ModelEvent]:
        """The model events of what was taken in since the last call."""
        return self._parts.take()

    def finish(self) -> list[ModelEvent]:
        """End the open parts and the answer.

        Raises ProviderError, to be asked again, for an answer that says nothing and does not say why (O-4).
        """
        self._end()
        self._parts.finish()
        finished = self._finished()
        self._judge(finished)
        return [*self._parts.take(), finished]

    @abstractmethod
    def _read(self, event: Event) -> bool:
        """Take in what an event says. False where it is none that the format knows: perhaps an error."""

    @abstractmethod
    def _finished(self) -> ModelFinished:
        """The answer's end; its parts have ended."""

    @abstractmethod
    def _told_usage(self) -> content_pb2.Usage | None:
        """What was reported so far."""

    def _end(self) -> None:
        """Complete the parts that the stream left open."""
        return

    def _words(self) -> str:
        """What the vendor says about its finish reason."""
        return ""

    def _fail(self, stated: object, *, is_retryable: bool | None = None) -> None:
        """Keep a failure that the vendor states."""
        self.failure = stream_error(stated, is_retryable=is_retryable, has_begun=self._parts.has_any)
        self.failure.usage = self._told_usage()

    def _part_of(self, shape: Shape[T], raw: msgspec.Raw) -> T:
        """A part of an event that was not decoded with it."""
        try:
            return shape.strict(raw)
        except UNREADABLE:
            return self._lenient(shape, bytes(raw))

    def _mended(self, event: SseEvent) -> Event | None:
        """What is no event at first sight: the stream's end, an error in words, fields of other types."""
        data = event.data
        if data.startswith(b"[DONE]"):
            self.is_over = self.is_complete = True
            return None
        start = data.lstrip()[:1]
        if not start:
            return None
        if start not in (b"{", b"["):
            self._look_inside(event)
            return None
        try:
            if start == b"{":
                return self._lenient(self._shape, data)
        except UNREADABLE as error:
            if event.event == "error":
                self._fail(data.decode())
                return None
            if not str(error).startswith("Extra data"):
                raise _unreadable(error) from None
        self._decode_each(event)
        return None

    def _look_inside(self, event: SseEvent) -> None:
        """Data that is no JSON object: an event's text, as it stands or in a string, or words."""
        named = _NAMED_AGAIN.match(event.data)
        text = event.data[named.end() :].decode() if named is not None else _string_in(event.data)
        if text.startswith(("{", "[")):
            self.decode(SseEvent(text.encode(), event.event))
        elif event.event == "error":
            self._fail(event.data.decode())
        else:
            self.leave_out("data")
            self.remark = self.remark or _unreadable(ValueError("it is no JSON object"), event.data.decode())

    def _decode_each(self, event: SseEvent) -> None:
        """Events in one list, from servers that do not stream, or without anything between them."""
        try:
            found = objects_in(event.data)
        except UNREADABLE as error:
            raise _unreadable(error) from None
        for one in found:
            if not self.is_over and self.failure is None:
                self.decode(SseEvent(json.dumps(one).encode(), event.event))

    def _lenient(self, shape: Shape[T], data: bytes) -> T:
        found, left_out = shape.lenient(data)
        self.leave_out(*left_out)
        return found

    def leave_out(self, *fields: str) -> None:
        """Say what of the answer cannot be used: of each field once, whatever it held."""
        news = set(fields) - self._left_out
        if news:
            self._left_out |= news
            log.warning("fields of the provider's answer cannot be used", fields=sorted(news))

    def _look_for_failure(self, event: SseEvent) -> None:
        if self.failure is None:
            found = loads(event.data)
            stated = found if event.event == "error" else stated_failure(found)
            if stated is not None:
                self._fail(stated)
            elif not self._has_read and (said := message_of(found)):
                self._first_words = said

    def _judge(self, finished: ModelFinished) -> None:
        word = finished.provider_finish_reason
        if not word and self.remark is not None:
            raise self.remark
        has_failed = word in self.failure_words
        if not has_failed and (self._parts.has_any or finished.finish_reason in _EXPLAINS_SILENCE):
            return
        reason, title, detail = FailureReason.PROVIDER_PROTOCOL, "Empty answer", "The answer says nothing."
        if has_failed or finished.finish_reason == content_pb2.FINISH_REASON_OTHER:
            reason, title = FailureReason.PROVIDER_ERROR, "Provider error"
            detail = self._words() or "The model stopped without an answer."
        if word:
            detail = f"{detail} ({word[:_MAX_WORD]})"
        raise ProviderError(reason, title, detail, is_retryable=True, usage=finished.usage)


def _string_in(data: bytes) -> str:
    """The JSON string that it is, "" if it is none."""
    try:
        found = loads(data)
    except UNREADABLE:
        return ""
    return found.lstrip() if isinstance(found, str) else ""


def _unreadable(error: Exception, said: str = "") -> ProviderError:
    """``said``: what stands there in place of JSON, since it may be why."""
    why = clip(said) or str(error)
    return ProviderError(
        FailureReason.PROVIDER_PROTOCOL, "Invalid event", f"An event of the stream cannot be read: {why}"
    )

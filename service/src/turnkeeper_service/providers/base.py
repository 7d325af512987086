"""What a provider is: one call, a request in, a stream of typed events out.

An adapter turns a `ModelRequest` into its vendor's HTTP request and the vendor's stream into the events below. It holds
no state between calls, retries nothing and knows neither runs nor sessions. Text and reasoning arrive in parts: a part
is opened, grows by deltas and is closed; parts of one answer never overlap in time and are numbered from 0 without
gaps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import msgspec

from turnkeeper.v1 import content_pb2


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A tool as a model sees it. ``input_schema_json`` is a JSON Schema object, serialised."""

    name: str
    description: str
    input_schema_json: str


@dataclass(frozen=True, slots=True)
class ModelCapabilities:
    """What the model of a request is able to take, as far as it is known; the default leaves it to the vendor."""

    takes_images: bool = True
    takes_files: bool = True
    """Media other than images and text; text is put into the prompt for every model."""
    takes_result_media: bool | None = None
    """Media inside tool results; None does as the format usually does."""
    is_reasoning: bool = False
    """Whether it reasons and seals its reasoning, so that it may be asked for the seal."""

    @classmethod
    def of(cls, names: Collection[str] | None) -> ModelCapabilities:
        """From the words of the settings; None, where nothing is known, expects the best of media."""
        if names is None:
            return cls()
        has_images = "images" in names
        return cls(takes_images=has_images, takes_files=has_images, is_reasoning="reasoning" in names)


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model call.

    ``model`` is the vendor's own name. ``messages`` are committed messages in context, in order; adapters read them and
    never change or keep them. ``system`` may be empty. ``session_hash`` is an opaque cache-affinity key (C-105).
    """

    model: str
    messages: Sequence[content_pb2.Message]
    system: str = ""
    parameters: content_pb2.ModelParameters = field(default_factory=content_pb2.ModelParameters)
    tools: Sequence[ToolDefinition] = ()
    tool_choice: str = "auto"
    """``auto``, ``none``, ``required`` or the name of a tool."""
    output_schema_json: str = ""
    """A JSON Schema that the answer must match; empty for free text."""
    session_hash: str = ""
    capabilities: ModelCapabilities = field(default_factory=ModelCapabilities)


class PartKind(StrEnum):
    """What a streamed part holds."""

    TEXT = "text"
    REASONING = "reasoning"
    TOOL_CALL = "tool_call"
    PROVIDER = "provider"
    """Something that only the provider understands, such as the result of a tool that it ran itself: whole in
    `PartEnded.content`, without deltas, kept in the message and sent back unchanged."""


@dataclass(frozen=True, slots=True)
class PartStarted:
    """A part opens. For a tool call ``tool_call_id`` and ``name`` are known (the id may have been minted)."""

    part: int
    kind: PartKind
    tool_call_id: str = ""
    name: str = ""


class PartDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the open part: text, reasoning or the JSON of a tool call's arguments. Never empty."""

    # One is made per token: a frozen dataclass would cost four times as much.
    part: int
    kind: PartKind
    text: str


@dataclass(frozen=True, slots=True)
class PartEnded:
    """A part is whole; ``content`` is what gets committed, signatures and provider details included."""

    part: int
    content: content_pb2.Part


@dataclass(frozen=True, slots=True)
class ModelFinished:
    """The last event of a stream that ended as its protocol says, or without a word where the vendor never says one.

    ``usage`` is unset field by field where the provider did not say. ``provider_finish_reason`` is "" if never sent.
    """

    finish_reason: content_pb2.FinishReason.ValueType
    provider_finish_reason: str
    usage: content_pb2.Usage
    response_id: str = ""
    provider_cost_usd: float | None = None
    is_paused: bool = False
    """Whether the provider's own tools are not done yet: the answer goes on when it is sent back unchanged."""


ModelEvent = PartStarted | PartDelta | PartEnded | ModelFinished


class FailureReason(StrEnum):
    """Why a model call failed; the FAILED reasons of an outcome that a provider can cause (CONVENTIONS.md)."""

    PROVIDER_UNREACHABLE = "PROVIDER_UNREACHABLE"
    """No connection, or no response line."""
    PROVIDER_REFUSED = "PROVIDER_REFUSED"
    """A 4xx that is none of the others: the request itself is not accepted."""
    PROVIDER_UNAUTHENTICATED = "PROVIDER_UNAUTHENTICATED"
    """401 or 403."""
    PROVIDER_RATE_LIMITED = "PROVIDER_RATE_LIMITED"
    """429."""
    PROVIDER_ERROR = "PROVIDER_ERROR"
    """5xx, or an error event inside a stream."""
    PROVIDER_STREAM_BROKEN = "PROVIDER_STREAM_BROKEN"
    """The stream ended before its protocol says that it may."""
    PROVIDER_PROTOCOL = "PROVIDER_PROTOCOL"
    """Bytes that are not the protocol: invalid JSON or UTF-8, a frame or an answer over the limit."""
    FIRST_TOKEN_TIMEOUT = "FIRST_TOKEN_TIMEOUT"
    """Connected, but no first event in time."""
    IDLE_TIMEOUT = "IDLE_TIMEOUT"
    """Nothing arrived for too long after the first event."""
    TOTAL_TIMEOUT = "TOTAL_TIMEOUT"
    """The whole call took too long."""


class ProviderError(Exception):
    """A model call failed.

    Attributes say what a caller acts on. ``detail`` is for people: it carries the vendor's message, never a key or a
    prompt. ``retry_after`` is in seconds, None where the vendor gave no hint. ``usage`` is what the vendor reported
    before it failed, None if nothing. ``is_context_overflow``: the model cannot hold the request, so that the same one
    never succeeds, and a shorter one may.
    """

    def __init__(
        self,
        reason: FailureReason,
        title: str,
        detail: str,
        *,
        status: int | None = None,
        is_retryable: bool = False,
        retry_after: float | None = None,
        usage: content_pb2.Usage | None = None,
        is_context_overflow: bool = False,
    ) -> None:
        super().__init__(f"{reason}: {title}: {detail}")
        self.reason = reason
        self.title = title
        self.detail = detail
        self.status = status
        self.is_retryable = is_retryable and not is_context_overflow
        self.retry_after = retry_after
        self.usage = usage
        self.is_context_overflow = is_context_overflow


class Provider(Protocol):
    """Something that answers model requests."""

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        """Open the call. Leaving the context closes the upstream socket, whatever the reason for leaving.

        The iterator ends after `ModelFinished`. Entering or iterating raises `ProviderError`; cancellation passes
        through.
        """
        ...

    async def close(self) -> None:
        """Release connections. Idempotent."""
        ...


class Timer(Protocol):
    """A call that will be made later."""

    def cancel(self) -> None:
        """Do not make it. Harmless once it was made."""
        ...


class Clock(Protocol):
    """Time, injected so that tests can hold it."""

    def time(self) -> float:
        """Wall-clock seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; 0 or less yields once."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call back once after so many seconds, on the event loop's thread. The caller keeps and cancels the timer."""
        ...

"""A provider that does what a test says, call by call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import (
    FailureReason,
    ModelEvent,
    ModelFinished,
    ModelRequest,
    PartDelta,
    PartEnded,
    PartKind,
    PartStarted,
    ProviderError,
)


def error(
    reason: FailureReason = FailureReason.PROVIDER_ERROR,
    *,
    status: int | None = None,
    is_retryable: bool = True,
    retry_after: float | None = None,
) -> ProviderError:
    return ProviderError(reason, "T", "d", status=status, is_retryable=is_retryable, retry_after=retry_after)


def answered(text: str = "yes") -> list[ModelEvent | ProviderError]:
    content = content_pb2.Part()
    content.text.text = text
    return [
        PartStarted(0, PartKind.TEXT),
        PartDelta(0, PartKind.TEXT, text),
        PartEnded(0, content),
        ModelFinished(content_pb2.FINISH_REASON_END_TURN, "stop", content_pb2.Usage()),
    ]


class FakeProvider:
    """Plays one list of events per call; an error in it is raised. An empty list of calls answers."""

    def __init__(self, *calls: list[ModelEvent | ProviderError]) -> None:
        self.calls = list(calls)
        self.num_opened = 0
        self.num_open = 0
        self.is_closed = False

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        self.num_opened += 1
        self.num_open += 1
        events = self.calls.pop(0) if self.calls else answered()
        try:
            if events and isinstance(events[0], ProviderError):
                raise events[0]
            yield _play(events)
        finally:
            self.num_open -= 1

    async def close(self) -> None:
        self.is_closed = True


async def _play(events: list[ModelEvent | ProviderError]) -> AsyncIterator[ModelEvent]:
    for event in events:
        if isinstance(event, ProviderError):
            raise event
        yield event

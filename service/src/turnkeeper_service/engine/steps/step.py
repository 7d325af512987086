"""One model call: from the request to the message that it wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.models import Model
from turnkeeper_service.engine.plan import TurnPlan
from turnkeeper_service.engine.usage import estimate, filled_in
from turnkeeper_service.events.log import OpenMessage, OpenPart, ProgressKind, SessionLog
from turnkeeper_service.process.clock import Clock
from turnkeeper_service.providers.base import (
    FailureReason,
    ModelFinished,
    ModelRequest,
    PartDelta,
    PartEnded,
    PartKind,
    PartStarted,
    ProviderError,
)

DELTAS_PER_TURN_OF_THE_LOOP = 256
"""A provider that never waits must let others run now and then."""

_PROGRESS = {
    PartKind.TEXT: ProgressKind.TEXT,
    PartKind.REASONING: ProgressKind.REASONING,
    PartKind.TOOL_CALL: ProgressKind.TOOL_INPUT,
    # Whole from the start and only for its provider: it shows nothing while it grows.
    PartKind.PROVIDER: ProgressKind.TEXT,
}


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """A whole answer: its message, the events that close its step, and the calls that the client side has to run."""

    message: content_pb2.Message
    step_events: Sequence[event_pb2.Event]
    tool_calls: Sequence[content_pb2.ToolCall]
    usage: content_pb2.Usage
    is_paused: bool = False
    """Whether it goes on when it is sent back."""


def text_of(message: content_pb2.Message) -> str:
    """What a message says in words."""
    return "".join(part.text.text for part in message.parts if part.HasField("text"))


class Step:
    """A model call of a turn. Its open message is shown while it grows and closed by the message's commit."""

    def __init__(
        self,
        plan: TurnPlan,
        model: Model,
        log: SessionLog,
        clock: Clock,
        *,
        number: int,
        message_id: str,
        attempt: int,
        context_id: str,
    ) -> None:
        self._plan = plan
        self.model = model
        self.number = number
        self._log = log
        self._clock = clock
        self.opened = OpenMessage(message_id, plan.run_id, plan.turn_id, context_id, attempt)
        self.is_committed = False
        """Whether its message was handed to the store."""
        self._parts: list[content_pb2.Part | None] = []
        self._open_parts: list[OpenPart] = []
        self._began = clock.monotonic()
        self._first_delta: float | None = None
        self._request: ModelRequest | None = None
        self._was_made_before = False
        """Whether a lost process had made the call."""

    @property
    def is_shown(self) -> bool:
        """Whether readers follow its open message. One that a lost process had shown is not shown again."""
        return self._request is not None

    @property
    def num_calls(self) -> int:
        """How many calls it counts for: none before it was made."""
        return int(self.is_shown or self._was_made_before)

    async def stream(self, request: ModelRequest) -> StepAnswer:
        """Ask the model and take its answer. Raises ProviderError; what came before it stays in `opened`."""
        log, opened = self._log, self.opened
        self._request = request
        log.open_message(opened)
        self._began = self._clock.monotonic()
        parts, open_parts = self._parts, self._open_parts
        finished: ModelFinished | None = None
        num_deltas = 0
        async with self.model.provider.stream(request) as events:
            async for event in events:
                if isinstance(event, PartDelta):
                    if self._first_delta is None:
                        self._first_delta = self._clock.monotonic()
                    log.grow(opened, open_parts[event.part], event.text)
                    if opened.num_bytes > self._plan.max_answer_bytes:
                        raise ProviderError(
                            FailureReason.PROVIDER_PROTOCOL,
                            "Answer too long",
                            f"the answer is longer than {self._plan.max_answer_bytes} bytes",
                        )
                    num_deltas += 1
                    if num_deltas % DELTAS_PER_TURN_OF_THE_LOOP == 0:
                        await asyncio.sleep(0)
                elif isinstance(event, PartStarted):
                    parts.append(None)
                    open_parts.append(log.start_part(opened, _PROGRESS[event.kind], event.name))
                elif isinstance(event, PartEnded):
                    parts[event.part] = event.content
                else:
                    finished = event
        if finished is None:
            raise ProviderError(
                FailureReason.PROVIDER_STREAM_BROKEN, "Stream broken", "the stream ended without its last event"
            )
        return self._answer(finished)

    def estimated(self) -> content_pb2.Usage:
        """What the call used as far as it came, where its provider does not say."""
        if self._request is None:
            # A lost process had made it: what it asked is not known any more.
            usage = estimate((), "", self.opened.num_bytes)
            usage.ClearField("input_tokens")
            return usage
        return estimate(self._request.messages, self._request.system, self.opened.num_bytes)

    def _answer(self, finished: ModelFinished) -> StepAnswer:
        usage = filled_in(finished.usage, self.estimated)
        usage.num_calls = 1
        self.model.settle(usage, finished.provider_cost_usd)
        message = self._message(content_pb2.MESSAGE_STATUS_COMPLETE)
        message.parts.extend(part for part in self._parts if part is not None)
        message.finish_reason = finished.finish_reason
        message.provider_finish_reason = finished.provider_finish_reason
        calls = [
            part.tool_call
            for part in message.parts
            if part.HasField("tool_call") and not part.tool_call.is_provider_executed
        ]
        events = [self.finished(usage, finished.finish_reason)]
        for call in calls:
            event = event_pb2.Event(
                run_id=self._plan.run_id, turn_id=self._plan.turn_id, context_id=self.opened.context_id
            )
            event.tool_call_requested.tool_call.CopyFrom(call)
            event.tool_call_requested.message_id = message.message_id
            events.append(event)
        return StepAnswer(message, events, calls, usage, finished.is_paused)

    def partial(
        self, status: content_pb2.MessageStatus.ValueType, error: content_pb2.ErrorText | None
    ) -> content_pb2.Message:
        """The message as far as it came. Tool calls that did not run are left out; the provider's own did."""
        message = self._message(status)
        for whole, growing in zip(self._parts, self._open_parts, strict=True):
            has_run = whole is not None and whole.tool_call.is_provider_executed
            if growing.kind == ProgressKind.TOOL_INPUT and not has_run:
                continue
            if whole is not None:
                message.parts.append(whole)
            elif growing.content and growing.kind == ProgressKind.TEXT:
                message.parts.add().text.text = growing.content.decode()
            elif growing.content:
                message.parts.add().reasoning.text = growing.content.decode()
        if error is not None:
            message.error.CopyFrom(error)
        return message

    def _message(self, status: content_pb2.MessageStatus.ValueType) -> content_pb2.Message:
        opened = self.opened
        return content_pb2.Message(
            message_id=opened.message_id,
            role=content_pb2.ROLE_ASSISTANT,
            status=status,
            run_id=opened.run_id,
            turn_id=opened.turn_id,
            context_id=opened.context_id,
            in_context=True,
            model=self.model.name,
        )

    def preload(self, parts: Sequence[tuple[int, str]]) -> None:
        """Take over what a lost process had flushed, as (kind, text) part by part."""
        self._was_made_before = True
        for kind, text in parts:
            part = OpenPart(ProgressKind(kind), content=bytearray(text.encode()))
            part.flushed = len(part.content)
            self.opened.parts.append(part)
            self.opened.num_bytes += len(part.content)
            self._open_parts.append(part)
            self._parts.append(None)

    def finished(self, usage: content_pb2.Usage, reason: content_pb2.FinishReason.ValueType) -> event_pb2.Event:
        """The event that closes the step."""
        event = event_pb2.Event(
            run_id=self._plan.run_id,
            turn_id=self._plan.turn_id,
            context_id=self.opened.context_id,
            attempt=self.opened.attempt,
        )
        closed = event.step_finished
        closed.step = self.number
        closed.finish_reason = reason
        closed.usage.CopyFrom(usage)
        now = self._clock.monotonic()
        closed.duration.FromNanoseconds(int((now - self._began) * 1e9))
        if self._first_delta is not None:
            closed.time_to_first_delta.FromNanoseconds(int((self._first_delta - self._began) * 1e9))
        return event

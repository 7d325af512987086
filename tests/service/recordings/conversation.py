"""A recorded conversation held with the service: prompts submitted, tools answered, as the recording has it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from examples.upstream import Exchange, Upstream
from tests.service.harness import Harness
from tests.service.providers.collect import Collected
from tests.service.providers.test_conversations import recorded_request
from tests.service.tools.holders import offer
from tests.service.wire.talk import Talk
from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2, tool_service_pb2
from turnkeeper_service.providers.base import (
    FailureReason,
    ModelFinished,
    ModelRequest,
    PartDelta,
    PartEnded,
    PartKind,
    PartStarted,
    ProviderError,
    ToolDefinition,
)

CUT = 997
"""Bytes of a piece of the answer, so that pieces end anywhere in events."""
KINDS = {"text": PartKind.TEXT, "reasoning": PartKind.REASONING, "tool_call": PartKind.TOOL_CALL}
_COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


def conversations(wire_format: str, exchanges: Sequence[Exchange]) -> Iterator[list[Exchange]]:
    """The exchanges by conversation: one whose request holds a single prompt begins a new one."""
    found: list[list[Exchange]] = []
    for exchange in exchanges:
        if len(recorded_request(wire_format, exchange).messages) == 1:
            found.append([])
        found[-1].append(exchange)
    yield from found


@dataclass
class Held:
    """What a client saw of one conversation."""

    answers: list[Collected] = field(default_factory=list)
    """One for each model call."""
    num_deltas: int = 0
    outcomes: list[event_pb2.Outcome] = field(default_factory=list)


class Conversation:
    """One session whose model plays a recording and whose client serves the recording's tools."""

    def __init__(self, talk: Talk, requests: Sequence[ModelRequest]) -> None:
        self._talk = talk
        self._requests = requests
        self._results = deque(results_of(requests))
        self._deltas: dict[str, list[run_service_pb2.Delta]] = {}
        self._message: content_pb2.Message | None = None
        self.held = Held()

    @classmethod
    async def hold(
        cls, server: Harness, upstream: Upstream, wire_format: str, name: str, exchanges: Sequence[Exchange]
    ) -> Held:
        """Go through a conversation to its end."""
        requests = [recorded_request(wire_format, exchange) for exchange in exchanges]
        upstream.plan(*(exchange.answer(cut=CUT) for exchange in exchanges))
        model = f"{wire_format}/{requests[0].model}"
        await server.session(name, title=name, model=model, system_prompt=requests[0].system)
        talk = await Talk.open(server, name, after_seq=0, client_name="recorded")
        receipt = await talk.ask("tools", offer_tools=offer(*map(served, requests[0].tools)))
        assert receipt.HasField("receipt"), receipt
        conversation = cls(talk, requests)
        for number, request in enumerate(requests):
            if request.messages[-1].role == content_pb2.ROLE_USER:
                await conversation._run(f"{name}-{number}", request)
        await talk.call.done_writing()
        assert not [item for item in await talk.rest() if item.event.HasField("step_started")]
        assert not conversation._results
        return conversation.held

    async def _run(self, run_id: str, request: ModelRequest) -> None:
        submission = run_service_pb2.Submission(
            run_id=run_id,
            prompt=request.messages[-1].parts,
            parameters=request.parameters,
            tool_choice="" if request.tool_choice == "auto" else request.tool_choice,
            output_schema_json=request.output_schema_json,
        )
        await self._talk.send(submit=submission)
        while (item := await self._talk.next()) is not None:
            assert not item.HasField("error"), item
            if item.HasField("delta"):
                self._deltas.setdefault(item.delta.message_id, []).append(item.delta)
            elif item.HasField("tool_invocation"):
                await self._answer(item.tool_invocation)
            elif item.event.HasField("message_committed"):
                if item.event.message_committed.message.role == content_pb2.ROLE_ASSISTANT:
                    self._message = item.event.message_committed.message
            elif item.event.HasField("step_finished"):
                self._close_step(item.event.step_finished.usage)
            elif item.event.HasField("run_finished"):
                self._close_run(item.event.run_finished.outcome)
                return
        raise AssertionError("the stream ended first")

    async def _answer(self, invocation: tool_service_pb2.ToolInvocation) -> None:
        """Answer as the next recorded request does; what the recording does not answer ends the turn."""
        given = tool_service_pb2.ToolInvocationResult(lease_id=invocation.lease_id)
        if self._results:
            recorded = self._results.popleft()
            assert invocation.tool_call.name == recorded.name
            given.result.content.extend(recorded.content)
        else:
            given.is_turn_end = True
        await self._talk.send(tool_result=given)

    def _close_step(self, usage: content_pb2.Usage) -> None:
        message = self._message
        assert message is not None
        self._check_deltas(message)
        answer = Collected(list(part_events(message)))
        if message.status == content_pb2.MESSAGE_STATUS_COMPLETE:
            said = content_pb2.Usage()
            said.CopyFrom(usage)
            if usage.is_estimated:
                for name in _COUNTS:
                    said.ClearField(name)  # type: ignore[arg-type]
            answer.events.append(ModelFinished(message.finish_reason, message.provider_finish_reason, said))
        else:
            # The outcome says which; it follows.
            said = usage if not usage.is_estimated else content_pb2.Usage()
            answer.error = ProviderError(FailureReason.PROVIDER_PROTOCOL, message.error.title, "", usage=said)
        self.held.answers.append(answer)

    def _check_deltas(self, message: content_pb2.Message) -> None:
        """What was shown while the message grew is what it became."""
        for delta in self._deltas.pop(message.message_id, ()):
            part = message.parts[delta.part]
            kind = delta.WhichOneof("delta")
            text = {"text": part.text.text, "reasoning": part.reasoning.text}.get(
                str(kind), part.tool_call.arguments_json
            )
            shown = (delta.text or delta.reasoning or delta.tool_input).encode()
            assert shown == text.encode()[delta.offset : delta.offset + len(shown)]
            self.held.num_deltas += 1

    def _close_run(self, outcome: event_pb2.Outcome) -> None:
        self.held.outcomes.append(outcome)
        answer = self.held.answers[-1]
        if answer.error is not None:
            reason = event_pb2.OutcomeReason.Name(outcome.reason).removeprefix("OUTCOME_REASON_")
            answer.error.reason = FailureReason(reason)


def results_of(requests: Sequence[ModelRequest]) -> Iterator[content_pb2.ToolResult]:
    """Every result that a later request brings, in order."""
    known = 0
    for request in requests:
        for message in request.messages[known:]:
            for part in message.parts:
                if part.HasField("tool_result"):
                    yield part.tool_result
        known = len(request.messages)


def served(definition: ToolDefinition) -> tool_service_pb2.Tool:
    """A recorded tool as a client offers it."""
    return tool_service_pb2.Tool(
        name=definition.name,
        description=definition.description,
        input_schema_json=json.dumps(_lower_types(json.loads(definition.input_schema_json))),
    )


def _lower_types(schema: Any) -> Any:
    """A schema with its types as JSON Schema writes them; some recordings have a vendor's older capitals."""
    if isinstance(schema, dict):
        return {
            key: value.lower() if key == "type" and isinstance(value, str) else _lower_types(value)
            for key, value in schema.items()
        }
    return [_lower_types(item) for item in schema] if isinstance(schema, list) else schema


def part_events(message: content_pb2.Message) -> Iterator[PartStarted | PartDelta | PartEnded]:
    """A committed message as the events that would have made it."""
    for number, part in enumerate(message.parts):
        kind = KINDS.get(str(part.WhichOneof("part")), PartKind.PROVIDER)
        yield PartStarted(number, kind, part.tool_call.tool_call_id, part.tool_call.name)
        text = part.text.text or part.reasoning.text
        if text:
            yield PartDelta(number, kind, text)
        yield PartEnded(number, part)

"""What the events of a run say of where its turn stands (U-16)."""

from __future__ import annotations

from dataclasses import replace

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.approval import AskedBefore, Decision
from turnkeeper_service.engine.plan import CallState
from turnkeeper_service.engine.steps.loops import signature
from turnkeeper_service.engine.steps.model_call import PROCESS_LOST
from turnkeeper_service.engine.usage import add_step
from turnkeeper_service.process.clock import seconds_of
from turnkeeper_service.tools.arguments import malformed


class ReplayedTurn:
    """What the events of a run say of where its turn stands."""

    def __init__(self) -> None:
        self.turn_id = ""
        self.step, self.attempt, self.losses = 0, 1, 0
        self.message_id = ""
        self.model = ""
        self.usage = content_pb2.RunUsage()
        self.message_ids: list[str] = []
        self.calls: dict[str, CallState] = {}
        self.malformed: frozenset[str] = frozenset()
        self.signatures: list[str] = []
        self.is_awaiting = self.has_hint = False
        self.holders: dict[str, float] = {}
        self.errors: list[event_pb2.RunError] = []
        self.retry_at = 0.0
        """When the open step is to be tried again, as wall-clock seconds; 0 where no wait was begun."""
        self.summary_id, self.summary_model = "", ""
        self.num_summaries = self.num_reprompts = 0
        self.covered_ids: list[str] = []

    def take(self, event: event_pb2.Event) -> None:
        """Take in the next event."""
        match event.WhichOneof("payload"):
            case "run_started":
                self.turn_id = event.turn_id
            case "step_started":
                self.step, self.model = event.step_started.step, event.step_started.model
                self.message_id, self.attempt, self.losses = event.step_started.message_id, 1, 0
                self.retry_at = 0.0
                self.holders = {
                    holder.name: seconds_of(holder.reconnect_grace) for holder in event.step_started.tool_holders
                }
            case "attempt_discarded" | "retry_scheduled":
                self._attempt(event)
            case "summary_started" | "summary_finished" | "summary_discarded":
                self._summary(event)
            case "message_context_changed":
                if not event.message_context_changed.in_context:
                    self.covered_ids.extend(event.message_context_changed.message_ids)
            case "run_awaiting":
                self.is_awaiting = True
            case "run_resumed":
                self.is_awaiting = False
            case "step_finished":
                add_step(self.usage, self.model, event.step_finished.usage)
                self.message_id = ""
                self.signatures.append("")
            case "message_committed":
                self._message(event.message_committed.message)
            case "tool_call_requested":
                call = event.tool_call_requested.tool_call
                is_malformed = call.tool_call_id in self.malformed
                message_id = event.tool_call_requested.message_id
                self.calls[call.tool_call_id] = CallState(call, message_id, is_malformed=is_malformed, is_resumed=True)
            case "tool_call_started" | "tool_call_finished" | "tool_call_skipped" | "tool_call_cancelled":
                self._tool(event)
            case "approval_requested":
                requested = event.approval_requested
                state = self.calls.get(requested.tool_call.tool_call_id)
                if state is not None:
                    created, deadline = event.time.ToMicroseconds(), requested.deadline.ToMicroseconds()
                    default = requested.is_allowed_by_default
                    state.asked = AskedBefore(requested.approval_id, created, deadline, default)
            case "approval_resolved":
                resolved = event.approval_resolved
                for state in self.calls.values():
                    if state.asked is not None and state.asked.approval_id == resolved.approval_id:
                        decision = Decision(resolved.is_allowed, resolved.comment, resolved.actor)
                        state.asked = replace(state.asked, decision=decision)

    def _attempt(self, event: event_pb2.Event) -> None:
        """An attempt at the open step, or at the summary that is being written, is void."""
        discarded = event.attempt_discarded
        if event.HasField("retry_scheduled"):
            self.errors.append(event.retry_scheduled.error)
            if self.summary_id:
                self.summary_model = event.retry_scheduled.model
            else:
                self.model = event.retry_scheduled.model
                self.retry_at = event.time.ToMicroseconds() / 1e6 + seconds_of(event.retry_scheduled.delay)
            return
        if discarded.HasField("usage"):
            add_step(self.usage, self.summary_model if self.summary_id else self.model, discarded.usage)
        if discarded.message_id == self.message_id:
            self.attempt, self.retry_at = discarded.attempt + 1, 0.0
            self.losses += discarded.cause == PROCESS_LOST

    def _summary(self, event: event_pb2.Event) -> None:
        if event.HasField("summary_started"):
            self.summary_id, self.summary_model = event.summary_started.message_id, event.summary_started.model
            self.num_summaries += 1
            return
        ended = event.summary_finished if event.HasField("summary_finished") else event.summary_discarded
        if ended.HasField("usage"):
            add_step(self.usage, self.summary_model, ended.usage)
        self.summary_id = ""

    def _message(self, message: content_pb2.Message) -> None:
        self.message_ids.append(message.message_id)
        self.has_hint = self.has_hint or message.origin == content_pb2.MESSAGE_ORIGIN_STOP_HINT
        self.num_reprompts += message.origin == content_pb2.MESSAGE_ORIGIN_OUTPUT_INVALID
        if message.role == content_pb2.ROLE_TOOL:
            # The batch is whole: its signature takes the place of its step.
            if self.signatures:
                self.signatures[-1] = signature((state.call, state.result) for state in self.calls.values())
            self.calls.clear()
        elif message.role == content_pb2.ROLE_ASSISTANT:
            self.malformed = malformed(message.parts)
            self.model = message.model or self.model

    def _tool(self, event: event_pb2.Event) -> None:
        if event.HasField("tool_call_started"):
            started = event.tool_call_started
            state = self.calls.get(started.tool_call_id)
            if state is not None:
                state.started = state.started or event.time.ToMicroseconds() / 1e6
                state.num_starts += 1
                state.executor, state.replay_class = started.executor, started.replay_class
                state.reconnect_grace = seconds_of(started.reconnect_grace)
            return
        result = getattr(event, event.WhichOneof("payload") or "").result
        state = self.calls.get(result.tool_call_id)
        if state is not None:
            state.result = result
            state.is_turn_end = event.tool_call_finished.is_turn_end

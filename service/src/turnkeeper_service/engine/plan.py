"""What a turn is to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from turnkeeper.v1 import content_pb2, event_pb2, tool_service_pb2
from turnkeeper_service.providers.policy.retry import RetryPolicy
from turnkeeper_service.tools.base import ToolAnswer, Toolbox

from .approval import AskedBefore
from .contexts import Context
from .models import Models


@dataclass(slots=True)
class CallState:
    """One call of an answer.

    ``is_malformed``: the provider sent arguments that were not JSON. ``is_resumed``: a lost process had committed it.
    ``asked``: leave to run it was asked for by that process. ``num_starts``: so many of its tool_call_started are
    durable, or on their way; ``executor``, ``replay_class`` and ``reconnect_grace`` are what the last one says, and
    ``started`` is when the first one was, in wall-clock seconds.
    """

    call: content_pb2.ToolCall
    message_id: str
    result: content_pb2.ToolResult | None = None
    is_malformed: bool = False
    is_resumed: bool = False
    asked: AskedBefore | None = None
    num_starts: int = 0
    executor: str = ""
    replay_class: tool_service_pb2.ReplayClass.ValueType = tool_service_pb2.REPLAY_CLASS_UNSPECIFIED
    reconnect_grace: float = 0.0
    started: float = 0.0
    is_turn_end: bool = False

    @property
    def has_started(self) -> bool:
        """Whether it may have taken effect."""
        return self.num_starts > 0


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a turn goes on after its process was lost (U-16).

    ``step`` is the step to run. ``message_id`` is set where that step's stream was open: what was shown of ``attempt``
    is discarded and the step is run again. ``partial`` is what was flushed of it, part by part, as (kind, text).
    ``message_ids`` are those that the turn has committed, ``usage`` is what its finished steps used. ``calls`` are
    those of a batch that was under way, ``signatures`` what earlier steps did, for the loop detector. ``num_losses``
    counts the processes that were lost during this step. ``holders`` are the clients and workers whose tools the last
    step was offered, by name, each with the seconds that it is waited for.
    """

    step: int
    message_id: str = ""
    attempt: int = 0
    partial: Sequence[tuple[int, str]] = ()
    message_ids: Sequence[str] = ()
    calls: Sequence[CallState] = ()
    signatures: Sequence[str] = ()
    num_losses: int = 0
    holders: Mapping[str, float] = field(default_factory=dict)
    is_awaiting: bool = False
    """Whether the log says that the run waits for somebody outside."""
    has_hint: bool = False
    """Whether the hint of a stop is among the messages."""
    num_reprompts: int = 0
    """How often an answer that is no valid output was asked for again."""
    usage: content_pb2.RunUsage = field(default_factory=content_pb2.RunUsage)
    errors: Sequence[event_pb2.RunError] = ()
    """What was overcome before."""
    retry_at: float = 0.0
    """Until when, as wall-clock seconds, the open step's next attempt was to wait; it has not begun before."""
    summary_id: str = ""
    """The message of a summary that was being written."""
    covered_ids: Sequence[str] = ()
    """Messages that summaries of this turn stand for."""


@dataclass(frozen=True, slots=True)
class TurnPlan:
    """A floor turn. ``model`` is the one that it is for, as ``provider/model``; ``models`` also has its stand-ins.

    ``max_steps`` 0 allows none. ``max_answer_bytes`` bounds one step's answer.
    """

    run_id: str
    turn_id: str
    context: Context
    prompt: Sequence[content_pb2.Part]
    model: str
    models: Models
    retry: RetryPolicy
    parameters: content_pb2.ModelParameters
    system_prompt: str
    prompt_prefix: str
    tool_choice: str
    output_schema_json: str
    max_output_reprompts: int
    output_reprompt: str
    """What to tell the model where its answer is no valid output; empty for our own words."""
    is_summarized: bool
    """Whether the context is summarised when it gets full."""
    max_steps: int
    max_steered_steps: int
    max_answer_bytes: int
    session_hash: str
    tenant: str
    session_id: str
    toolbox: Toolbox
    tool_filter: Callable[[str], bool]
    """Which tools of the toolbox the session offers, by name."""
    is_pre_approved: Callable[[str], bool]
    """Whether a tool may run without asking, by name."""
    tool_timeout: float
    """Seconds that a call may take where its tool does not say."""
    max_tool_result_bytes: int
    cancel_grace: float
    detach: Callable[[asyncio.Task[ToolAnswer], content_pb2.ToolCall], None]
    """Takes over a tool that ignores its cancel (U-12)."""
    resume: Resume | None = None

    def event(self, attempt: int = 0) -> event_pb2.Event:
        """An event of the turn, for its payload to be set."""
        context_id = self.context.context_id
        return event_pb2.Event(run_id=self.run_id, turn_id=self.turn_id, context_id=context_id, attempt=attempt)


class TurnCancelledError(Exception):
    """An abort covers the run: the turn must not begin another step."""

"""What a turn is to do, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.providers.base import Provider


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a turn goes on after its process was lost (U-16).

    ``step`` is the step to run. ``message_id`` is set where that step's stream was open: what was shown of ``attempt``
    is discarded and the step is run again. ``partial`` is what was flushed of it, part by part, as (kind, text).
    ``message_ids`` are those that the turn has committed, ``usage`` is what its finished steps used. ``num_losses``
    counts the processes that were lost during this step.
    """

    step: int
    message_id: str = ""
    attempt: int = 0
    partial: Sequence[tuple[int, str]] = ()
    message_ids: Sequence[str] = ()
    num_losses: int = 0
    usage: content_pb2.RunUsage = field(default_factory=content_pb2.RunUsage)


@dataclass(frozen=True, slots=True)
class TurnPlan:
    """A floor turn of a prompt run. ``model`` is ``provider/model``, ``provider_model`` the vendor's own name.

    ``max_steps`` 0 allows none. ``max_answer_bytes`` bounds one step's answer.
    """

    run_id: str
    turn_id: str
    prompt: Sequence[content_pb2.Part]
    model: str
    provider: Provider
    provider_model: str
    parameters: content_pb2.ModelParameters
    system_prompt: str
    prompt_prefix: str
    tool_choice: str
    output_schema_json: str
    max_steps: int
    max_steered_steps: int
    max_answer_bytes: int
    session_hash: str
    resume: Resume | None = None


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """How a turn ended by itself. ``is_cancelled``: an abort came before its answer could conclude the run."""

    status: event_pb2.OutcomeStatus.ValueType
    reason: event_pb2.OutcomeReason.ValueType
    is_cancelled: bool = False
    errors: Sequence[event_pb2.RunError] = ()


class TurnCancelledError(Exception):
    """An abort covers the run: the turn must not begin another step."""

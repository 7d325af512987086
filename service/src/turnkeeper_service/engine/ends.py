"""How a turn ended: what its run's outcome will say unless a cancel or a deadline came first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.providers.base import ProviderError
from turnkeeper_service.store.base import StoreError

from .output import OutputMismatchError
from .plan import TurnPlan
from .step import StepAnswer
from .summary import ContextExhaustedError

COMPLETED = event_pb2.OUTCOME_STATUS_COMPLETED
FAILED = event_pb2.OUTCOME_STATUS_FAILED
_CUT_SHORT = {
    content_pb2.FINISH_REASON_MAX_TOKENS: event_pb2.OUTCOME_REASON_MAX_TOKENS,
    content_pb2.FINISH_REASON_CONTENT_FILTER: event_pb2.OUTCOME_REASON_CONTENT_FILTERED,
}


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """How a turn ends. ``failure`` is the model call that it failed by; it may say what was used."""

    status: event_pb2.OutcomeStatus.ValueType
    reason: event_pb2.OutcomeReason.ValueType
    errors: Sequence[event_pb2.RunError] = field(default=())
    failure: ProviderError | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the answer of its last step stands as it is."""
        return self.status == COMPLETED or self.reason in (
            event_pb2.OUTCOME_REASON_TOOL,
            event_pb2.OUTCOME_REASON_TOOL_LOOP,
        )


def is_cut_short(answer: StepAnswer) -> bool:
    """Whether the model was kept from saying all that it had to say."""
    return answer.message.finish_reason in _CUT_SHORT


def completed(
    answer: StepAnswer | None, *, is_at_limit: bool, reason: event_pb2.OutcomeReason.ValueType | None = None
) -> TurnEnd:
    """The turn has ended with this answer; ``answer`` None: no further step could be taken."""
    if reason is None:
        if answer is None or is_at_limit:
            reason = event_pb2.OUTCOME_REASON_STEP_LIMIT
        else:
            reason = _CUT_SHORT.get(answer.message.finish_reason, event_pb2.OUTCOME_REASON_ANSWERED)
    return TurnEnd(COMPLETED, reason)


def tool_loop(plan: TurnPlan) -> TurnEnd:
    """The model repeats itself (C-91)."""
    detail = "the model repeated the same tool calls with the same results"
    return failed(event_pb2.OUTCOME_REASON_TOOL_LOOP, "Tool loop", detail, turn_id=plan.turn_id)


def output_invalid(plan: TurnPlan, mismatch: OutputMismatchError) -> TurnEnd:
    """No answer was what the schema asks for (U-8)."""
    reason = event_pb2.OUTCOME_REASON_OUTPUT_INVALID
    return failed(reason, "Output invalid", mismatch.detail, turn_id=plan.turn_id)


def by_error(error: BaseException, turn_id: str) -> TurnEnd:
    """The turn ended by an exception. What is not of the model's making is a fault of ours, and says only its kind."""
    if isinstance(error, ContextExhaustedError):
        return failed(event_pb2.OUTCOME_REASON_CONTEXT_EXHAUSTED, "Context exhausted", str(error))
    if isinstance(error, ProviderError):
        reason = event_pb2.OutcomeReason.Value(f"OUTCOME_REASON_{error.reason}")
        return failed(reason, error.title, error.detail, http_status=error.status or 0, turn_id=turn_id, failure=error)
    if isinstance(error, StoreError):
        return failed(event_pb2.OUTCOME_REASON_INTERNAL, "Session not readable", str(error))
    return failed(event_pb2.OUTCOME_REASON_INTERNAL, "Internal error", type(error).__name__)


def failed(
    reason: event_pb2.OutcomeReason.ValueType,
    title: str,
    detail: str,
    *,
    http_status: int = 0,
    turn_id: str = "",
    failure: ProviderError | None = None,
) -> TurnEnd:
    """The turn failed for one reason."""
    error = event_pb2.RunError(reason=reason, title=title, detail=detail, http_status=http_status, turn_id=turn_id)
    return TurnEnd(FAILED, reason, [error], failure)

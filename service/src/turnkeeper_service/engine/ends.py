"""The ends of a turn that ends by itself: what its run's outcome will say."""

from __future__ import annotations

from turnkeeper.v1 import content_pb2, event_pb2

from .output import OutputMismatchError
from .plan import TurnEnd, TurnPlan
from .scheduling import Concluding
from .step import StepAnswer

_CUT_SHORT = {
    content_pb2.FINISH_REASON_MAX_TOKENS: event_pb2.OUTCOME_REASON_MAX_TOKENS,
    content_pb2.FINISH_REASON_CONTENT_FILTER: event_pb2.OUTCOME_REASON_CONTENT_FILTERED,
}


def is_cut_short(answer: StepAnswer) -> bool:
    """Whether the model was kept from saying all that it had to say."""
    return answer.message.finish_reason in _CUT_SHORT


def completed(
    concluding: Concluding,
    answer: StepAnswer | None,
    *,
    is_at_limit: bool,
    reason: event_pb2.OutcomeReason.ValueType | None = None,
) -> TurnEnd:
    """The turn has ended with this answer; ``answer`` None: no further step could be taken."""
    if reason is None:
        reason = event_pb2.OUTCOME_REASON_ANSWERED
        if concluding.is_stopped:
            reason = event_pb2.OUTCOME_REASON_STOPPED
        elif answer is None or is_at_limit:
            reason = event_pb2.OUTCOME_REASON_STEP_LIMIT
        else:
            reason = _CUT_SHORT.get(answer.message.finish_reason, reason)
    return TurnEnd(event_pb2.OUTCOME_STATUS_COMPLETED, reason, is_cancelled=concluding.is_cancelled)


def tool_loop(plan: TurnPlan) -> TurnEnd:
    """The model repeats itself (C-91)."""
    detail = "the model repeated the same tool calls with the same results"
    return _failed(plan, event_pb2.OUTCOME_REASON_TOOL_LOOP, "Tool loop", detail)


def output_invalid(plan: TurnPlan, mismatch: OutputMismatchError) -> TurnEnd:
    """No answer was what the schema asks for (U-8)."""
    return _failed(plan, event_pb2.OUTCOME_REASON_OUTPUT_INVALID, "Output invalid", mismatch.detail)


def _failed(plan: TurnPlan, reason: event_pb2.OutcomeReason.ValueType, title: str, detail: str) -> TurnEnd:
    error = event_pb2.RunError(reason=reason, title=title, detail=detail, turn_id=plan.turn_id)
    return TurnEnd(event_pb2.OUTCOME_STATUS_FAILED, reason, errors=[error])

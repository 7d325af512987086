"""The ends that a turn can come to, each from what ended it."""

from __future__ import annotations

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.context.summary import ContextExhaustedError
from turnkeeper_service.engine.steps.output import OutputMismatchError
from turnkeeper_service.engine.steps.step import StepAnswer
from turnkeeper_service.providers.base import ProviderError
from turnkeeper_service.store.errors import StoreError

from .plan import TurnPlan
from .turn_end import COMPLETED, TurnEnd, failed

_CUT_SHORT = {
    content_pb2.FINISH_REASON_MAX_TOKENS: event_pb2.OUTCOME_REASON_MAX_TOKENS,
    content_pb2.FINISH_REASON_CONTENT_FILTER: event_pb2.OUTCOME_REASON_CONTENT_FILTERED,
}


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

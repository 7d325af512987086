"""What a run's terminal says, and the messages of a run whose turn has left none."""

from __future__ import annotations

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.engine.turn_end import TurnEnd, failed
from turnkeeper_service.ids import short_id
from turnkeeper_service.runs.session.run import Run

MAX_LOSSES = 2
"""A step is run again at most so often after its process was lost (U-16)."""
CANCELLED = event_pb2.OUTCOME_STATUS_CANCELLED
EXPIRED = event_pb2.OUTCOME_STATUS_EXPIRED
RUN_DEADLINE = failed(event_pb2.OUTCOME_REASON_RUN_DEADLINE, "Run deadline", "the run took too long")
CUT = failed(event_pb2.OUTCOME_REASON_INTERNAL, "Turn cut", "the turn was cut without a cancel")
STRANDED = failed(event_pb2.OUTCOME_REASON_INTERNAL, "Not dispatched", "the run was accepted and never dispatched")
OLDER_VERSION = failed(
    event_pb2.OUTCOME_REASON_PROCESS_LOST, "Process lost", "an older version of the server had begun this run"
)
PROMPT_LOST = failed(event_pb2.OUTCOME_REASON_INTERNAL, "Prompt lost", "what is stored of the prompt cannot be read")
FAULT = failed(event_pb2.OUTCOME_REASON_INTERNAL, "Internal error", "the end of the run could not be written")


def cancelled(run: Run) -> event_pb2.Outcome:
    """The outcome that a run's cancel leads to."""
    outcome = event_pb2.Outcome(status=CANCELLED)
    if run.cancel is not None:
        outcome.reason = run.cancel.reason
        outcome.actor = run.cancel.actor
        outcome.superseded_by_run_id = run.cancel.superseded_by_run_id
    return outcome


def of_end(end: TurnEnd) -> event_pb2.Outcome:
    """The outcome of a turn that ended so."""
    return event_pb2.Outcome(status=end.status, reason=end.reason, errors=end.errors)


def floor_changed(run: Run) -> TurnEnd:
    """The prompt was meant for an agent that has not the floor any more (U-4)."""
    wanted = run.submission.preconditions.for_agent_id
    return failed(event_pb2.OUTCOME_REASON_FLOOR_CHANGED, "Floor changed", f"{wanted!r} has not the floor")


def refusal(run: Run) -> TurnEnd | None:
    """Why a run ends without a model call, None if it does not."""
    wanted = run.submission.preconditions.for_agent_id
    if wanted and wanted != run.session.settings.agent_id:
        return floor_changed(run)
    if run.resume is not None and run.resume.num_losses > MAX_LOSSES:
        return process_lost(run.resume.num_losses)
    return None


def process_lost(num_losses: int) -> TurnEnd:
    """The process was lost too often during one step (U-16)."""
    detail = f"the process was lost {num_losses} times during this step"
    return failed(event_pb2.OUTCOME_REASON_PROCESS_LOST, "Process lost", detail)


def error_text(end: TurnEnd) -> content_pb2.ErrorText | None:
    """What an answer that failed says of it."""
    return content_pb2.ErrorText(title=end.errors[0].title, detail=end.errors[0].detail) if end.errors else None


def unstarted_rows(
    run: Run,
    draft: Draft,
    status: content_pb2.MessageStatus.ValueType,
    *,
    in_context: bool,
    error: content_pb2.ErrorText | None = None,
) -> None:
    """Write the user's and the assistant's message of a prompt that made no request (U-28)."""
    if run.kind != event_pb2.RUN_KIND_PROMPT:
        return
    in_context = in_context and not run.is_lost
    run.write_prompt(draft, in_context=in_context)
    answer = content_pb2.Message(
        message_id=short_id("msg"),
        role=content_pb2.ROLE_ASSISTANT,
        status=status,
        run_id=run.run_id,
        context_id=run.session.context.context_id,
        in_context=in_context,
        error=error,
    )
    draft.message(answer, run_id=run.run_id)

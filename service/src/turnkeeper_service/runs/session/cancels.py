"""Cancels as the contract, the core and the store have them."""

from __future__ import annotations

from turnkeeper.v1 import event_pb2
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.runs.scheduler import Cancel

from .run import Run


def cancel_of(request: event_pb2.RunCancelRequested) -> Cancel:
    """A cancel request as the core takes it."""
    return Cancel(
        event_pb2.OutcomeReason.Name(request.reason).removeprefix("OUTCOME_REASON_"),
        actor=request.actor,
        mode="stop" if request.mode == event_pb2.CANCEL_MODE_STOP else "abort",
        superseded_by=request.superseded_by_run_id or None,
        rollback=request.is_rollback,
        unwind=request.is_unwind,
        hint=request.hint,
    )


def request_of(cancel: Cancel, turn_id: str = "") -> event_pb2.RunCancelRequested:
    """A cancel of the core as it is stored and told."""
    return event_pb2.RunCancelRequested(
        reason=event_pb2.OutcomeReason.Value(f"OUTCOME_REASON_{cancel.reason}"),
        actor=cancel.actor,
        mode=event_pb2.CANCEL_MODE_STOP if cancel.mode == "stop" else event_pb2.CANCEL_MODE_ABORT,
        superseded_by_run_id=cancel.superseded_by or "",
        is_rollback=cancel.rollback,
        is_unwind=cancel.unwind,
        hint=cancel.hint,
        turn_id=turn_id,
    )


def write_cancel(run: Run, request: event_pb2.RunCancelRequested, draft: Draft) -> None:
    """Write that a run is cancelled; from now on it is."""
    run.cancel = request
    draft.commit.cancel_runs.append((run.run_id, request.SerializeToString()))
    event = event_pb2.Event(run_id=run.run_id)
    event.run_cancel_requested.CopyFrom(request)
    draft.event(event)

"""What is kept of a run when its session is deleted: how it ended, and nothing that anybody wrote (U-18)."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from turnkeeper.v1 import event_pb2
from turnkeeper_service.store.base import RunRow

M = TypeVar("M", bound=Message)
_KEPT = (
    "status",
    "reason",
    "actor",
    "superseded_by_run_id",
    "fold",
    "message_id",
    "finish_reason",
    "usage",
    "awaiting_task_id",
    "awaiting_agent_id",
    "finish_time",
    "num_steps",
)
_KEPT_OF_ERRORS = ("reason", "http_status", "turn_id")
_KEPT_OF_RESULTS = ("task_id", "agent_id")
_KEPT_OF_CANCELS = ("reason", "actor", "mode", "turn_id", "is_rollback", "is_unwind", "superseded_by_run_id")


def reduced(row: RunRow) -> tuple[bytes | None, bytes]:
    """A finished run's cancel request and outcome as they are kept. Fields that are not named here are left out."""
    try:
        outcome = event_pb2.Outcome.FromString(row.outcome or b"")
        cancel = event_pb2.RunCancelRequested.FromString(row.cancel or b"")
    except DecodeError:
        # Whatever it was, it is not kept.
        return None, b""
    kept = _only(outcome, _KEPT)
    kept.errors.extend(_only(error, _KEPT_OF_ERRORS) for error in outcome.errors)
    kept.results.extend(_only(result, _KEPT_OF_RESULTS) for result in outcome.results)
    kept_cancel = None if row.cancel is None else _only(cancel, _KEPT_OF_CANCELS).SerializeToString()
    return kept_cancel, kept.SerializeToString()


def _only(message: M, names: tuple[str, ...]) -> M:
    """A copy of a message with these fields alone."""
    copy = type(message)()
    copy.CopyFrom(message)
    for field, _ in message.ListFields():
        if field.name not in names:
            copy.ClearField(field.name)
    return copy

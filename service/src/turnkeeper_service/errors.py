"""A call that is refused: one error for all layers, without a word of gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from turnkeeper.v1 import error_pb2
from turnkeeper_service.store.errors import StoreBusyError, StoreCorruptError, StoreError

Reason = error_pb2.ErrorReason


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that is not as it has to be."""

    field: str
    description: str


class Refused(Exception):
    """A call is refused and has changed nothing.

    ``reason`` names the cause for code, the message for people; ``metadata`` holds facts by name. ``retry_after`` is in
    seconds. ``limit`` names the bound that is reached, for the quota details. ``resource`` is (type, name) of what the
    call is about.
    """

    def __init__(
        self,
        reason: error_pb2.ErrorReason.ValueType,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
        limit: str | None = None,
        resource: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.limit = limit
        self.resource = resource


def session_not_found(session_id: str) -> Refused:
    """There is no such session, or it is another tenant's: both look alike."""
    return Refused(
        Reason.ERROR_REASON_SESSION_NOT_FOUND,
        f"no session {session_id!r}",
        resource=("turnkeeper.dev/Session", session_id),
    )


def session_deleting(session_id: str) -> Refused:
    """The session takes no more runs (U-18)."""
    return Refused(
        Reason.ERROR_REASON_SESSION_DELETING,
        f"session {session_id!r} is being deleted",
        metadata={"session_id": session_id},
    )


def cursor_expired(after_seq: int, oldest_seq: int) -> Refused:
    """Events that a reader asks for are not in the log any more."""
    return Refused(
        Reason.ERROR_REASON_CURSOR_EXPIRED,
        f"the events after seq {after_seq} are gone; the oldest is {oldest_seq}",
        metadata={"oldest_seq": str(oldest_seq)},
    )


def run_not_found(run_id: str) -> Refused:
    """There is no such run, or it is another tenant's: both look alike."""
    return Refused(Reason.ERROR_REASON_RUN_NOT_FOUND, f"no run {run_id!r}", resource=("turnkeeper.dev/Run", run_id))


def draining() -> Refused:
    """The server goes away; the next one will take the call."""
    return Refused(Reason.ERROR_REASON_DRAINING, "the server is draining; try again", retry_after=1.0)


def store_unavailable() -> Refused:
    """The store has failed; whether the call took effect is unknown, and the same run_id resolves it (U-14)."""
    return Refused(
        Reason.ERROR_REASON_STORE_UNAVAILABLE, "the store failed; ask again with the same ids", retry_after=1.0
    )


def store_busy() -> Refused:
    """The store is kept busy, or slow; what was handed over may still be written, and the same run_id tells."""
    return Refused(
        Reason.ERROR_REASON_STORE_UNAVAILABLE, "the store is busy; ask again with the same ids", retry_after=1.0
    )


def store_corrupt() -> Refused:
    """What is stored of it cannot be read. The log has the details, which may quote content."""
    return Refused(Reason.ERROR_REASON_STORE_CORRUPT, "what is stored of it cannot be read")


def refusal_of(error: StoreError) -> Refused:
    """What a caller is told where the store could not do what the call needs."""
    match error:
        case StoreCorruptError():
            return store_corrupt()
        case StoreBusyError():
            return store_busy()
        case _:
            return store_unavailable()


def invalid(field: str, description: str, *, reason: error_pb2.ErrorReason.ValueType | None = None) -> Refused:
    """One field is not as it has to be."""
    return Refused(
        reason if reason is not None else Reason.ERROR_REASON_INVALID_FIELD,
        f"{field}: {description}",
        violations=[Violation(field, description)],
    )

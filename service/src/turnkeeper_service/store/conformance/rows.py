"""Rows that the scenarios write."""

from __future__ import annotations

from turnkeeper_service.store.base import (
    Commit,
    EventRow,
    MessageRow,
    PartialRow,
    RunFinish,
    RunRow,
    RunState,
    SessionRow,
    SessionState,
    TombstoneRow,
)

TENANT = "acme"


def session(session_id: str = "s1", *, tenant: str = TENANT, state: SessionState = SessionState.ACTIVE) -> SessionRow:
    """A new session."""
    return SessionRow(tenant, session_id, state, 1_000, 1_000, 0, f"title of {session_id}", b"settings", b"usage")


def run(run_id: str, sequence: int, session_id: str = "s1", *, tenant: str = TENANT) -> RunRow:
    """A run that was just accepted."""
    return RunRow(
        tenant=tenant,
        run_id=run_id,
        session_id=session_id,
        accept_sequence=sequence,
        kind=1,
        delivery=2,
        state=RunState.QUEUED,
        fingerprint=b"fingerprint of " + run_id.encode(),
        submission=b"submission of " + run_id.encode(),
        created_us=2_000 + sequence,
        steers="r0",
        details=b"details",
    )


def event(seq: int, run_id: str = "r1", payload: bytes = b"") -> EventRow:
    """An event."""
    return EventRow(seq, run_id, 20 + seq % 5, payload or b"payload %d" % seq)


def message(seq: int, *, context_id: str = "main", run_id: str = "r1", in_context: bool = True) -> MessageRow:
    """The index entry of the message that event ``seq`` committed."""
    return MessageRow(seq, f"m{seq}", context_id, run_id, "t1", 1, in_context)


def partial(offset: int, content: bytes, *, run_id: str = "r1", attempt: int = 1, part: int = 0) -> PartialRow:
    """A flushed piece of text."""
    return PartialRow(run_id, "m1", attempt, part, 1, offset, content)


def tombstone(
    run_id: str, *, session_id: str = "", created_us: int = 5_000, cancel: bytes = b"cancel", tenant: str = TENANT
) -> TombstoneRow:
    """A cancel that came before its run."""
    return TombstoneRow(tenant, run_id, session_id, created_us, cancel)


def new_session(session_id: str = "s1", *runs: RunRow, tenant: str = TENANT) -> Commit:
    """A commit that makes a session, with runs in line."""
    row = session(session_id, tenant=tenant)
    return Commit(tenant, session_id, insert_session=row, insert_runs=list(runs))


def finish(run_id: str, outcome: bytes = b"outcome", session_id: str = "s1") -> Commit:
    """A commit that finishes a run."""
    return Commit(TENANT, session_id, finish_runs=[RunFinish(run_id, outcome, 9_000)])

"""What the readers execute, as driver SQL. Each function takes a connection of its thread first."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import Any

from turnkeeper_service.store.answers import Page
from turnkeeper_service.store.base import (
    Claim,
    EventRow,
    PartialRow,
    RunRow,
    RunState,
    SessionPage,
    SessionRow,
    SessionState,
    TombstoneRow,
)
from turnkeeper_service.store.slots import NUM_SLOTS

_SESSION = (
    "tenant, session_id, state, created_us, updated_us, last_seq, title, settings, usage, delete_us, context_tokens, "
    "todos"
)
_RUN = (
    "tenant, run_id, session_id, accept_sequence, kind, delivery, state, fingerprint, submission, created_us, "
    "started_us, finished_us, cancel, outcome, steers, details"
)
_LISTED_RUN = _RUN.replace("submission", "x'' AS submission")
ROW_BYTES = 512
"""What a row of a page counts for beside its long columns."""
_GET_SESSION = f"SELECT {_SESSION} FROM sessions WHERE tenant = ? AND session_id = ?"
_LIST_SESSIONS = f"""
SELECT {_SESSION}, ordinal FROM sessions WHERE tenant = ? AND ordinal > ? AND state < 3 ORDER BY ordinal LIMIT ?"""
_OWNED = "substr(?, slot + 1, 1) = x'01'"
"""Whether the slot of a row is one of those that a mask of a byte per slot has."""
_DELETING = f"SELECT {_SESSION} FROM sessions WHERE state = 2 AND {_OWNED} ORDER BY ordinal"
_IDLE = """
SELECT ordinal, tenant, session_id FROM sessions WHERE ordinal > ? AND state = 1 AND updated_us < ?
ORDER BY ordinal LIMIT ?"""
_GET_RUN = f"SELECT {_RUN} FROM runs WHERE tenant = ? AND run_id = ?"
_OPEN_RUNS = f"""
SELECT {_RUN} FROM runs WHERE state < 4 AND accept_sequence > ? AND {_OWNED} ORDER BY accept_sequence LIMIT ?"""
_EVENTS = """
SELECT seq, run_id, kind, payload FROM events WHERE tenant = ? AND session_id = ? AND seq > ? ORDER BY seq LIMIT ?"""
_RUN_EVENTS = """
SELECT seq, run_id, kind, payload FROM events
WHERE tenant = ?1 AND session_id = ?2 AND run_id = ?3
  AND seq > coalesce((SELECT first_seq FROM runs WHERE tenant = ?1 AND run_id = ?3), 0)
ORDER BY seq"""
# Told to, since without statistics SQLite takes the whole session's messages instead.
_CONTEXT = """
SELECT e.seq, e.run_id, e.kind, e.payload
FROM messages m INDEXED BY messages_in_context JOIN events e USING (tenant, session_id, seq)
WHERE m.tenant = ? AND m.session_id = ? AND m.context_id = ? AND m.in_context = 1 ORDER BY m.seq"""
_MESSAGES = """
SELECT e.seq, e.run_id, e.kind, e.payload, m.in_context
FROM messages m JOIN events e USING (tenant, session_id, seq)
WHERE m.tenant = ?1 AND m.session_id = ?2 AND m.seq > ?3 AND (?4 = '' OR m.context_id = ?4)
ORDER BY m.seq LIMIT ?5"""
_PARTIALS = """
SELECT run_id, message_id, attempt, part, kind, text_offset, content FROM partials WHERE tenant = ? AND run_id = ?
ORDER BY attempt, part, text_offset"""
_TOMBSTONES = "SELECT tenant, run_id, session_id, created_us, cancel FROM tombstones WHERE tenant = ? AND run_id = ?"


def get_epoch(connection: sqlite3.Connection) -> int:
    """The epoch of the owner."""
    (epoch,) = connection.execute("SELECT epoch FROM boot WHERE id = 1").fetchone()
    return int(epoch)


def get_session(connection: sqlite3.Connection, tenant: str, session_id: str) -> SessionRow | None:
    """See `Store.get_session`."""
    row = connection.execute(_GET_SESSION, (tenant, session_id)).fetchone()
    return None if row is None else _session(row)


def _page(
    rows: sqlite3.Cursor, limit: int, max_bytes: int, size: Callable[[tuple[Any, ...]], int]
) -> Page[tuple[Any, ...]]:
    """The rows of a page; ``rows`` has one more than the limit where there are more."""
    taken: list[tuple[Any, ...]] = []
    for row in rows:
        max_bytes -= ROW_BYTES + size(row)
        if len(taken) == limit or (taken and max_bytes < 0):
            # An unfinished statement would hold its snapshot, and with it the log.
            rows.close()
            return Page(taken, has_more=True)
        taken.append(row)
    return Page(taken, has_more=False)


def list_sessions(connection: sqlite3.Connection, tenant: str, after: int, limit: int, max_bytes: int) -> SessionPage:
    """See `Store.list_sessions`."""
    rows = connection.execute(_LIST_SESSIONS, (tenant, after, limit + 1))
    page = _page(rows, limit, max_bytes, lambda row: sum(len(row[column]) for column in (6, 7, 8, 10, 11)))
    next_after = str(page.rows[-1][-1]) if page.has_more else ""
    return SessionPage([_session(row[:-1]) for row in page.rows], next_after)


def _mask(slots: Collection[int]) -> bytes:
    return bytes(slot in slots for slot in range(NUM_SLOTS))


def deleting_sessions(connection: sqlite3.Connection, slots: Collection[int]) -> list[SessionRow]:
    """See `Store.deleting_sessions`."""
    return [_session(row) for row in connection.execute(_DELETING, (_mask(slots),))]


def idle_sessions(connection: sqlite3.Connection, before_us: int, after: int, limit: int) -> list[tuple[int, str, str]]:
    """See `Store.idle_sessions`."""
    return connection.execute(_IDLE, (after, before_us, limit)).fetchall()


def get_run(connection: sqlite3.Connection, tenant: str, run_id: str) -> RunRow | None:
    """See `Store.get_run`."""
    row = connection.execute(_GET_RUN, (tenant, run_id)).fetchone()
    return None if row is None else _run(row)


def list_runs(
    connection: sqlite3.Connection,
    tenant: str,
    session_id: str,
    after: int,
    limit: int,
    max_bytes: int,
    states: Sequence[RunState],
) -> Page[RunRow]:
    """See `Store.list_runs`."""
    chosen = f"AND state IN ({', '.join('?' * len(states))})" if states else ""
    statement = f"""
        SELECT {_LISTED_RUN} FROM runs WHERE tenant = ? AND session_id = ? AND accept_sequence > ? {chosen}
        ORDER BY accept_sequence LIMIT ?"""
    rows = connection.execute(statement, (tenant, session_id, after, *map(int, states), limit + 1))
    page = _page(rows, limit, max_bytes, lambda row: len(row[12] or b"") + len(row[13] or b""))
    return Page([_run(row) for row in page.rows], page.has_more)


def open_runs(connection: sqlite3.Connection, slots: Collection[int], after: int, limit: int) -> list[RunRow]:
    """See `Store.open_runs`."""
    return [_run(row) for row in connection.execute(_OPEN_RUNS, (after, _mask(slots), limit))]


def read_events(
    connection: sqlite3.Connection, tenant: str, session_id: str, after_seq: int, limit: int, max_bytes: int
) -> list[EventRow]:
    """See `Store.read_events`; rows behind the bound are never fetched."""
    events: list[EventRow] = []
    cursor = connection.execute(_EVENTS, (tenant, session_id, after_seq, limit))
    for row in cursor:
        events.append(EventRow(*row))
        max_bytes -= len(row[3])
        if max_bytes <= 0:
            break
    # An unfinished statement would hold its snapshot, and with it the log.
    cursor.close()
    return events


def read_run_events(connection: sqlite3.Connection, tenant: str, session_id: str, run_id: str) -> list[EventRow]:
    """See `Store.read_run_events`."""
    return [EventRow(*row) for row in connection.execute(_RUN_EVENTS, (tenant, session_id, run_id))]


def read_context(connection: sqlite3.Connection, tenant: str, session_id: str, context_id: str) -> list[EventRow]:
    """See `Store.read_context`."""
    return [EventRow(*row) for row in connection.execute(_CONTEXT, (tenant, session_id, context_id))]


def list_messages(
    connection: sqlite3.Connection,
    tenant: str,
    session_id: str,
    context_id: str,
    after_seq: int,
    limit: int,
    max_bytes: int,
) -> Page[tuple[EventRow, bool]]:
    """See `Store.list_messages`."""
    rows = connection.execute(_MESSAGES, (tenant, session_id, after_seq, context_id, limit + 1))
    page = _page(rows, limit, max_bytes, lambda row: len(row[3]))
    return Page([(EventRow(*event), bool(in_context)) for *event, in_context in page.rows], page.has_more)


def read_partials(connection: sqlite3.Connection, tenant: str, run_id: str) -> list[PartialRow]:
    """See `Store.read_partials`."""
    return [PartialRow(*row) for row in connection.execute(_PARTIALS, (tenant, run_id))]


def find_claimed(connection: sqlite3.Connection, tenant: str, run_id: str) -> Claim:
    """See `Store.claim_run`."""
    tombstones = [TombstoneRow(*row) for row in connection.execute(_TOMBSTONES, (tenant, run_id))]
    tombstones.sort(key=lambda row: row.created_us, reverse=True)
    return Claim(get_run(connection, tenant, run_id), tombstones)


def _session(row: tuple[object, ...]) -> SessionRow:
    tenant, session_id, state, *rest = row
    return SessionRow(tenant, session_id, SessionState(state), *rest)  # type: ignore[arg-type]


def _run(row: tuple[object, ...]) -> RunRow:
    return RunRow(*row[:6], RunState(row[6]), *row[7:])  # type: ignore[call-arg,arg-type]

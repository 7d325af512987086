"""Turns commits into rows for as few statements as possible, without changing what the commits mean in their order.

Rows of equal shape are gathered over all commits and go out by one `executemany` each. That runs, say, every insert
before every update, so each rule below says why the end is the same as commit by commit:

- Runs: inserting, starting, cancelling and finishing touch different columns and only go forward. Only a cancel or a
  start after a finish must not overtake it; those would change nothing, and are dropped here. Reducing them follows.
- Sessions: the last value of each column wins, so changes are merged; they follow the inserts. What the first expects
  to find is checked; what the others expect has to follow from the one before.
- Events that are completed want submissions, which only erasing changes: they follow all other events.
- Partial text: dropping forgets what the plan holds of the run and deletes what is stored, before anything is inserted.
- Tombstones are only dropped here.
- Erasing comes last, and ends the plan: commits behind it go into the next one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from turnkeeper_service.store import statements as sql
from turnkeeper_service.store.base import Commit, EventRow, SessionRow
from turnkeeper_service.store.errors import StoreError
from turnkeeper_service.store.reading import is_damage

Row = tuple[object, ...]
Key = tuple[str, str]


class Plan:
    """Rows of some commits, by statement."""

    def __init__(self) -> None:
        self.max_sequence = 0
        self.rows = 0
        self._sessions: list[Row] = []
        self._runs: list[Row] = []
        self._starts: list[Row] = []
        self._cancels: list[Row] = []
        self._finishes: list[Row] = []
        self._finished: set[Key] = set()
        self._reduced: list[Row] = []
        self._events: list[Row] = []
        self._incomplete: list[tuple[str, str, EventRow]] = []
        self._messages: list[Row] = []
        self._contexts: list[Row] = []
        self._drops: set[Key] = set()
        self._partials: dict[Key, list[Row]] = {}
        self._changes: dict[Key, list[object]] = {}
        self._expected: dict[Key, int] = {}
        self._last_seq: dict[Key, int] = {}
        self._tombstones: set[Key] = set()
        self._erase: Row | None = None

    @property
    def full(self) -> bool:
        """Nothing may be added any more."""
        return self._erase is not None

    def add(self, commit: Commit) -> None:
        """Add a commit behind the ones that are in."""
        tenant, session_id = key = (commit.tenant, commit.session_id)
        if commit.insert_session is not None:
            self._sessions.append((*_session_values(commit.insert_session), commit.slot))
            self.rows += 1
        if commit.insert_runs or commit.start_runs or commit.cancel_runs or commit.finish_runs:
            self._add_runs(commit)
        for run_id, cancel, outcome in commit.reduce_runs:
            self._reduced.append((cancel, outcome, tenant, run_id))
        self.rows += len(commit.reduce_runs)
        for event in commit.events:
            if event.completion is not None:
                self._incomplete.append((tenant, session_id, event))
                continue
            self._events.append((tenant, session_id, event.seq, event.run_id, event.kind, event.payload))
        for m in commit.messages:
            self._messages.append(
                (tenant, session_id, m.seq, m.message_id, m.context_id, m.run_id, m.turn_id, m.role, int(m.in_context))
            )
        for message_id, in_context in commit.message_contexts:
            self._contexts.append((int(in_context), tenant, session_id, message_id))
        self.rows += len(commit.events) + len(commit.messages) + len(commit.message_contexts)
        if commit.partials or commit.drop_partials:
            self._add_partials(commit)
        self._add_changes(key, commit)
        for run_id in commit.drop_tombstones:
            self._tombstones.add((tenant, run_id))
        self.rows += len(commit.drop_tombstones)
        if commit.erase_session_us is not None:
            self._erase = (commit.erase_session_us, tenant, session_id)

    def _add_runs(self, commit: Commit) -> None:
        tenant, finished = commit.tenant, self._finished
        for r in commit.insert_runs:
            if r.accept_sequence > self.max_sequence:
                self.max_sequence = r.accept_sequence
            self._runs.append(
                (
                    r.tenant, r.run_id, r.session_id, r.accept_sequence, r.kind, r.delivery, int(r.state),
                    r.fingerprint, r.submission, r.created_us, r.started_us, r.finished_us, r.cancel, r.outcome,
                    r.steers, r.details, commit.slot,
                )
            )  # fmt: skip
        for run_id, started_us in commit.start_runs:
            if (tenant, run_id) not in finished:
                self._starts.append((started_us, tenant, run_id))
        for run_id, cancel in commit.cancel_runs:
            if (tenant, run_id) not in finished:
                self._cancels.append((cancel, tenant, run_id))
        for finish in commit.finish_runs:
            finished.add((tenant, finish.run_id))
            self._finishes.append((finish.outcome, finish.finished_us, tenant, finish.run_id))
        self.rows += len(commit.insert_runs) + len(commit.start_runs)
        self.rows += len(commit.cancel_runs) + len(commit.finish_runs)

    def _add_partials(self, commit: Commit) -> None:
        tenant, session_id = commit.tenant, commit.session_id
        for p in commit.partials:
            self._partials.setdefault((tenant, p.run_id), []).append(
                (tenant, session_id, p.run_id, p.message_id, p.attempt, p.part, p.kind, p.offset, p.content)
            )
        for run_id in commit.drop_partials:
            self._partials.pop((tenant, run_id), None)
            self._drops.add((tenant, run_id))
        self.rows += len(commit.partials) + len(commit.drop_partials)

    def _add_changes(self, key: Key, commit: Commit) -> None:
        last_seq = commit.events[-1].seq if commit.events else None
        values = (
            last_seq,
            commit.updated_us,
            None if commit.session_state is None else int(commit.session_state),
            commit.session_title,
            commit.session_settings,
            commit.session_usage,
            commit.session_context_tokens,
            commit.session_todos,
        )
        if commit.expected_seq is not None:
            self._expect(key, commit.expected_seq)
        elif not any(value is not None for value in values):
            return
        if last_seq is not None:
            self._last_seq[key] = last_seq
        self.rows += 1
        before = self._changes.get(key)
        if before is None:
            self._changes[key] = list(values)
            return
        for place, value in enumerate(values):
            if value is not None:
                before[place] = value

    def _expect(self, key: Key, seq: int) -> None:
        known = self._last_seq.get(key)
        if known is None:
            self._expected[key] = seq
        elif known != seq:
            raise _mismatch(key)
        self._last_seq[key] = seq

    def apply(self, cursor: sqlite3.Cursor) -> None:
        """Execute inside the open transaction."""
        self._apply_runs(cursor)
        if self._events:
            cursor.executemany(sql.INSERT_EVENT, self._events)
        for tenant, session_id, event in self._incomplete:
            # One by one: they may be large, and are in memory here alone.
            payload = _completed(cursor, tenant, event)
            cursor.execute(sql.INSERT_EVENT, (tenant, session_id, event.seq, event.run_id, event.kind, payload))
        if self._messages:
            cursor.executemany(sql.INSERT_MESSAGE, self._messages)
        if self._contexts:
            cursor.executemany(sql.SET_IN_CONTEXT, self._contexts)
        if self._drops:
            cursor.executemany(sql.DROP_PARTIALS, self._drops)
        if self._partials:
            cursor.executemany(sql.INSERT_PARTIAL, [piece for pieces in self._partials.values() for piece in pieces])
        if self._changes:
            self._apply_changes(cursor)
        if self._tombstones:
            cursor.executemany(sql.DROP_TOMBSTONES, self._tombstones)
        if self._erase is not None:
            self._apply_erase(cursor, self._erase)

    def _apply_runs(self, cursor: sqlite3.Cursor) -> None:
        if self._sessions:
            cursor.executemany(sql.INSERT_SESSION, self._sessions)
        if self._runs:
            cursor.executemany(sql.INSERT_RUN, self._runs)
        if self._starts:
            cursor.executemany(sql.START_RUN, self._starts)
        if self._cancels:
            cursor.executemany(sql.CANCEL_RUN, self._cancels)
        if self._finishes:
            cursor.executemany(sql.FINISH_RUN, self._finishes)
            if cursor.rowcount != len(self._finishes):
                raise StoreError("a run was to be finished that is not open")
        if self._reduced:
            with _secretly(cursor):
                cursor.executemany(sql.REDUCE_RUN, self._reduced)

    def _apply_changes(self, cursor: sqlite3.Cursor) -> None:
        rows = [(*values, *key, self._expected.get(key)) for key, values in self._changes.items()]
        cursor.executemany(sql.CHANGE_SESSION, rows)
        if self._expected and cursor.rowcount != len(rows):
            # Of a session that is not there nobody expects anything, and there is nothing to change.
            for key in self._expected:
                if cursor.execute(sql.HAS_LAST_SEQ, (*key, self._last_seq[key])).fetchone() is None:
                    raise _mismatch(key)

    def _apply_erase(self, cursor: sqlite3.Cursor, erase: Row) -> None:
        with _secretly(cursor):
            for statement in sql.ERASE:
                cursor.execute(statement, erase[1:])
            cursor.execute(sql.ERASE_SESSION, erase)


@contextmanager
def _secretly(cursor: sqlite3.Cursor) -> Iterator[None]:
    cursor.execute(sql.ERASE_BEGIN)
    try:
        yield
    finally:
        cursor.execute(sql.ERASE_END)


def _completed(cursor: sqlite3.Cursor, tenant: str, event: EventRow) -> bytes:
    """The payload of an event that wants a submission. One that is damaged must not cost the whole commit."""
    completion = event.completion
    assert completion is not None
    stored: object = None
    try:
        row = cursor.execute(sql.SUBMISSION, (tenant, completion.run_id)).fetchone()
        stored = row[0] if row is not None else None
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
    return completion.written(event.payload, stored if isinstance(stored, bytes) else None)


def _mismatch(key: Key) -> StoreError:
    return StoreError(f"the log of session {key[1]} is not where it was expected to be")


def _session_values(s: SessionRow) -> Row:
    return (
        s.tenant, s.session_id, int(s.state), s.created_us, s.updated_us, s.last_seq, s.title, s.settings, s.usage,
        s.delete_us, s.context_tokens, s.todos,
    )  # fmt: skip

"""What the writer executes, as driver SQL.

By the driver's cursor, not SQLAlchemy's `exec_driver_sql`: that adds 4 to 5 µs per statement and 10 µs per look-up
(`bench/store.py` prints the former). A turn alone makes some ten commits of some six statements, so it would be 16 % of
the 1.7 ms that a turn may cost.
"""

from __future__ import annotations

# The fence and the largest accept sequence in one statement: no row changes once another owner has taken over.
FENCE = "UPDATE boot SET last_sequence = max(last_sequence, ?) WHERE id = 1 AND epoch = ?"

INSERT_SESSION = """
INSERT INTO sessions
  (tenant, session_id, state, created_us, updated_us, last_seq, title, settings, usage, delete_us, context_tokens,
   todos, slot)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

INSERT_RUN = """
INSERT INTO runs
  (tenant, run_id, session_id, accept_sequence, kind, delivery, state, fingerprint, submission, created_us,
   started_us, finished_us, cancel, outcome, steers, details, slot, first_seq)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
  coalesce((SELECT last_seq FROM sessions WHERE tenant = ?1 AND session_id = ?3), 0))"""

START_RUN = "UPDATE runs SET state = 2, started_us = ? WHERE tenant = ? AND run_id = ? AND state = 1"
CANCEL_RUN = "UPDATE runs SET cancel = ? WHERE tenant = ? AND run_id = ? AND state < 4"
FINISH_RUN = "UPDATE runs SET state = 4, outcome = ?, finished_us = ? WHERE tenant = ? AND run_id = ? AND state < 4"

REDUCE_RUN = "UPDATE runs SET cancel = ?, outcome = ? WHERE tenant = ? AND run_id = ? AND state = 4"

INSERT_EVENT = "INSERT INTO events (tenant, session_id, seq, run_id, kind, payload) VALUES (?, ?, ?, ?, ?, ?)"

SUBMISSION = "SELECT submission FROM runs WHERE tenant = ? AND run_id = ?"

INSERT_MESSAGE = """
INSERT INTO messages (tenant, session_id, seq, message_id, context_id, run_id, turn_id, role, in_context)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""

SET_IN_CONTEXT = "UPDATE messages SET in_context = ? WHERE tenant = ? AND session_id = ? AND message_id = ?"

# A piece that is flushed again replaces itself.
INSERT_PARTIAL = """
INSERT OR REPLACE INTO partials
  (tenant, session_id, run_id, message_id, attempt, part, kind, text_offset, content)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""

DROP_PARTIALS = "DELETE FROM partials WHERE tenant = ? AND run_id = ?"

CHANGE_SESSION = """
UPDATE sessions SET last_seq = coalesce(?, last_seq), updated_us = coalesce(?, updated_us), state = coalesce(?, state),
  title = coalesce(?, title), settings = coalesce(?, settings), usage = coalesce(?, usage),
  context_tokens = coalesce(?, context_tokens), todos = coalesce(?, todos)
WHERE tenant = ? AND session_id = ? AND last_seq = coalesce(?, last_seq)"""
HAS_LAST_SEQ = "SELECT 1 FROM sessions WHERE tenant = ? AND session_id = ? AND last_seq = ?"

# A tombstone that is laid again is renewed; a clock that went back must not age it.
LAY_TOMBSTONE = """
INSERT INTO tombstones (tenant, run_id, session_id, created_us, cancel)
SELECT ?1, ?2, ?3, ?4, ?5
WHERE NOT EXISTS (SELECT 1 FROM runs WHERE tenant = ?1 AND run_id = ?2)
  AND ((SELECT count(*) FROM tombstones WHERE tenant = ?1) < ?6
    OR EXISTS (SELECT 1 FROM tombstones WHERE tenant = ?1 AND run_id = ?2 AND session_id = ?3))
ON CONFLICT (tenant, run_id, session_id)
DO UPDATE SET created_us = max(created_us, excluded.created_us), cancel = excluded.cancel"""
HAS_RUN = "SELECT 1 FROM runs WHERE tenant = ? AND run_id = ?"

DROP_TOMBSTONES = "DELETE FROM tombstones WHERE tenant = ? AND run_id = ?"

# Deleted content must not stay behind. Overwriting free pages costs too much to be on for flushed text; what is deleted
# inside of a page is always overwritten.
ERASE_BEGIN = "PRAGMA secure_delete = ON"
ERASE_END = "PRAGMA secure_delete = FAST"
COUNT_FREE = "PRAGMA freelist_count"
FREE_AT_ONCE = 256
"""Pages given back by one transaction, which commits may have to wait for."""
GIVE_BACK = f"PRAGMA incremental_vacuum({FREE_AT_ONCE})"
CUT_LOG = "PRAGMA wal_checkpoint(TRUNCATE)"
IMPATIENT = "PRAGMA busy_timeout = 50"
PATIENT = "PRAGMA busy_timeout = 2000"
ERASE = (
    "DELETE FROM events WHERE tenant = ? AND session_id = ?",
    "DELETE FROM messages WHERE tenant = ? AND session_id = ?",
    "DELETE FROM partials WHERE tenant = ? AND session_id = ?",
    "UPDATE runs SET submission = x'' WHERE tenant = ? AND session_id = ?",
    "DELETE FROM tombstones WHERE tenant = ?1 AND session_id = ?2",
)
ERASE_SESSION = """
UPDATE sessions SET state = 3, delete_us = ?, title = '', settings = x'', todos = x''
WHERE tenant = ? AND session_id = ?"""

_SWEPT = "(SELECT tenant, session_id FROM sessions WHERE state = 3 AND delete_us < ?)"
SWEEP_COUNTED = (
    "DELETE FROM tombstones WHERE created_us < ?",
    f"DELETE FROM runs WHERE (tenant, session_id) IN {_SWEPT}",
)
# Nothing should be left of an erased session; if it were, the id's next session would trip over it.
SWEEP_REST = tuple(
    f"DELETE FROM {table} WHERE (tenant, session_id) IN {_SWEPT}" for table in ("events", "messages", "partials")
)
SWEEP_SESSIONS = "DELETE FROM sessions WHERE state = 3 AND delete_us < ?"

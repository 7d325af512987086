"""The tables of the store, as the newest migration leaves them.

Only migrations and tests import this; the hot path speaks driver SQL (`statements.py`, `queries.py`). Tables that are
read in the order of their key are clustered (`WITHOUT ROWID`). Tables whose rows carry a prompt or a flushed text keep
a rowid, since SQLite fills an index page badly with long rows.
"""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, MetaData, Table, Text, UniqueConstraint, text

METADATA = MetaData()


def _text(name: str, *, key: bool = False) -> Column[str]:
    return Column(name, Text, nullable=False, primary_key=key)


def _integer(name: str, *, key: bool = False, null: bool = False) -> Column[int]:
    return Column(name, Integer, nullable=null, primary_key=key, autoincrement=False)


def _bytes(name: str, *, null: bool = False, is_empty: bool = False) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=null, server_default=text("x''") if is_empty else None)


# One row. `last_sequence` outlives the runs that carried it, so that a swept run's place is not given again.
BOOT = Table("boot", METADATA, _integer("id", key=True), _integer("epoch"), _integer("last_sequence"))

# `ordinal` is the order of creation and what a page position holds; it is not given again either. `slot` follows from
# the id (`slots.py`), and is there to be asked for.
SESSIONS = Table(
    "sessions",
    METADATA,
    Column("ordinal", Integer, primary_key=True, autoincrement=True),
    _text("tenant"),
    _text("session_id"),
    _integer("state"),
    _integer("created_us"),
    _integer("updated_us"),
    _integer("last_seq"),
    _text("title"),
    _bytes("settings"),
    _bytes("usage"),
    _integer("delete_us", null=True),
    _bytes("context_tokens", is_empty=True),
    _bytes("todos", is_empty=True),
    Column("slot", Integer, nullable=False, server_default=text("0")),
    UniqueConstraint("tenant", "session_id", name="sessions_by_id"),
    Index("sessions_by_creation", "tenant", "ordinal"),
    Index("sessions_deleting", "ordinal", "slot", sqlite_where=text("state = 2")),
    Index("sessions_deleted", "delete_us", sqlite_where=text("state = 3")),
    sqlite_autoincrement=True,
)

# `first_seq` is a bound below the run's events: they can be read in one range without an index of their own.
RUNS = Table(
    "runs",
    METADATA,
    _text("tenant"),
    _text("run_id"),
    _text("session_id"),
    _integer("accept_sequence"),
    _integer("kind"),
    _integer("delivery"),
    _integer("state"),
    _bytes("fingerprint"),
    _bytes("submission"),
    _integer("created_us"),
    _integer("started_us", null=True),
    _integer("finished_us", null=True),
    _bytes("cancel", null=True),
    _bytes("outcome", null=True),
    Column("steers", Text, nullable=True),
    _bytes("details"),
    _integer("first_seq"),
    Column("slot", Integer, nullable=False, server_default=text("0")),
    UniqueConstraint("tenant", "run_id", name="runs_by_id"),
    Index("runs_by_session", "tenant", "session_id", "accept_sequence"),
    Index("runs_open", "accept_sequence", "slot", sqlite_where=text("state < 4")),
)

EVENTS = Table(
    "events",
    METADATA,
    _text("tenant", key=True),
    _text("session_id", key=True),
    _integer("seq", key=True),
    _text("run_id"),
    _integer("kind"),
    _bytes("payload"),
    sqlite_with_rowid=False,
)

MESSAGES = Table(
    "messages",
    METADATA,
    _text("tenant", key=True),
    _text("session_id", key=True),
    _integer("seq", key=True),
    _text("message_id"),
    _text("context_id"),
    _text("run_id"),
    _text("turn_id"),
    _integer("role"),
    _integer("in_context"),
    UniqueConstraint("tenant", "session_id", "message_id", name="messages_by_id"),
    Index("messages_in_context", "tenant", "session_id", "context_id", "seq", sqlite_where=text("in_context = 1")),
    sqlite_with_rowid=False,
)

PARTIALS = Table(
    "partials",
    METADATA,
    _text("tenant"),
    _text("session_id"),
    _text("run_id"),
    _text("message_id"),
    _integer("attempt"),
    _integer("part"),
    _integer("kind"),
    _integer("text_offset"),
    _bytes("content"),
    UniqueConstraint("tenant", "run_id", "attempt", "part", "text_offset", "message_id", name="partials_by_place"),
    Index("partials_by_session", "tenant", "session_id"),
)

TOMBSTONES = Table(
    "tombstones",
    METADATA,
    _text("tenant", key=True),
    _text("run_id", key=True),
    _text("session_id", key=True),
    _integer("created_us"),
    _bytes("cancel"),
    sqlite_with_rowid=False,
)

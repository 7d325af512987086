"""A cancel of a run not seen yet is kept for each session that it named."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

_STATEMENTS = (
    "ALTER TABLE tombstones RENAME TO tombstones_before",
    """CREATE TABLE tombstones (
        tenant TEXT NOT NULL, run_id TEXT NOT NULL, session_id TEXT NOT NULL,
        created_us INTEGER NOT NULL, cancel BLOB NOT NULL,
        PRIMARY KEY (tenant, run_id, session_id)) WITHOUT ROWID""",
    "INSERT INTO tombstones SELECT * FROM tombstones_before",
    "DROP TABLE tombstones_before",
)


def upgrade() -> None:
    """Take the tombstones over into a table of the new key."""
    for statement in _STATEMENTS:
        op.execute(statement)

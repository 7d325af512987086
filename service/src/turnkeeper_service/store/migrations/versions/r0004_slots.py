"""The slot of each session and run, and what recovery and deletion ask for by slot."""

from __future__ import annotations

import sqlite3

from alembic import op

from turnkeeper_service.store.slots import slot_of

revision = "0004"
down_revision = "0003"

_STATEMENTS = (
    "ALTER TABLE sessions ADD COLUMN slot INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE runs ADD COLUMN slot INTEGER NOT NULL DEFAULT 0",
    "UPDATE sessions SET slot = slot_of(tenant, session_id)",
    "UPDATE runs SET slot = slot_of(tenant, session_id)",
    "DROP INDEX sessions_deleting",
    "DROP INDEX runs_open",
    "CREATE INDEX sessions_deleting ON sessions (ordinal, slot) WHERE state = 2",
    "CREATE INDEX runs_open ON runs (accept_sequence, slot) WHERE state < 4",
)


def upgrade() -> None:
    """Add the columns, and fill them for what there is."""
    driver = op.get_bind().connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.create_function("slot_of", 2, slot_of, deterministic=True)
    for statement in _STATEMENTS:
        op.execute(statement)

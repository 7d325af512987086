"""What a session's main context holds, and the todos of its models."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

_STATEMENTS = (
    "ALTER TABLE sessions ADD COLUMN context_tokens BLOB NOT NULL DEFAULT x''",
    "ALTER TABLE sessions ADD COLUMN todos BLOB NOT NULL DEFAULT x''",
)


def upgrade() -> None:
    """Add the columns; sessions of before have no todos, and the size of their context is told by their next step."""
    for statement in _STATEMENTS:
        op.execute(statement)

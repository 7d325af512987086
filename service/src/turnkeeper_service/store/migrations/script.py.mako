"""${message}."""

from __future__ import annotations

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Go one revision up. There is no way down: restore a copy of the database."""
    ${upgrades if upgrades else "pass"}

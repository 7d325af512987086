"""Runs the migrations on the connection that the store hands over; Alembic loads this file by its path."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from turnkeeper_service.store.schema import METADATA

connection = context.config.attributes["connection"]
if not isinstance(connection, Connection):
    raise TypeError("migrations run on a connection of the store")
context.configure(connection=connection, target_metadata=METADATA)
# The store holds the one transaction around all of them: a crash in between leaves the old revision.
context.run_migrations()

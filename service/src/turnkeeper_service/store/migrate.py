"""Brings a database to the newest revision.

Alembic and SQLAlchemy are imported only where there is something to migrate: any other start is spared their cost.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0004"
"""The newest revision; a test holds it against the migrations."""

_SCHEMA = Path(__file__).parent / "schema.sql"
_SCRIPTS = Path(__file__).parent / "migrations"
# Alembic keeps the running environment in module globals.
_ONE_AT_A_TIME = threading.Lock()


def is_known(revision: str) -> bool:
    """Whether this version can read or migrate a database of that revision."""
    if revision == HEAD:
        return True
    from alembic.script import ScriptDirectory

    return any(script.revision == revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def create(driver: sqlite3.Connection) -> None:
    """Make the tables of the newest revision in an empty database."""
    driver.executescript(f"BEGIN IMMEDIATE;\n{_SCHEMA.read_text(encoding='utf-8')}COMMIT;")


def upgrade(driver: sqlite3.Connection) -> None:
    """Run what is missing, all of it in one transaction."""
    from alembic import command
    from sqlalchemy import create_engine
    from sqlalchemy.pool import StaticPool

    # With the driver in autocommit mode SQLAlchemy begins nothing on its own, and Alembic, which finds a
    # transaction open, commits nothing on its own.
    engine = create_engine("sqlite://", creator=lambda: driver, poolclass=StaticPool, isolation_level="AUTOCOMMIT")
    with _ONE_AT_A_TIME, engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config

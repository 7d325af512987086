"""What the store holds, read past the server."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

Rows = dict[str, list[tuple[Any, ...]]]


def dump(data_dir: Path) -> Rows:
    """All rows of all tables."""
    with closing(sqlite3.connect(f"file:{data_dir / 'turnkeeper.db'}?mode=ro", uri=True)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
        return {name: sorted(database.execute(f'SELECT * FROM "{name}"'), key=repr) for name in names}

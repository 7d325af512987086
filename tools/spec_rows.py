"""Reads tests/spec/rows.toml: what the specification wants tested."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROWS_FILE = ROOT / "tests" / "spec" / "rows.toml"
MAX_ROWS_PER_TEST = 3
ISSUES = ("foundation", "turn-engine", "turn-tree", "agents-and-tasks")
STATUSES = ("needed", "restated", "dropped")
ID = re.compile(r"(?P<spec>dispatch|subturns|runs-and-tasks):(?P<table>[A-Z]+)-?(?P<number>\d+)(?P<variant>[a-z]?)")
KEYS = {"id", "expectation", "issue", "status"}


@dataclass(frozen=True)
class Row:
    """One line of a test table."""

    id: str
    expectation: str
    issue: str
    status: str
    reason: str

    @property
    def table(self) -> str:
        """The table that the row is counted under, such as `dispatch:A`."""
        match = ID.fullmatch(self.id)
        assert match is not None
        return f"{match['spec']}:{match['table']}"

    @property
    def is_counted(self) -> bool:
        """Dropped rows are not counted."""
        return self.status != "dropped"


class RowsError(Exception):
    """The file of rows is not well formed."""


def load_rows(path: Path = ROWS_FILE) -> list[Row]:
    """Read the rows, in the order of the file."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("row", [])
    rows = [_row(entry) for entry in entries]
    ids = [row.id for row in rows]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise RowsError(f"more than once: {', '.join(twice)}")
    return rows


def _row(entry: dict[str, str]) -> Row:
    name = entry.get("id", "?")
    if not KEYS <= entry.keys() <= KEYS | {"reason"}:
        raise RowsError(f"{name}: wants {sorted(KEYS)} and perhaps a reason, has {sorted(entry)}")
    if not ID.fullmatch(name):
        raise RowsError(f"{name}: not an id like dispatch:B-3")
    if entry["issue"] not in ISSUES or entry["status"] not in STATUSES:
        raise RowsError(f"{name}: issue one of {ISSUES}, status one of {STATUSES}")
    if entry["status"] == "dropped" and not entry.get("reason"):
        raise RowsError(f"{name}: dropped without a reason")
    return Row(name, entry["expectation"], entry["issue"], entry["status"], entry.get("reason", ""))

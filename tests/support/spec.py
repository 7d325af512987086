"""Joins `@pytest.mark.spec` with the outcomes of the run, for `make spec-coverage`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from tools.spec_rows import MAX_ROWS_PER_TEST, load_rows


class SpecRows:
    """Collects, per test function, the rows that it carries and whether all of its cases passed."""

    def __init__(self, results: Path | None) -> None:
        self._results = results
        self._known = {row.id: row for row in load_rows()}
        self._rows: dict[str, list[str]] = {}
        self._passed: dict[str, bool] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Refuse unknown and dropped rows, and tests that claim too many."""
        for item in items:
            rows = [str(row) for marker in item.iter_markers("spec") for row in marker.args]
            if rows:
                self._rows[_function(item.nodeid)] = self._checked(item, rows)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test counts if its call passed and nothing around it failed."""
        name = _function(report.nodeid)
        if name not in self._rows:
            return
        if not report.passed:
            self._passed[name] = False
        elif report.when == "call":
            self._passed.setdefault(name, True)

    def pytest_sessionfinish(self) -> None:
        """Write what `make spec-coverage` reads."""
        if self._results is None:
            return
        tests = [
            {"test": name, "rows": rows, "passed": self._passed[name]}
            for name, rows in sorted(self._rows.items())
            if name in self._passed
        ]
        self._results.parent.mkdir(parents=True, exist_ok=True)
        self._results.write_text(json.dumps(tests, indent=1) + "\n")

    def _checked(self, item: pytest.Item, rows: Iterable[str]) -> list[str]:
        unique = sorted(set(rows))
        if len(unique) > MAX_ROWS_PER_TEST:
            raise pytest.UsageError(f"{item.nodeid}: {len(unique)} spec rows, at most {MAX_ROWS_PER_TEST}")
        for row in unique:
            if row not in self._known:
                raise pytest.UsageError(f"{item.nodeid}: no spec row {row!r} in tests/spec/rows.toml")
            if self._known[row].status == "dropped":
                raise pytest.UsageError(f"{item.nodeid}: spec row {row!r} is dropped")
        return unique


def _function(nodeid: str) -> str:
    return nodeid.split("[", 1)[0]

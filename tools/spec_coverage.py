"""Prints, per table of the specification, how many rows a test of the last `make test` covers, and what is missing."""

from __future__ import annotations

import json
import signal
import sys
import textwrap
from collections import defaultdict
from pathlib import Path

from tools.spec_rows import ISSUES, MAX_ROWS_PER_TEST, Row, RowsError, load_rows

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "target" / "spec"


def covered_rows(results: Path, known: set[str]) -> tuple[set[str], list[str]]:
    """The rows that a passed test carries, and what is wrong with the claims."""
    covered: set[str] = set()
    wrong: list[str] = []
    for path in sorted(results.glob("*.json")):
        for test in json.loads(path.read_text(encoding="utf-8")):
            unknown = [row for row in test["rows"] if row not in known]
            if unknown:
                wrong.append(f"{test['test']}: no such row to cover: {', '.join(unknown)}")
            if len(test["rows"]) > MAX_ROWS_PER_TEST:
                wrong.append(f"{test['test']}: claims {len(test['rows'])} rows, at most {MAX_ROWS_PER_TEST}")
            if test["passed"]:
                covered.update(test["rows"])
    return covered, wrong


def print_tables(rows: list[Row], covered: set[str]) -> None:
    """One line per table, and one for all."""
    tables: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        tables[row.table].append(row)
    for table, members in tables.items():
        print(f"{table} {sum(row.id in covered for row in members)}/{len(members)}")
    print(f"all {sum(row.id in covered for row in rows)}/{len(rows)}")


def print_missing(rows: list[Row], covered: set[str], *, with_text: bool) -> None:
    """What is missing, by the issue that it belongs to."""
    for issue in ISSUES:
        members = [row for row in rows if row.issue == issue]
        missing = [row for row in members if row.id not in covered]
        print(f"\n{issue}: {len(members) - len(missing)}/{len(members)}" + (", missing:" if missing else ""))
        if with_text:
            for row in missing:
                print(f"  {row.id}: {row.expectation}")
        elif missing:
            print(textwrap.indent(textwrap.fill(" ".join(row.id for row in missing), 118), "  "))


def main(arguments: list[str]) -> int:
    """`--check` reads the rows alone; `--text` prints what each missing row expects."""
    try:
        rows = load_rows()
    except (RowsError, OSError, ValueError) as error:
        print(f"tests/spec/rows.toml: {error}", file=sys.stderr)
        return 1
    counted = [row for row in rows if row.is_counted]
    if "--check" in arguments:
        print(f"tests/spec/rows.toml: {len(rows)} rows, {len(rows) - len(counted)} of them dropped")
        return 0
    covered, wrong = covered_rows(RESULTS, {row.id for row in counted})
    if not RESULTS.is_dir():
        print("no results of a `make test` yet: every row counts as missing\n")
    print_tables(counted, covered)
    print_missing(counted, covered, with_text="--text" in arguments)
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error.
    sys.exit(main(sys.argv[1:]))

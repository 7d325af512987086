"""Reads what the test runners print: how many tests passed, failed and were skipped, and which rows they carry."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.spec_rows import MAX_ROWS_PER_TEST

CARGO_RUNNING = re.compile(r"\s*Running (?:unittests )?(?P<source>\S+) \((?P<binary>\S+)\)")
CARGO_TEST = re.compile(r"test (?P<name>\S+)(?: - should panic)? \.\.\. (?P<outcome>ok|FAILED|ignored)")
CARGO_TOTAL = re.compile(r"test result: \w+\. (?P<passed>\d+) passed; (?P<failed>\d+) failed; (?P<ignored>\d+) ignored")
RUST_SPEC = re.compile(r"\s*///\s*spec:\s*(?P<rows>.+)")
RUST_FUNCTION = re.compile(r"\s*(?:pub )?(?:async )?fn (?P<name>\w+)")
GO_SPEC = re.compile(r"//\s*spec:\s*(?P<rows>.+)")
GO_FUNCTION = re.compile(r"func (?P<name>Test\w+)\(")


class ReportError(Exception):
    """A test claims more rows than it may."""


@dataclass(frozen=True)
class Counts:
    """The closing line of one runner."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


@dataclass(frozen=True)
class SpecTest:
    """A test that carries rows, and whether it passed in this run."""

    test: str
    rows: tuple[str, ...]
    passed: bool


def write_spec(path: Path, tests: Iterable[SpecTest]) -> None:
    """Write what `make spec-coverage` reads, in the form in which the pytest plugin writes it."""
    entries = [{"test": test.test, "rows": list(test.rows), "passed": test.passed} for test in tests]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def pytest_counts(junit: Path) -> Counts:
    """Counts of a JUnit file; none if pytest did not get to write it."""
    if not junit.exists():
        return Counts()
    total = Counts()
    for suite in ElementTree.parse(junit).getroot().iter("testsuite"):
        failed = int(suite.get("failures", "0")) + int(suite.get("errors", "0"))
        skipped = int(suite.get("skipped", "0"))
        total += Counts(int(suite.get("tests", "0")) - failed - skipped, failed, skipped)
    return total


def cargo_counts(lines: Iterable[str]) -> Counts:
    """Sum of the closing lines of all test binaries."""
    total = Counts()
    for line in lines:
        if match := CARGO_TOTAL.match(line):
            total += Counts(int(match["passed"]), int(match["failed"]), int(match["ignored"]))
    return total


def cargo_spec(lines: Iterable[str], crate: Path) -> list[SpecTest]:
    """Join `/// spec:` lines above test functions with what cargo printed about them."""
    outcomes = _cargo_outcomes(lines)
    found: list[SpecTest] = []
    for path in sorted([*crate.glob("src/**/*.rs"), *crate.glob("tests/**/*.rs")]):
        source, module = _rust_place(path.relative_to(crate))
        for name, rows in _declared(path, RUST_SPEC, RUST_FUNCTION):
            mine = [ok for (ran, test), ok in outcomes.items() if ran == source and _is_named(test, module, name)]
            if mine:
                found.append(SpecTest(f"{path.relative_to(crate)}::{name}", rows, all(mine)))
    return found


def go_counts(lines: Iterable[str]) -> Counts:
    """Counts of `go test -json`; a package that does not build is one failure."""
    total = Counts()
    for event in _go_events(lines):
        action = event.get("Action")
        if event.get("Test"):
            total += Counts(action == "pass", action == "fail", action == "skip")
        elif action == "build-fail":
            total += Counts(failed=1)
    return total


def go_shown(line: str) -> str | None:
    """What `go test` would have printed without -json."""
    if not line.startswith("{"):
        return line
    output = str(json.loads(line).get("Output", "")).rstrip("\n")
    return output or None


def go_spec(lines: Iterable[str], module: Path) -> list[SpecTest]:
    """Join `// spec:` lines above test functions with the events of `go test -json`."""
    outcomes = {
        str(event["Test"]): event["Action"] == "pass"
        for event in _go_events(lines)
        if event.get("Test") and event.get("Action") in ("pass", "fail", "skip")
    }
    return [
        SpecTest(f"{path.relative_to(module)}::{name}", rows, outcomes[name])
        for path in sorted(module.glob("**/*_test.go"))
        for name, rows in _declared(path, GO_SPEC, GO_FUNCTION)
        if name in outcomes
    ]


def _cargo_outcomes(lines: Iterable[str]) -> dict[tuple[str, str], bool]:
    source = ""
    outcomes: dict[tuple[str, str], bool] = {}
    for line in lines:
        if match := CARGO_RUNNING.match(line):
            source = match["source"]
        elif (match := CARGO_TEST.match(line)) and match["outcome"] != "ignored":
            outcomes[source, match["name"]] = match["outcome"] == "ok"
    return outcomes


def _rust_place(path: Path) -> tuple[str, str]:
    """The binary that a source file belongs to, by its root file, and the module that it is."""
    parts = list(path.with_suffix("").parts)
    if parts[0] == "src":
        module = [part for part in parts[1:] if part not in ("lib", "mod")]
        return "src/lib.rs", "::".join(module)
    if len(parts) == 2:
        return str(path), ""
    module = [part for part in parts[2:] if part not in ("main", "mod")]
    return f"tests/{parts[1]}/main.rs", "::".join(module)


def _is_named(test: str, module: str, name: str) -> bool:
    """Whether cargo's path is this function of this file, in the file's own module or in one inside it."""
    return test.split("::")[-1] == name and (not module or test.startswith(f"{module}::"))


def _declared(path: Path, spec: re.Pattern[str], function: re.Pattern[str]) -> list[tuple[str, tuple[str, ...]]]:
    """The functions of a file that a spec line stands above, with attributes and comments between them."""
    found: list[tuple[str, tuple[str, ...]]] = []
    rows: tuple[str, ...] = ()
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := spec.match(line):
            rows += tuple(row.strip(" `.") for row in match["rows"].split(","))
        elif rows and (match := function.match(line)):
            if len(rows) > MAX_ROWS_PER_TEST:
                raise ReportError(f"{path}: {match['name']} claims {len(rows)} rows, at most {MAX_ROWS_PER_TEST}")
            found.append((match["name"], rows))
            rows = ()
        elif not line.strip():
            rows = ()
    return found


def _go_events(lines: Iterable[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines if line.startswith("{")]

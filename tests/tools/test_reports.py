"""What the runners print is read as it is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import reports
from tools.spec_rows import RowsError, load_rows

CARGO = """
   Compiling turnkeeper-core v0.1.0
     Running unittests src/lib.rs (target/debug/deps/turnkeeper_core-0a)
running 3 tests
test session::tests::a_cancel_covers_what_came_before ... ok
test gate::tests::slow ... ignored
test gate::tests::breaks - should panic ... FAILED
test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
     Running tests/scenarios.rs (target/debug/deps/scenarios-0b)
test a_cancel_covers_what_came_before ... ok
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
   Doc-tests turnkeeper_core
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.50s
""".splitlines()

RUST = """
/// A cancel covers what was accepted before it.
///
/// spec: dispatch:B-1, dispatch:B-6
#[test]
fn a_cancel_covers_what_came_before() {}

#[test]
fn another() {}
"""


def crate(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return folder


def test_cargo_closing_lines_are_summed() -> None:
    assert reports.cargo_counts(CARGO) == reports.Counts(passed=4, failed=1, skipped=1)


def test_a_rust_row_counts_for_the_binary_that_ran_it(tmp_path: Path) -> None:
    found = reports.cargo_spec(CARGO, crate(tmp_path, "tests/scenarios.rs", RUST))
    assert [(test.test, test.rows, test.passed) for test in found] == [
        ("tests/scenarios.rs::a_cancel_covers_what_came_before", ("dispatch:B-1", "dispatch:B-6"), True)
    ]


def test_a_rust_test_that_did_not_run_carries_nothing(tmp_path: Path) -> None:
    assert reports.cargo_spec(CARGO, crate(tmp_path, "tests/other.rs", RUST)) == []


def test_a_failed_rust_test_carries_nothing(tmp_path: Path) -> None:
    text = "mod tests {\n    /// spec: dispatch:A-1\n    #[test]\n    #[should_panic]\n    fn breaks() {}\n}\n"
    (found,) = reports.cargo_spec(CARGO, crate(tmp_path, "src/gate.rs", text))
    assert not found.passed


def test_more_rows_than_a_test_may_claim_are_an_error(tmp_path: Path) -> None:
    text = RUST.replace("dispatch:B-6", "dispatch:B-6, dispatch:B-7, dispatch:B-8")
    with pytest.raises(reports.ReportError, match="claims 4 rows"):
        reports.cargo_spec(CARGO, crate(tmp_path, "tests/scenarios.rs", text))


def test_go_events_are_counted_and_shown(tmp_path: Path) -> None:
    events = [
        {"Action": "run", "Package": "p", "Test": "TestResume"},
        {"Action": "output", "Package": "p", "Test": "TestResume", "Output": "--- PASS: TestResume\n"},
        {"Action": "pass", "Package": "p", "Test": "TestResume"},
        {"Action": "skip", "Package": "p", "Test": "TestLater"},
        {"Action": "pass", "Package": "p"},
    ]
    lines = [json.dumps(event) for event in events]
    assert reports.go_counts(lines) == reports.Counts(passed=1, skipped=1)
    assert [shown for line in lines if (shown := reports.go_shown(line))] == ["--- PASS: TestResume"]
    (tmp_path / "a_test.go").write_text("// spec: dispatch:X-8\nfunc TestResume(t *testing.T) {}\n")
    (found,) = reports.go_spec(lines, tmp_path)
    assert found == reports.SpecTest("a_test.go::TestResume", ("dispatch:X-8",), passed=True)


def test_pytest_counts_come_from_its_file(tmp_path: Path) -> None:
    junit = tmp_path / "r.xml"
    junit.write_text('<testsuites><testsuite tests="7" failures="1" errors="1" skipped="2"/></testsuites>')
    assert reports.pytest_counts(junit) == reports.Counts(passed=3, failed=2, skipped=2)
    assert reports.pytest_counts(tmp_path / "none.xml") == reports.Counts()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('id = "dispatch:B3"', "wants"),
        ('id = "B-3"\nexpectation = "x"\nissue = "foundation"\nstatus = "needed"', "not an id"),
        ('id = "dispatch:B-3"\nexpectation = "x"\nissue = "later"\nstatus = "needed"', "issue one of"),
        ('id = "dispatch:B-3"\nexpectation = "x"\nissue = "foundation"\nstatus = "dropped"', "without a reason"),
    ],
)
def test_rows_that_are_not_sound_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "rows.toml"
    path.write_text(f"[[row]]\n{text}\n")
    with pytest.raises(RowsError, match=says):
        load_rows(path)

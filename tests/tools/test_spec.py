"""The plugin writes the rows of the tests that ran and passed, and refuses claims that cannot be right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CASES = """
import pytest

@pytest.mark.spec("dispatch:A-1", "dispatch:A-2")
def test_passes(): pass

@pytest.mark.spec("dispatch:A-4")
@pytest.mark.parametrize("n", [1, 2])
def test_fails_in_one_case(n): assert n == 1

@pytest.mark.spec("dispatch:A-5")
@pytest.mark.skip(reason="never")
def test_skipped(): pass

@pytest.mark.spec("dispatch:A-6")
@pytest.mark.long
def test_not_selected(): pass
"""


def run(folder: Path, source: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    (folder / "test_case.py").write_text(source)
    results = folder / "results.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.conftest",
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    command += [f"--rootdir={folder}", f"--spec-results={results}", "--confcutdir", str(folder), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done, results


def test_a_row_counts_if_every_case_of_its_test_passed(tmp_path: Path) -> None:
    done, results = run(tmp_path, CASES)
    assert done.returncode == 1, done.stdout + done.stderr
    passed = {test["test"].split("::")[1]: test["passed"] for test in json.loads(results.read_text())}
    assert passed == {"test_passes": True, "test_fails_in_one_case": False, "test_skipped": False}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ('"dispatch:A-99"', "no spec row 'dispatch:A-99'"),
        ('"dispatch:A-3"', "is dropped"),
        ('"dispatch:A-1", "dispatch:A-2", "dispatch:A-4", "dispatch:A-5"', "4 spec rows, at most 3"),
    ],
)
def test_a_claim_that_cannot_be_right_stops_the_run(tmp_path: Path, rows: str, says: str) -> None:
    done, _ = run(tmp_path, f"import pytest\n\n@pytest.mark.spec({rows})\ndef test_it(): pass\n")
    assert done.returncode == 4, done.stdout + done.stderr
    assert says in done.stdout + done.stderr

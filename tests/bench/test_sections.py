"""The bench runs: two of its sections, as short as they can be. What is asserted is work done, never a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 150.0
"""Seconds after which it hangs."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, object]]]:
    """All that two sections have measured."""
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    short = ["--quick", "--rounds", "1", "--seconds", "0.05"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *short, "--only", "turns,submit", "--json", str(file)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "BENCH_STDERR": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, list[dict[str, object]]] = json.loads(file.read_text())
    return found


def test_every_variant_did_its_work(measured: dict[str, list[dict[str, object]]]) -> None:
    """Each turn and each call was checked as it was counted; every worker did at least one."""
    works = {(str(work["name"]), str(work["variant"])): work for work in measured["works"]}
    levels = {"1 at a time": 1, "32 at a time": 32, "64 at a time": 64}
    relays, unaries = ("bare relay", "floor relay", "service"), ("bare unary", "floor unary", "service")
    least = {(name, variant): workers for name, workers in levels.items() for variant in relays}
    least |= {("SubmitRun", variant): 64 for variant in unaries}
    assert works.keys() == least.keys()
    for key, work in works.items():
        assert isinstance(work["count"], int)
        assert isinstance(work["cpu_us"], float)
        assert work["count"] >= least[key]
        assert work["cpu_us"] > 0
        # Those that promise something write it to the disk; those that do not have no thread for it.
        assert bool(work["disk_writes"]) == (not key[1].startswith("bare"))


def test_the_service_is_held_to_its_goals_beside_each_baseline(measured: dict[str, list[dict[str, object]]]) -> None:
    goals = {str(figure["name"]): figure["goal"] for figure in measured["figures"] if figure["goal"] is not None}
    assert goals == {
        "32 at a time: service / floor relay, rate": 0.75,
        "32 at a time: floor relay / service, CPU each": 0.75,
        "32 at a time: service / bare relay, rate": 0.55,
        "32 at a time: bare relay / service, CPU each": 0.55,
        "SubmitRun: service / floor unary, rate": 0.8,
        "SubmitRun: floor unary / service, CPU each": 0.8,
        "SubmitRun: service / bare unary, rate": 0.55,
        "SubmitRun: bare unary / service, CPU each": 0.55,
    }

"""Measures the project and prints it beside its goals: ``python -m bench [--quick] [--only turns,core,…]``."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import uvloop

from . import figures, pairs, providers
from .breakdown import breakdown
from .processes import LOAD_CORE, pin
from .report import Report

SECTIONS = (
    "core", "binding", "store",
    "turns", "submit", "converse", "ttft", "cancel", "process", "resume", "recovery", "providers", "sockets",
    "breakdown",
)  # fmt: skip


async def measure(chosen: set[str], runs: int, seconds: float) -> Report:
    """Everything about the service."""
    report = Report()
    if "turns" in chosen:
        await pairs.turns(report, runs, seconds)
    if "submit" in chosen:
        await pairs.submits(report, runs, seconds)
    if "converse" in chosen:
        await pairs.conversations(report, runs, seconds)
    if "ttft" in chosen:
        await pairs.first_tokens(report, runs, 2 * seconds + 1)
    if "cancel" in chosen:
        await figures.cancels(report, runs)
    if "process" in chosen:
        await figures.process(report, runs)
    if "resume" in chosen:
        await figures.resume(report, runs)
    if "recovery" in chosen:
        await figures.recovery(report, runs)
    if "providers" in chosen:
        providers.costs(report, runs)
    if "sockets" in chosen:
        await providers.sockets(report, runs)
    if "breakdown" in chosen:
        await breakdown(report, seconds)
    return report


def alone(name: str, *, is_quick: bool) -> None:
    """Run a bench that is a program of its own, before this process takes a core for itself."""
    commands = {
        "core": ["cargo", "bench", "--quiet", "-p", "turnkeeper-core", *(["--", "--quick"] if is_quick else [])],
        "binding": [sys.executable, "-m", "bench.core.cycle", *(["--cycles", "20000"] if is_quick else [])],
        "store": [sys.executable, "-m", "bench.store", "--seconds", "0.2" if is_quick else "1"],
    }
    if shutil.which(commands[name][0]) is None:
        sys.exit(f"bench: {name} needs {commands[name][0]}, which is not installed")
    print(f"\n{name}: {' '.join(commands[name][1 if name == 'core' else 2 :])}", flush=True)
    if subprocess.run(commands[name], cwd=Path(__file__).resolve().parent.parent, check=False).returncode:
        sys.exit(f"bench: {name} failed")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short run of each instead of five")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections, of {', '.join(SECTIONS)}")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one run")
    options = parser.parse_args()
    chosen = set(options.only.split(","))
    if not chosen <= set(SECTIONS):
        parser.error(f"no section is called {', '.join(sorted(chosen - set(SECTIONS)))}")
    for name in ("core", "binding", "store"):
        if name in chosen:
            alone(name, is_quick=options.quick)
    before = os.getloadavg()[0]
    pin(LOAD_CORE)
    start = time.perf_counter()
    report = uvloop.run(
        measure(chosen, 1 if options.quick else 5, options.seconds / 2 if options.quick else options.seconds)
    )
    report.summary()
    print(f"\n{time.perf_counter() - start:.0f} s; load of the machine before: {before:.1f}")


if __name__ == "__main__":
    main()

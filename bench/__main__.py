"""Measures the project and prints it beside its goals: ``python -m bench [--quick] [--only turns,core,…]``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import uvloop

from . import figures, pairs, providers, streams
from .breakdown import breakdown
from .observe import observers
from .processes import LOAD_CORE, pin
from .report import Report
from .scale import scale
from .slices import Effort

SECTIONS = (
    "core", "binding", "store",
    "turns", "submit", "converse", "ttft", "scale",
    "cancel", "process", "streams", "resume", "observe", "recovery", "providers", "sockets",
    "breakdown",
)  # fmt: skip


async def measure(report: Report, chosen: set[str], effort: Effort) -> None:
    """Everything about the service."""
    if "turns" in chosen:
        await pairs.turns(report, effort)
    if "submit" in chosen:
        await pairs.submits(report, effort)
    if "converse" in chosen:
        await streams.conversations(report, effort)
    if "ttft" in chosen:
        await pairs.first_tokens(report, effort)
    if "scale" in chosen:
        await scale(report, effort)
    if "cancel" in chosen:
        await figures.cancels(report, effort.runs)
    if "process" in chosen:
        await figures.process(report, effort.runs)
    if "streams" in chosen:
        await figures.streams(report, effort.runs)
    if "resume" in chosen:
        await figures.resume(report, effort.runs)
    if "observe" in chosen:
        await observers(report, effort)
    if "recovery" in chosen:
        await figures.recovery(report, effort.runs)
    if "providers" in chosen:
        await providers.costs(report, effort)
    if "sockets" in chosen:
        await providers.sockets(report, effort.runs)
    if "breakdown" in chosen:
        await breakdown(report, 4 * effort.seconds)


def alone(name: str, *, is_quick: bool) -> None:
    """Run a bench that is a program of its own, before this process takes a core for itself."""
    cargo = ["cargo", "bench", "--quiet", "-p", "turnkeeper-core", "--bench", "cycle"]
    commands = {
        "core": [*cargo, *(["--", "--quick"] if is_quick else [])],
        "binding": [sys.executable, "-m", "bench.core.cycle", *(["--cycles", "20000"] if is_quick else [])],
        "store": [sys.executable, "-m", "bench.store", *(["--rounds", "3", "--seconds", "0.2"] if is_quick else [])],
    }
    if shutil.which(commands[name][0]) is None:
        sys.exit(f"bench: {name} needs {commands[name][0]}, which is not installed")
    print(f"\n{name}: {' '.join(commands[name][1 if name == 'core' else 2 :])}", flush=True)
    if subprocess.run(commands[name], cwd=Path(__file__).resolve().parent.parent, check=False).returncode:
        sys.exit(f"bench: {name} failed")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few and short slices, one run of the rest")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections, of {', '.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, help="rounds of slices: 20, with --quick 3")
    parser.add_argument("--seconds", type=float, help="length of a slice: 0.5, with --quick 0.2")
    parser.add_argument("--before", type=Path, help="another checkout, after its make setup, to compare with")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    options = parser.parse_args()
    chosen = set(options.only.split(","))
    if not chosen <= set(SECTIONS):
        parser.error(f"no section is called {', '.join(sorted(chosen - set(SECTIONS)))}")
    effort = Effort(
        runs=1 if options.quick else 5,
        rounds=options.rounds or (3 if options.quick else 20),
        seconds=options.seconds or (0.2 if options.quick else 0.5),
        before=options.before.resolve() if options.before else None,
    )
    for name in ("core", "binding", "store"):
        if name in chosen:
            alone(name, is_quick=options.quick)
    before = os.getloadavg()[0]
    pin(LOAD_CORE)
    start = time.perf_counter()
    report = Report()
    uvloop.run(measure(report, chosen, effort))
    report.summary()
    print(f"\n{time.perf_counter() - start:.0f} s; load of the machine before: {before:.1f}")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=2))


if __name__ == "__main__":
    main()

"""Runs named steps in lanes: says what each does, prints its output under its name, its seconds, and cuts a hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 300.0
_printing = threading.Lock()


@dataclass(frozen=True)
class Step:
    """One command with a name, what it is for, and how long it may take (`None`: as long as it likes)."""

    name: str
    says: str
    command: Sequence[str]
    folder: Path = ROOT
    environment: Mapping[str, str] = field(default_factory=dict)
    limit_seconds: float | None = LIMIT_SECONDS
    show: Callable[[str], str | None] = str


@dataclass(frozen=True)
class Done:
    """What became of a step."""

    step: Step
    code: int
    seconds: float
    was_cut: bool
    lines: tuple[str, ...]

    @property
    def is_ok(self) -> bool:
        """Whether the command ended by itself, with 0."""
        return self.code == 0 and not self.was_cut


def say(text: str) -> None:
    """Print a line without tearing another lane's."""
    with _printing:
        print(text, flush=True)


def run(step: Step) -> Done:
    """Run one step to its end."""
    say(f"==> {step.name}: {step.says}")
    started = time.monotonic()
    lines: list[str] = []
    process = subprocess.Popen(
        list(step.command),
        cwd=step.folder,
        env={**os.environ, **step.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    cut = threading.Event()
    timer = threading.Timer(step.limit_seconds or 0, _cut, (process, cut))
    if step.limit_seconds is not None:
        timer.start()
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        shown = step.show(lines[-1])
        if shown is not None:
            say(f"{step.name:<13} | {shown}")
    code = process.wait()
    timer.cancel()
    seconds = time.monotonic() - started
    verdict = f"cut after {seconds:.0f} s" if cut.is_set() else ("ok" if code == 0 else f"exit {code}")
    say(f"<== {step.name}: {verdict}, {seconds:.1f} s")
    return Done(step, code, seconds, cut.is_set(), tuple(lines))


def run_lanes(lanes: Iterable[Sequence[Callable[[], Done]]]) -> list[Done]:
    """Run the lanes beside each other, the steps of a lane one after another; all steps run, also after a failure."""
    results: list[list[Done]] = []
    threads = []
    for lane in lanes:
        mine: list[Done] = []
        results.append(mine)
        threads.append(threading.Thread(target=lambda lane=lane, mine=mine: mine.extend(step() for step in lane)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [done for mine in results for done in mine]


def _cut(process: subprocess.Popen[str], cut: threading.Event) -> None:
    """End the step's own process group."""
    cut.set()
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue


def main(arguments: list[str]) -> int:
    """`python -m tools.steps NAME SAYS COMMAND …`: one step, for the Makefile."""
    name, says, *command = arguments
    return 0 if run(Step(name, says, command, limit_seconds=None)).is_ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

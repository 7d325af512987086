"""How measures are shown: a line per figure, its goal beside it, the median of the runs and their spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from .load import Measure


class Report:
    """Prints lines as they come, and keeps them for the end."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def section(self, title: str) -> None:
        """Begin a group of lines."""
        print(f"\n{title}", flush=True)

    def note(self, text: str) -> None:
        """Print a line that has no goal."""
        print(f"  {text}", flush=True)

    def figure(self, name: str, values: Sequence[float], unit: str, goal: float | None, *, least: bool = False) -> None:
        """Print a figure: the median, the spread, the goal (a least or a most) and whether it is met."""
        middle = statistics.median(values)
        text = f"{name:<58} {shown(middle):>8} {unit:<9} [{shown(min(values))} to {shown(max(values))}]"
        if goal is not None:
            is_met = middle >= goal if least else middle <= goal
            bound = "at least" if least else "at most"
            text = f"{text:<104} {bound} {shown(goal)}: {'met' if is_met else 'MISSED'}"
            self.lines.append(text)
        print(f"  {text}", flush=True)

    def pair(
        self,
        name: str,
        ours: Sequence[Measure],
        bare: Sequence[Measure],
        what: str,
        goal: float | None,
        cpu_goal: float | None = None,
    ) -> None:
        """Print a pair: rates, CPU, and their ratios, run by run."""
        for label, measures in (("service", ours), ("bare", bare)):
            rate = statistics.median(one.rate for one in measures)
            cpu = statistics.median(one.cpu_us for one in measures)
            self.note(f"{name}, {label}: {rate:,.0f} {what}/s, {cpu:,.0f} µs of CPU each")
        pairs = list(zip(ours, bare, strict=True))
        self.figure(f"{name}: service / bare, {what}/s", [a.rate / b.rate for a, b in pairs], "", goal, least=True)
        self.figure(
            f"{name}: bare / service, CPU each", [b.cpu_us / a.cpu_us for a, b in pairs], "", cpu_goal, least=True
        )

    def summary(self) -> None:
        """Print every figure that has a goal once more."""
        print("\nGoals", flush=True)
        for line in self.lines:
            print(f"  {line}", flush=True)


def shown(value: float) -> str:
    """A number with three digits that matter."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"

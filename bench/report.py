"""How measures are shown: a line per figure, its goal beside it, the median and where it lies."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .slices import Rounds, interval


@dataclass(frozen=True)
class Figure:
    """One figure, as it is kept for the end."""

    name: str
    median: float
    low: float
    high: float
    unit: str
    goal: float | None
    is_least: bool
    """Whether the goal is the least that it should be; else it is the most."""

    @property
    def is_met(self) -> bool:
        """Whether the goal is met; without one it is."""
        return self.goal is None or (self.median >= self.goal if self.is_least else self.median <= self.goal)


@dataclass(frozen=True)
class Work:
    """What one variant did in all its slices, and what each of it took: of CPU the median, of the rest the mean."""

    name: str
    variant: str
    count: int
    rate: float
    cpu_us: float
    switches: float
    disk_writes: float


class Report:
    """Prints lines as they come, and keeps them for the end."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.works: list[Work] = []

    def section(self, title: str) -> None:
        """Begin a group of lines."""
        print(f"\n{title}", flush=True)

    def note(self, text: str) -> None:
        """Print a line that has no goal."""
        print(f"  {text}", flush=True)

    def figure(self, name: str, values: Sequence[float], unit: str, goal: float | None, *, least: bool = False) -> None:
        """Print a figure: the median, where it lies, the goal (a least or a most) and whether it is met."""
        middle, (low, high) = statistics.median(values), interval(values)
        self.figures.append(Figure(name, middle, low, high, unit, goal, least))
        print(f"  {_line(self.figures[-1])}", flush=True)

    def variants(self, name: str, rounds: Rounds, what: str) -> None:
        """Print what each variant came to, as it is."""
        for variant, measures in rounds.items():
            count = sum(one.count for one in measures)
            work = Work(
                name,
                variant,
                count,
                rate=statistics.median(one.rate for one in measures),
                cpu_us=statistics.median(one.cpu_us for one in measures),
                switches=sum(one.used.switches for one in measures) / count,
                disk_writes=sum(one.used.disk_writes for one in measures) / count,
            )
            self.works.append(work)
            text = f"{name}, {variant}: {work.rate:,.0f} {what}/s; for each {shown(work.cpu_us)} µs of CPU"
            if work.switches:
                text += f", {work.switches:.1f} switches"
            self.note(text + (f", {work.disk_writes:.1f} writes to the disk" if work.disk_writes else ""))

    def pair(
        self, name: str, rounds: Rounds, ours: str, other: str, goal: float | None = None, *, rates: bool = True
    ) -> None:
        """Print the ratios of two variants, pair by pair: of their rates, and of CPU, the other's by ours."""
        pairs = list(zip(rounds[ours], rounds[other], strict=True))
        if rates:
            by_rate = [one.rate / two.rate for one, two in pairs]
            self.figure(f"{name}: {ours} / {other}, rate", by_rate, "", goal, least=True)
        by_cpu = [two.cpu_us / one.cpu_us for one, two in pairs]
        self.figure(f"{name}: {other} / {ours}, CPU each", by_cpu, "", goal, least=True)

    def summary(self) -> None:
        """Print every figure that has a goal once more."""
        print("\nGoals", flush=True)
        for figure in self.figures:
            if figure.goal is not None:
                print(f"  {_line(figure)}", flush=True)

    def as_json(self) -> dict[str, object]:
        """All that was measured."""
        return {"works": list(map(asdict, self.works)), "figures": list(map(asdict, self.figures))}


def _line(figure: Figure) -> str:
    where = f"[{shown(figure.low)} to {shown(figure.high)}]"
    text = f"{figure.name:<58} {shown(figure.median):>8} {figure.unit:<9} {where}"
    if figure.goal is None:
        return text
    bound = "at least" if figure.is_least else "at most"
    return f"{text:<104} {bound} {shown(figure.goal)}: {'met' if figure.is_met else 'MISSED'}"


def shown(value: float) -> str:
    """A number with three digits that matter."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"

"""Paired slices, which see differences that are smaller than what a machine's speed changes by from minute to minute.

The processes of all variants live from beginning to end. In every round each of them does the same work for a short
slice, in random order, while the others wait. What is compared are the slices of one round, pair by pair: what slows a
round down slows all of it. A figure is the median of the rounds' ratios, beside it the interval in which that median
lies with a probability of 95 %, whatever the distribution. A difference is seen if 1 is outside.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from pathlib import Path
from typing import Protocol

from .usage import Usage

Unit = Callable[[], Awaitable[float]]
"""Does one thing and returns its sample, in seconds. Raises if its answer is not the right one."""


@dataclass(frozen=True)
class Effort:
    """How long is measured."""

    runs: int = 5
    """Of what has no pair, and is measured as a whole."""
    rounds: int = 20
    seconds: float = 0.5
    """Of a slice."""
    order: random.Random = field(default_factory=lambda: random.Random(0))
    """Of the slices of a round: random, and the same whenever it is run."""
    before: Path | None = None
    """Another checkout, made ready by its own ``make setup``, whose service is measured too."""


@dataclass(frozen=True)
class Measure:
    """What one slice came to."""

    count: int
    rate: float
    """Per second."""
    used: Usage
    """By the server."""
    waits: Sequence[float] = ()
    """Seconds, one per sample."""

    @property
    def cpu_us(self) -> float:
        """Microseconds of the server's CPU for each."""
        return self.used.cpu_seconds / self.count * 1e6


class Counted(Protocol):
    """Something whose work costs CPU that is counted."""

    def used(self) -> Usage:
        """What it has used so far."""
        ...


Slice = Callable[[], Awaitable[Measure]]
"""Does a variant's work for a short while."""

Rounds = Mapping[str, Sequence[Measure]]
"""By variant, a slice per round."""


async def by_workers(process: Counted, one: Unit, workers: int, seconds: float, spread: float = 0.0) -> Measure:
    """Let workers do one thing after another; with ``spread`` they begin over so many seconds.

    All that was begun is finished and counted. The rate is the sum of the workers' own, so that one that has finished
    while others have not does not count as idle.
    """
    waits: list[float] = []

    async def work(delay: float) -> float:
        await asyncio.sleep(delay)
        count, start = 0, time.perf_counter()
        while not count or time.perf_counter() - start < seconds:
            waits.append(await one())
            count += 1
        return count / (time.perf_counter() - start)

    before = process.used()
    rates = await asyncio.gather(*(work(spread * number / workers) for number in range(workers)))
    return Measure(len(waits), sum(rates), process.used() - before, waits)


async def compared(slices: Mapping[str, Slice], effort: Effort, rounds: int | None = None) -> Rounds:
    """Measure all variants, round by round; a first round, which warms them up, is dropped."""
    found: dict[str, list[Measure]] = {name: [] for name in slices}
    for number in range((effort.rounds if rounds is None else rounds) + 1):
        for name in effort.order.sample(sorted(slices), len(slices)):
            # The load's own collector must not fall into one slice and spare the next.
            gc.collect()
            gc.disable()
            try:
                measure = await slices[name]()
            finally:
                gc.enable()
            if number:
                found[name].append(measure)
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median lies with at least 95 %, by the ranks of the values; with fewer than six all that there is."""
    ordered, count = sorted(values), len(values)
    rank, below = 0, 1
    while (below + comb(count, rank + 1)) / 2**count <= 0.025:
        rank += 1
        below += comb(count, rank)
    return ordered[rank], ordered[count - 1 - rank]

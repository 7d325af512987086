"""What the bench's figures rest on: slices that come in pairs, all CPU counted, an interval that says what is known."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from pathlib import Path

import pytest

from bench.slices import Effort, Measure, Slice, by_workers, compared, interval
from bench.usage import Usage, Watch

NAMES = ("floor", "relay", "service")


def order_of(seed: int, rounds: int) -> list[str]:
    """The order in which slices of three variants are measured."""
    begun: list[str] = []

    def slice_of(name: str) -> Slice:
        async def one() -> Measure:
            begun.append(name)
            return Measure(1, float(len(begun)), Usage(1.0))

        return one

    effort = Effort(rounds=rounds, order=random.Random(seed))
    found = asyncio.run(compared({name: slice_of(name) for name in NAMES}, effort))
    # The first round warms up and is dropped: of each variant there is one slice of every other round.
    assert {name: len(measures) for name, measures in found.items()} == dict.fromkeys(NAMES, rounds)
    assert all(measure.rate > len(NAMES) for measures in found.values() for measure in measures)
    return begun


def test_every_round_measures_every_variant_in_an_order_of_its_own() -> None:
    begun = order_of(1, 20)
    rounds = [tuple(begun[at : at + 3]) for at in range(0, len(begun), 3)]
    assert all(sorted(one) == sorted(NAMES) for one in rounds)
    assert len(set(rounds)) > 3
    assert begun == order_of(1, 20)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, (0, 0)), (3, (0, 2)), (8, (0, 7)), (9, (1, 7)), (20, (5, 14)), (25, (7, 17))],
)
def test_the_interval_is_that_of_the_sign_test(count: int, expected: tuple[float, float]) -> None:
    values = [float(number) for number in range(count)]
    random.Random(2).shuffle(values)
    assert interval(values) == expected


def test_threads_that_have_ended_stay_counted() -> None:
    watch = Watch(os.getpid())
    is_seen, may_end = threading.Event(), threading.Event()

    def burn() -> None:
        sum(range(1_000_000))
        is_seen.set()
        may_end.wait()

    before = watch.total()
    thread = threading.Thread(target=burn)
    thread.start()
    is_seen.wait()
    number, during = thread.native_id, watch.total()
    assert number in watch.threads()
    used = watch.threads()[number]
    may_end.set()
    thread.join()
    # Python has let it go; the kernel does so a moment later.
    deadline = time.monotonic() + 10
    while Path(f"/proc/self/task/{number}").exists():
        assert time.monotonic() < deadline
    assert number not in watch.threads()
    assert used.cpu_seconds > 0
    assert (during - before).cpu_seconds >= used.cpu_seconds
    assert watch.total().cpu_seconds >= during.cpu_seconds
    assert watch.total().switches >= during.switches


@pytest.mark.asyncio
async def test_workers_finish_what_they_have_begun() -> None:
    done = 0

    class Idle:
        def used(self) -> Usage:
            return Usage(cpu_seconds=float(done))

    async def one() -> float:
        nonlocal done
        await asyncio.sleep(0)
        done += 1
        return 0.5

    measure = await by_workers(Idle(), one, workers=4, seconds=0.0)
    assert (measure.count, measure.used.cpu_seconds, list(measure.waits)) == (4, 4.0, [0.5] * 4)

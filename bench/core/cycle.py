"""One run's cycle (accept, dispatch, conclude, finish) through the binding, against a scheduler in plain Python.

``python -m bench.core.cycle [--cycles N]``: five rounds of each, in turn; median and spread of CPU time. The plain one
knows runs and permits alone, and keeps none of the other promises.
"""

import argparse
import statistics
import time
from collections.abc import Callable

from bench.baselines.python_scheduler import PythonScheduler
from turnkeeper_core import Begin, Limits, Scheduler, Step

ROUNDS = 5
MANY = 10_000_000


def binding(busy: int) -> Callable[[int], None]:
    """Cycles over ``busy`` sessions, each with a turn running; 0 is one session that falls idle every time."""
    scheduler = Scheduler(
        Limits(queue_per_session=MANY, open_runs=MANY, running_turns=MANY, running_turns_per_tenant=MANY)
    )
    accept, dispatch, conclude, finish = scheduler.accept, scheduler.dispatch, scheduler.conclude, scheduler.finish
    names = [f"session-{number}" for number in range(busy)]
    turns: dict[str, int] = {}
    for name in names:
        accept("tenant", name, "odd", 0.0)
        turns[name] = begun(dispatch("tenant", name, "odd", 0.0))

    def alone(count: int) -> None:
        for _ in range(count):
            accept("tenant", "session", "run", 0.0)
            turn = begun(dispatch("tenant", "session", "run", 0.0))
            conclude("tenant", "session", turn, "answer", 0.0)
            finish("tenant", "session", "run", 0.0)

    def among_others(count: int) -> None:
        for _ in range(count // (2 * busy)):
            for run, then in (("odd", "even"), ("even", "odd")):
                for name in names:
                    accept("tenant", name, then, 0.0)
                    dispatch("tenant", name, then, 0.0)
                    conclude("tenant", name, turns[name], "answer", 0.0)
                    turns[name] = begun(finish("tenant", name, run, 0.0))

    return among_others if busy else alone


def begun(step: Step[object]) -> int:
    """The turn that a step begins, as a driver reads it."""
    begin = step.effects[-1]
    assert isinstance(begin, Begin)
    return begin.turn.id


def plain(busy: int) -> Callable[[int], None]:
    """The same of the plain one."""
    scheduler = PythonScheduler(MANY, MANY, MANY, MANY)
    accept, dispatch, conclude, finish = scheduler.accept, scheduler.dispatch, scheduler.conclude, scheduler.finish
    names = [f"session-{number}" for number in range(busy)]
    for name in names:
        accept("tenant", name, "odd")
        dispatch("tenant", name, "odd")

    def alone(count: int) -> None:
        for _ in range(count):
            accept("tenant", "session", "run")
            dispatch("tenant", "session", "run")
            conclude("tenant", "session", "run")
            finish("tenant", "session", "run")

    def among_others(count: int) -> None:
        for _ in range(count // (2 * busy)):
            for run, then in (("odd", "even"), ("even", "odd")):
                for name in names:
                    accept("tenant", name, then)
                    dispatch("tenant", name, then)
                    conclude("tenant", name, run)
                    finish("tenant", name, run)

    return among_others if busy else alone


def measured(cycles: Callable[[int], None], count: int) -> float:
    """Nanoseconds of CPU time per cycle."""
    begin = time.process_time_ns()
    cycles(count)
    return (time.process_time_ns() - begin) / count


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=200_000, help="cycles of one round")
    count = parser.parse_args().cycles
    for label, busy in (("one session, idle in between", 0), ("1,000 busy sessions", 1_000)):
        contenders = {"binding": binding(busy), "plain Python": plain(busy)}
        # Every session is visited equally often.
        exact = count - count % (2 * busy) if busy else count
        rounds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, cycles in contenders.items():
                rounds[name].append(measured(cycles, exact))
        print(label)
        for name, values in rounds.items():
            low, high = min(values), max(values)
            print(f"  {name:13} {statistics.median(values):7.0f} ns/cycle (best {low:.0f}, worst {high:.0f})")
        ratio = statistics.median(rounds["plain Python"]) / statistics.median(rounds["binding"])
        print(f"  binding is {ratio:.2f} x as fast")


if __name__ == "__main__":
    main()

"""The compiled core and the model agree on any history, and neither breaks an invariant."""

from __future__ import annotations

from collections import Counter

import pytest

from .walk import Walk

STEPS = 400
SEEDS = 250
LONG_SEEDS = 25_000
HAPPENS = (
    "fx requested",
    "fx opened",
    "fx begun",
    "fx spawned",
    "fx ended",
    "fx delivered",
    "fx orphaned",
    "fx closed",
    "fx over",
    "fx resume",
    "fx begin",
    "fx goon",
    "fx stop",
    "fx came",
    "fx decided",
    "fx conclude",
    "fx abort",
    "fx detach",
    "fx errand",
    "Aborted",
    "BadState",
    "Draining",
    "LaneFull",
    "OpenRunMismatch",
    "QueueFull",
    "RunExists",
    "SessionBusy",
    "SessionDeleting",
    "Spawn",
    "TurnNotFound",
    "UnknownRun",
    "WouldDeadlock",
)
"""Every effect, and every refusal that is not rare."""


def walk(seeds: range) -> Counter[str]:
    """Random histories, one by one; the seed is in what fails."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        one = Walk(seed)
        try:
            one.run(STEPS)
        except AssertionError as error:
            error.add_note(f"seed {seed}, step {one.steps}")
            raise
        seen += one.seen
        seen["steps"] += one.steps
    return seen


def test_the_compiled_core_does_what_the_model_does() -> None:
    """100,000 steps: answers, refusals, effects, views."""
    seen = walk(range(SEEDS))
    assert seen["steps"] >= 100_000
    assert not [name for name in HAPPENS if not seen[name]], "walks that never come there prove nothing"


@pytest.mark.long
def test_the_compiled_core_does_what_the_model_does_for_long() -> None:
    """10,000,000 steps."""
    assert walk(range(SEEDS, SEEDS + LONG_SEEDS))["steps"] >= 10_000_000

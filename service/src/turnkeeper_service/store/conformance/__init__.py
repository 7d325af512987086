"""Scenarios that every store must pass. Run each of `SCENARIOS` on a fresh `Harness`; it raises where a store fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from turnkeeper_service.store.conformance import commits, ownership, reads
from turnkeeper_service.store.conformance.harness import Harness, opened

__all__ = ["SCENARIOS", "Harness", "opened"]

SCENARIOS: tuple[Callable[[Harness], Awaitable[None]], ...] = (
    *commits.SCENARIOS,
    *reads.SCENARIOS,
    *ownership.SCENARIOS,
)

"""Numbers that vendors report: tokens and money, taken only where they can be true (O-1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import structlog

log = structlog.get_logger(__name__)

MAX_COUNT = 1 << 53
"""More tokens than anybody counts; up to here every client can say the number exactly."""


def count_of(value: object, name: str) -> int | None:
    """A count of tokens: an integer from 0 to `MAX_COUNT`; None where it is not told, or is no such number.

    ``name`` is the field, for the log.
    """
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT and value % 1 == 0:
        return int(value)
    log.warning("a count of the provider's cannot be used", field=name)
    return None


def are_usable(told: Sequence[object], counts: Sequence[int | None]) -> bool:
    """Whether what was told became counts, each of them; if not, they have to be estimated."""
    return all(value is None or count is not None for value, count in zip(told, counts, strict=True))


def cost_of(value: object) -> float | None:
    """A cost in US dollars; None where it is not told, or is no amount that can be paid."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT:
        return float(value) if math.isfinite(value) else None
    return None


def total_of(*counts: int | None) -> int | None:
    """The sum of those that are told, within what a count can be; None where none is."""
    told = [count for count in counts if count is not None]
    return min(sum(told), MAX_COUNT) if told else None

"""What a store answers with, beside rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")


class Laid(Enum):
    """What became of a cancel that was to wait for its run."""

    LAID = "laid"
    HAS_RUN = "has run"
    """There is such a run by now: cancel that."""
    FULL = "full"
    """As many wait as may."""


@dataclass(frozen=True, slots=True)
class Boot:
    """What opening the store gives."""

    epoch: int
    """The fencing epoch of this process, strictly above all before it, and below 2**21."""
    last_sequence: int
    """The largest accept sequence ever stored, 0 if none."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Rows in order, and whether there are more behind them."""

    rows: Sequence[T]
    has_more: bool


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counts since the start. ``queue_depth`` is the number of commits not durable yet."""

    commits: int
    batches: int
    rows: int
    queue_depth: int

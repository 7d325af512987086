"""Which failed calls are made again, and when: a policy of plain values.

Whoever makes the calls follows it: what a failed attempt has shown must be taken back first.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from turnkeeper_service.providers.base import ProviderError

Random = Callable[[], float]
"""Gives numbers from 0 up to 1."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Back-off between the attempts of one step."""

    max_retries: int = 3
    first_delay: float = 5.0
    """Seconds before the first retry; each later one waits twice as long."""
    max_delay: float = 60.0
    max_hint: float = 60.0
    """A longer wait that the vendor asks for counts only where the back-off is longer still."""
    jitter: float = 0.1
    """Share by which a wait is stretched at random, so that calls that failed together do not return together."""

    def delay(self, error: ProviderError, attempt: int, rand: Random = random.random) -> float | None:
        """Seconds to wait before trying again, None if the error is final.

        ``attempt`` counts the attempts that have failed, this one included. A vendor's hint takes the place of the
        back-off where it is within bounds, and is never cut short.
        """
        if not error.is_retryable or attempt > self.max_retries:
            return None
        delay: float = min(self.first_delay * 2.0 ** (attempt - 1), self.max_delay)
        hint = error.retry_after
        if hint is not None and 0 < hint < max(self.max_hint, delay):
            delay = hint
        return delay * (1 + self.jitter * rand())

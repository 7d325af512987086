"""Which failed calls are made again, and when: a policy of plain values, and a provider that follows it.

Whoever shows a call while it grows drives the policy itself, since what the failed attempt has shown must be taken
back. `RetryingProvider` is for calls that nobody watches: it tries again only while nothing has been given out.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from turnkeeper_service.providers.base import Clock, ModelEvent, ModelRequest, Provider, ProviderError

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


NO_RETRIES = RetryPolicy(max_retries=0)
OnRetry = Callable[[ProviderError, int, float], None]
"""Told of the error, the number of failed attempts and the seconds to wait."""


class RetryingProvider:
    """Makes a call again as the policy says, as long as it has given no event."""

    def __init__(
        self,
        inner: Provider,
        policy: RetryPolicy,
        clock: Clock,
        *,
        rand: Random = random.random,
        on_retry: OnRetry | None = None,
    ) -> None:
        self._inner = inner
        self._policy = policy
        self._clock = clock
        self._rand = rand
        self._on_retry = on_retry

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Open the call; see `turnkeeper_service.providers.base.Provider`."""
        async with aclosing(self._events(request)) as events:
            yield events

    async def close(self) -> None:
        """Release connections. Idempotent."""
        await self._inner.close()

    async def _events(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        attempt = 0
        while True:
            attempt += 1
            has_given = False
            try:
                async with self._inner.stream(request) as events:
                    async for event in events:
                        has_given = True
                        yield event
                return
            except ProviderError as error:
                delay = None if has_given else self._policy.delay(error, attempt, self._rand)
                if delay is None:
                    raise
                if self._on_retry is not None:
                    self._on_retry(error, attempt, delay)
            await self._clock.sleep(delay)

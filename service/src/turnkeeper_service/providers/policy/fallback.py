"""Models that stand in for one another: a chain as data, and the memory of who failed lately."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from turnkeeper_service.providers.base import Clock, FailureReason, ProviderError

NOT_FOUND = 404
MAX_COOLING = 1_000
"""Models that stand back at most; callers choose their names."""
OTHERS_MAY_ANSWER = frozenset(FailureReason) - {FailureReason.PROVIDER_REFUSED}
"""A request that one model refuses as such, another would refuse too; everything else may be that one's trouble."""


@dataclass(frozen=True, slots=True)
class FallbackChain:
    """Models in the order of preference, each as ``provider/model``."""

    models: tuple[str, ...]
    cool_down: float = 60.0
    """Seconds for which a model that failed stands back."""
    reasons: Collection[FailureReason] = OTHERS_MAY_ANSWER
    """Failures after which the next model is asked."""

    def __post_init__(self) -> None:
        if not self.models or len(set(self.models)) != len(self.models):
            raise ValueError("a chain needs at least one model, and each of them once")

    def covers(self, error: ProviderError) -> bool:
        """Whether another model may do better. One that the vendor does not know is no fault of the request's.

        A context that is too long is made shorter instead: it says nothing about the model.
        """
        return not error.is_context_overflow and (error.reason in self.reasons or error.status == NOT_FOUND)


class CoolDowns:
    """Which models failed lately; one for all chains, since a model that is down is down for all."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def choose(self, chain: FallbackChain, tried: Collection[str] = ()) -> str | None:
        """The model to ask now: the first that is not cooling, else the one that is done with it soonest.

        ``tried`` are those that have failed in this step; None if that is all of them.
        """
        left = [model for model in chain.models if model not in tried]
        if not left:
            return None
        now = self._clock.monotonic()
        return next((model for model in left if self._until.get(model, now) <= now), min(left, key=self._ends_at))

    def failed(self, chain: FallbackChain, model: str, error: ProviderError) -> None:
        """Let a model stand back, as long as the vendor asks for at least."""
        if chain.covers(error):
            seconds = max(chain.cool_down, error.retry_after or 0.0)
            self._until[model] = max(self._ends_at(model), self._clock.monotonic() + seconds)
            if len(self._until) > MAX_COOLING:
                self._until.pop(min(self._until, key=self._ends_at))

    def answered(self, model: str) -> None:
        """It is well again."""
        self._until.pop(model, None)

    def left(self, model: str) -> float:
        """Seconds for which the model stands back still."""
        return max(0.0, self._ends_at(model) - self._clock.monotonic())

    def _ends_at(self, model: str) -> float:
        return self._until.get(model, 0.0)

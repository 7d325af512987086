"""Which model is asked next."""

from __future__ import annotations

import pytest

from tests.service.providers.fake_provider import error
from tests.service.providers.held_clock import HeldClock
from turnkeeper_service.providers.base import FailureReason, ProviderError
from turnkeeper_service.providers.policy.fallback import MAX_COOLING, CoolDowns, FallbackChain

CHAIN = FallbackChain(("a/big", "b/big", "a/small"), cool_down=30)


def test_the_first_model_that_is_well(clock: HeldClock) -> None:
    cool_downs = CoolDowns(clock)
    assert cool_downs.choose(CHAIN) == "a/big"
    cool_downs.failed(CHAIN, "a/big", error())
    assert cool_downs.choose(CHAIN) == "b/big"
    clock.advance(29)
    assert (cool_downs.choose(CHAIN), cool_downs.left("a/big")) == ("b/big", 1)
    clock.advance(1)
    assert (cool_downs.choose(CHAIN), cool_downs.left("a/big")) == ("a/big", 0)


def test_a_step_asks_each_model_once(clock: HeldClock) -> None:
    cool_downs = CoolDowns(clock)
    tried: list[str] = []
    while (model := cool_downs.choose(CHAIN, tried)) is not None:
        tried.append(model)
        cool_downs.failed(CHAIN, model, error())
        clock.advance(1)
    assert tried == list(CHAIN.models)


def test_when_all_are_cooling_the_soonest_is_asked(clock: HeldClock) -> None:
    cool_downs = CoolDowns(clock)
    for model, hint in (("a/big", 300.0), ("b/big", 40.0), ("a/small", 90.0)):
        cool_downs.failed(CHAIN, model, error(retry_after=hint))
    assert cool_downs.choose(CHAIN) == "b/big"
    assert cool_downs.left("a/big") == 300


def test_cooling_is_the_models_and_not_the_chains(clock: HeldClock) -> None:
    cool_downs = CoolDowns(clock)
    cool_downs.failed(CHAIN, "a/big", error())
    assert cool_downs.choose(FallbackChain(("a/big", "c/any"))) == "c/any"
    cool_downs.answered("a/big")
    assert cool_downs.choose(FallbackChain(("a/big", "c/any"))) == "a/big"


@pytest.mark.parametrize(
    ("reason", "status", "is_covered"),
    [
        (FailureReason.PROVIDER_ERROR, 500, True),
        (FailureReason.PROVIDER_RATE_LIMITED, 429, True),
        (FailureReason.PROVIDER_UNAUTHENTICATED, 401, True),
        (FailureReason.PROVIDER_UNREACHABLE, None, True),
        (FailureReason.IDLE_TIMEOUT, None, True),
        (FailureReason.PROVIDER_REFUSED, 400, False),
        (FailureReason.PROVIDER_REFUSED, 404, True),
    ],
)
def test_what_another_model_may_do_better(
    reason: FailureReason, status: int | None, is_covered: bool, clock: HeldClock
) -> None:
    failure = error(reason, status=status, is_retryable=False)
    assert CHAIN.covers(failure) is is_covered
    cool_downs = CoolDowns(clock)
    cool_downs.failed(CHAIN, "a/big", failure)
    assert (cool_downs.left("a/big") > 0) is is_covered


@pytest.mark.parametrize("reason", [FailureReason.PROVIDER_ERROR, FailureReason.PROVIDER_RATE_LIMITED])
def test_a_context_that_is_too_long_is_not_the_models_fault(reason: FailureReason) -> None:
    assert CHAIN.covers(ProviderError(reason, "Failed", "it failed"))
    assert not CHAIN.covers(ProviderError(reason, "Failed", "it is too long", is_context_overflow=True))


@pytest.mark.parametrize("models", [(), ("a/b", "a/b")])
def test_a_chain_names_each_model_once(models: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="each of them once"):
        FallbackChain(models)


def test_names_that_callers_make_up_do_not_pile_up(clock: HeldClock) -> None:
    cool_downs = CoolDowns(clock)
    for number in range(2 * MAX_COOLING):
        chain = FallbackChain((f"a/{number}",), cool_down=30)
        cool_downs.failed(chain, chain.models[0], error())
        clock.advance(0.001)
    cooling = [number for number in range(2 * MAX_COOLING) if cool_downs.left(f"a/{number}")]
    assert cooling == list(range(MAX_COOLING, 2 * MAX_COOLING))

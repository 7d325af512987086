"""When a call is made again, and how long that takes; time is held."""

from __future__ import annotations

import asyncio

import pytest

from examples.upstream import Answer, Upstream
from tests.service.providers.collect import Collected, collect, request
from tests.service.providers.conftest import MakeProvider
from tests.service.providers.fake_provider import FakeProvider, answered, error
from tests.service.providers.held_clock import HeldClock
from turnkeeper_service.providers.base import FailureReason, Provider, ProviderError
from turnkeeper_service.providers.retry import NO_RETRIES, RetryingProvider, RetryPolicy

STEADY = RetryPolicy(jitter=0)


def test_the_back_off_doubles_up_to_its_bounds() -> None:
    assert [STEADY.delay(error(), attempt) for attempt in (1, 2, 3, 4)] == [5, 10, 20, None]
    patient = RetryPolicy(max_retries=9, jitter=0)
    assert [patient.delay(error(), attempt) for attempt in (4, 5, 9)] == [40, 60, 60]


@pytest.mark.parametrize(
    ("hint", "attempt", "delay"),
    [
        (0.25, 1, 0.25),
        (59.0, 1, 59.0),
        (60.0, 1, 5.0),
        (3600.0, 1, 5.0),
        (0.0, 1, 5.0),
        (None, 2, 10.0),
        (7.0, 3, 7.0),
    ],
)
def test_a_hint_counts_within_bounds(hint: float | None, attempt: int, delay: float) -> None:
    assert STEADY.delay(error(retry_after=hint), attempt) == delay


def test_a_hint_below_a_long_back_off_counts() -> None:
    policy = RetryPolicy(first_delay=100, max_delay=200, jitter=0)
    assert policy.delay(error(retry_after=90), 1) == 90


def test_jitter_only_stretches() -> None:
    policy = RetryPolicy(jitter=0.5)
    assert policy.delay(error(), 1, lambda: 0.0) == 5
    assert policy.delay(error(), 1, lambda: 0.5) == 6.25
    assert policy.delay(error(retry_after=2), 1, lambda: 0.5) == 2.5
    delays = {policy.delay(error(), 1) for _ in range(20)}
    assert len(delays) > 1
    assert all(delay is not None and 5 <= delay < 7.5 for delay in delays)


def test_what_is_final_is_final() -> None:
    assert STEADY.delay(error(is_retryable=False, retry_after=1), 1) is None
    assert NO_RETRIES.delay(error(), 1) is None


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("model", "is_again"),
    [
        ("status-408", True),
        ("status-409", True),
        ("status-429", True),
        ("status-500", True),
        ("status-503", True),
        ("status-529", True),
        ("reset-0", True),
        ("truncated-0", True),
        ("ended-3", True),
        ("error-3", True),
        ("status-400", False),
        ("status-401", False),
        ("status-403", False),
        ("status-404", False),
        ("status-422", False),
        ("bad-json-0", False),
    ],
)
async def test_the_retryable_set(model: str, is_again: bool, upstream: Upstream, make_provider: MakeProvider) -> None:
    collected = await collect(make_provider(), request(model))
    assert collected.error is not None
    assert (STEADY.delay(collected.error, 1) is not None) is is_again


async def run(provider: Provider, clock: HeldClock) -> tuple[Collected, float]:
    task = asyncio.create_task(collect(provider, request()))
    seconds = await clock.advance_until(task, 0.25)
    return await task, seconds


@pytest.mark.asyncio
async def test_a_provider_that_retries(clock: HeldClock) -> None:
    seen: list[tuple[FailureReason, int, float]] = []

    def note(failure: ProviderError, attempt: int, delay: float) -> None:
        seen.append((failure.reason, attempt, delay))

    inner = FakeProvider([error()], [error(FailureReason.PROVIDER_RATE_LIMITED, retry_after=1)])
    collected, seconds = await run(RetryingProvider(inner, STEADY, clock, on_retry=note), clock)
    assert collected.text() == "yes"
    assert (inner.num_opened, inner.num_open) == (3, 0)
    assert 6 <= seconds <= 6.5
    assert seen == [(FailureReason.PROVIDER_ERROR, 1, 5), (FailureReason.PROVIDER_RATE_LIMITED, 2, 1)]


@pytest.mark.asyncio
async def test_the_last_error_is_the_one_that_is_raised(clock: HeldClock) -> None:
    inner = FakeProvider([error(status=500)], [error(status=501)], [error(status=502)], [error(status=503)])
    collected, _ = await run(RetryingProvider(inner, STEADY, clock), clock)
    assert collected.error is not None
    assert (collected.error.status, inner.num_opened) == (503, 4)


@pytest.mark.asyncio
async def test_what_was_given_out_is_not_given_twice(clock: HeldClock) -> None:
    inner = FakeProvider([*answered("half")[:2], error()])
    collected, seconds = await run(RetryingProvider(inner, STEADY, clock), clock)
    assert collected.error is not None
    assert (collected.text(), inner.num_opened) == ("half", 1)
    assert seconds < 1


@pytest.mark.asyncio
async def test_a_cancel_ends_the_wait(clock: HeldClock) -> None:
    inner = FakeProvider([error()])
    task = asyncio.create_task(collect(RetryingProvider(inner, STEADY, clock), request()))
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (inner.num_opened, inner.num_open) == (1, 0)


@pytest.mark.asyncio
async def test_over_http(upstream: Upstream, make_provider: MakeProvider, clock: HeldClock) -> None:
    upstream.plan(Answer.error(429, "{}", retry_after_ms="100"), Answer.error(503, "{}"))
    provider = RetryingProvider(make_provider(), STEADY, clock)
    task = asyncio.create_task(collect(provider, request("tokens-2")))
    await upstream.until(lambda: len(upstream.requests) == 1)
    for num_requests in (2, 3):
        while len(upstream.requests) < num_requests:
            clock.advance(0.05)
            await asyncio.sleep(0)
    assert (await task).text() == "t0 t1 "

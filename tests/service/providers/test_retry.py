"""Whether a call is made again, and after how long."""

from __future__ import annotations

import pytest

from examples.upstream import Upstream
from tests.service.providers.collect import collect, request
from tests.service.providers.conftest import MakeProvider
from tests.service.providers.fake_provider import error
from turnkeeper_service.providers.policy.retry import RetryPolicy

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
    assert RetryPolicy(max_retries=0).delay(error(), 1) is None


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

"""Calls that wait for their turn; time is held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from examples.upstream import Upstream
from tests.service.providers.collect import collect, request
from tests.service.providers.conftest import MakeProvider
from tests.service.providers.fake_provider import FakeProvider, error
from tests.service.providers.held_clock import HeldClock
from turnkeeper_service.providers.base import FailureReason, ProviderError
from turnkeeper_service.providers.limits import LimitedProvider
from turnkeeper_service.providers.options import CallLimits


class Calls:
    """Calls that stay open until they are let go."""

    def __init__(self, provider: LimitedProvider) -> None:
        self.provider = provider
        self.begun: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._ends: list[asyncio.Event] = []

    async def start(self, number: int = 1) -> None:
        for _ in range(number):
            self._ends.append(asyncio.Event())
            self.tasks.append(asyncio.create_task(self._run(len(self.tasks))))
            await turns()

    async def end(self, index: int) -> None:
        self._ends[index].set()
        await turns()

    async def end_all(self) -> None:
        for end in self._ends:
            end.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _run(self, index: int) -> None:
        async with self.provider.stream(request()):
            self.begun.append(index)
            await self._ends[index].wait()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def limited(clock: HeldClock, **limits: float | None) -> Calls:
    make: Callable[..., CallLimits] = CallLimits
    return Calls(LimitedProvider(FakeProvider(), make(**limits), clock))


@pytest.mark.asyncio
async def test_so_many_at_once_and_the_rest_in_order(clock: HeldClock) -> None:
    calls = limited(clock, max_concurrent=2)
    await calls.start(5)
    assert (calls.begun, calls.provider.num_waiting) == ([0, 1], 3)
    await calls.end(1)
    assert calls.begun == [0, 1, 2]
    await calls.end(0)
    await calls.end(2)
    assert calls.begun == [0, 1, 2, 3, 4]
    await calls.end_all()
    assert (calls.provider.num_open, calls.provider.num_waiting) == (0, 0)


@pytest.mark.asyncio
async def test_so_many_in_a_while(clock: HeldClock) -> None:
    calls = limited(clock, max_starts=2, per_seconds=10)
    await calls.start(2)
    clock.advance(4)
    await calls.start(3)
    assert calls.begun == [0, 1]
    clock.advance(5)
    await turns()
    assert calls.begun == [0, 1]
    clock.advance(1)
    await turns()
    assert calls.begun == [0, 1, 2, 3]
    clock.advance(10)
    await turns()
    assert calls.begun == [0, 1, 2, 3, 4]
    await calls.end_all()


@pytest.mark.asyncio
async def test_both_bounds_together(clock: HeldClock) -> None:
    calls = limited(clock, max_concurrent=1, max_starts=1, per_seconds=10)
    await calls.start(2)
    clock.advance(20)
    await turns()
    assert calls.begun == [0]
    await calls.end(0)
    assert calls.begun == [0, 1]
    await calls.start()
    await calls.end(1)
    assert calls.begun == [0, 1]
    clock.advance(10)
    await turns()
    assert calls.begun == [0, 1, 2]
    await calls.end_all()


@pytest.mark.asyncio
async def test_the_wait_is_bounded(clock: HeldClock) -> None:
    calls = limited(clock, max_concurrent=1, max_wait=5)
    await calls.start(3)
    clock.advance(4)
    await turns()
    assert calls.provider.num_waiting == 2
    clock.advance(1)
    for task in calls.tasks[1:]:
        with pytest.raises(ProviderError) as caught:
            await task
        assert caught.value.reason is FailureReason.PROVIDER_RATE_LIMITED
        assert "5 s" in caught.value.detail
    await calls.end_all()


@pytest.mark.asyncio
async def test_the_line_is_bounded(clock: HeldClock) -> None:
    calls = limited(clock, max_concurrent=1, max_waiting=1)
    await calls.start(3)
    with pytest.raises(ProviderError) as caught:
        await calls.tasks[2]
    assert (caught.value.reason, caught.value.is_retryable) == (FailureReason.PROVIDER_RATE_LIMITED, True)
    await calls.end_all()


@pytest.mark.asyncio
@pytest.mark.parametrize("index", [1, 2])
async def test_a_cancelled_call_leaves_the_line(index: int, clock: HeldClock) -> None:
    calls = limited(clock, max_concurrent=1)
    await calls.start(4)
    calls.tasks[index].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls.tasks[index]
    assert calls.provider.num_waiting == 2
    await calls.end(0)
    assert calls.begun == [0, 3 - index if index == 1 else 1]
    await calls.end_all()
    assert sorted([*calls.begun, index]) == [0, 1, 2, 3]


@pytest.mark.asyncio
async def test_a_call_that_is_cancelled_as_its_turn_comes_gives_it_on(clock: HeldClock) -> None:
    calls = limited(clock, max_concurrent=1)
    await calls.start(3)
    calls._ends[0].set()
    await calls.tasks[0]
    # The turn is the second call's now, which has not run yet.
    calls.tasks[1].cancel()
    await turns()
    assert 2 in calls.begun
    await calls.end_all()


@pytest.mark.asyncio
async def test_a_call_that_fails_makes_room(clock: HeldClock) -> None:
    provider = LimitedProvider(FakeProvider([error()]), CallLimits(max_concurrent=1), clock)
    assert (await collect(provider, request())).error is not None
    assert (await collect(provider, request())).text() == "yes"
    assert provider.num_open == 0


@pytest.mark.asyncio
async def test_a_thousand_calls_never_break_the_bound(clock: HeldClock) -> None:
    inner = FakeProvider()
    provider = LimitedProvider(inner, CallLimits(max_concurrent=3), clock)
    most = 0

    async def one() -> None:
        nonlocal most
        async with provider.stream(request()):
            most = max(most, inner.num_open)
            await asyncio.sleep(0)

    await asyncio.gather(*(one() for _ in range(1000)))
    assert (most, inner.num_opened) == (3, 1000)


def test_a_limit_that_lets_none_through_is_refused(clock: HeldClock) -> None:
    with pytest.raises(ValueError, match="lets none through"):
        LimitedProvider(FakeProvider(), CallLimits(max_concurrent=0), clock)


@pytest.mark.asyncio
async def test_over_http(upstream: Upstream, make_provider: MakeProvider) -> None:
    provider = make_provider(limits=CallLimits(max_concurrent=2))
    answers = await asyncio.gather(*(collect(provider, request("tokens-3")) for _ in range(6)))
    assert {answer.text() for answer in answers} == {"t0 t1 t2 "}
    assert upstream.max_requests_open <= 2

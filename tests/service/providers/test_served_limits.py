"""Bounds on the calls to a vendor, through the running service and over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from examples.upstream import Answer, Ending, Upstream, token_stream
from tests.service.dispatch.watch import watching
from tests.service.harness import Harness, load_settings, serving
from tests.service.manual_clock import ManualClock
from turnkeeper.v1 import event_pb2

COMPLETED = event_pb2.OUTCOME_STATUS_COMPLETED
LIMITED = event_pb2.OUTCOME_REASON_PROVIDER_RATE_LIMITED


@asynccontextmanager
async def limited(data_dir: Path, upstream: Upstream, clock: ManualClock, **limits: int) -> AsyncIterator[Harness]:
    """A server whose provider ``up`` has these limits, and whose provider ``free`` is the same vendor without."""
    settings: dict[str, str] = {f"providers.up.{name}": str(value) for name, value in limits.items()}
    for name in ("up", "free"):
        settings |= {f"providers.{name}.format": "openai-chat", f"providers.{name}.base_url": upstream.base_url}
    async with serving(data_dir, settings=load_settings(data_dir, **settings), clock=clock) as server:
        for session_id in "abcs":
            await server.session(session_id)
        yield server


async def asked(server: Harness, session_id: str, model: str) -> None:
    """Submit a run named as its session and wait until its step has begun: its call is in the provider's hands."""
    await server.submit(session_id, "hello", session_id, model=model)
    async with watching(server, session_id) as watch:
        await watch.seen(session_id, "step_started")


async def outcome(server: Harness, session_id: str) -> event_pb2.Outcome:
    return (await server.terminals(session_id, [session_id]))[session_id]


async def sentinel(server: Harness) -> None:
    """A call of the same vendor that no limit holds: what could have been sent before it has been."""
    await server.submit("s", "hello", "s", model="free/tokens-1")
    assert (await outcome(server, "s")).status == COMPLETED


def models(upstream: Upstream) -> list[str]:
    return [request.model for request in upstream.requests]


def held(end: asyncio.Event) -> Answer:
    """An answer that is whole, and a call that is not over: it waits for the end that HTTP has."""
    return Answer(token_stream(2), before_end=end)


@pytest.mark.asyncio
async def test_sessions_wait_for_one_another_at_a_vendor_that_takes_one_call(tmp_path: Path) -> None:
    async with Upstream() as upstream, limited(tmp_path, upstream, ManualClock(), max_concurrent_calls=1) as server:
        end = asyncio.Event()
        upstream.plan(held(end))
        await asked(server, "a", "up/tokens-1")
        await upstream.until(lambda: len(upstream.requests) == 1)
        await asked(server, "b", "up/tokens-2")
        await asked(server, "c", "up/tokens-3")
        await sentinel(server)
        assert models(upstream) == ["tokens-1", "tokens-1"]
        end.set()
        for session_id in "abc":
            assert (await outcome(server, session_id)).status == COMPLETED
        assert models(upstream)[2:] == ["tokens-2", "tokens-3"]
        assert upstream.max_requests_open == 2, "the first and the sentinel"


@pytest.mark.asyncio
async def test_a_cancelled_run_leaves_the_line_of_calls(tmp_path: Path) -> None:
    async with Upstream() as upstream, limited(tmp_path, upstream, ManualClock(), max_concurrent_calls=1) as server:
        end = asyncio.Event()
        upstream.plan(held(end))
        await asked(server, "a", "up/tokens-1")
        await upstream.until(lambda: len(upstream.requests) == 1)
        await asked(server, "b", "up/tokens-2")
        await asked(server, "c", "up/tokens-3")
        await server.cancel(run_id="b")
        assert (await outcome(server, "b")).status == event_pb2.OUTCOME_STATUS_CANCELLED
        end.set()
        assert (await outcome(server, "c")).status == COMPLETED
        assert models(upstream) == ["tokens-1", "tokens-3"]


@pytest.mark.asyncio
async def test_a_call_that_waits_too_long_fails_and_so_does_one_too_many(tmp_path: Path) -> None:
    clock = ManualClock()
    limits = {"max_concurrent_calls": 1, "max_wait_seconds": 7, "max_waiting_calls": 1}
    async with Upstream() as upstream, limited(tmp_path, upstream, clock, **limits) as server:
        upstream.plan(Answer(token_stream(2, has_end=False), ending=Ending.HANG))
        await asked(server, "a", "up/tokens-1")
        await upstream.until(lambda: len(upstream.requests) == 1)
        await asked(server, "b", "up/tokens-2")
        await clock.armed(7)
        await asked(server, "c", "up/tokens-3")
        many = await outcome(server, "c")
        assert (many.reason, many.errors[0].title) == (LIMITED, "Provider busy")
        clock.advance(7)
        late = await outcome(server, "b")
        assert (late.reason, late.errors[0].detail) == (LIMITED, "The call had no turn within 7 s.")
        await server.cancel(run_id="a")
        assert (await outcome(server, "a")).text == "t0 t1 "
        assert models(upstream) == ["tokens-1"]


@pytest.mark.asyncio
async def test_calls_within_a_minute(tmp_path: Path) -> None:
    clock = ManualClock()
    limits = {"max_calls_per_minute": 2, "max_wait_seconds": 100}
    async with Upstream() as upstream, limited(tmp_path, upstream, clock, **limits) as server:
        for session_id in "ab":
            await asked(server, session_id, "up/tokens-1")
            assert (await outcome(server, session_id)).status == COMPLETED
        begun = clock.num_begun(60)
        await asked(server, "c", "up/tokens-3")
        await clock.armed(60, begun + 1)
        await sentinel(server)
        assert models(upstream) == ["tokens-1"] * 3
        clock.advance(60)
        assert (await outcome(server, "c")).status == COMPLETED
        assert models(upstream)[-1] == "tokens-3"

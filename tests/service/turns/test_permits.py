"""Whatever a turn waits for, it has no permit meanwhile: what is sick or slow delays nobody else's runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from examples.upstream import Answer, Upstream, token_stream
from tests.service.dispatch.watch import watching
from tests.service.harness import Harness, load_settings, serving
from tests.service.manual_clock import ManualClock
from turnkeeper.v1 import event_pb2, run_service_pb2

COMPLETED = event_pb2.OUTCOME_STATUS_COMPLETED
NUM_SICK = 300
"""More than there are permits, for the process and for a tenant."""


async def outcome(server: Harness, session_id: str) -> event_pb2.Outcome:
    """The outcome of the run that is named as its session."""
    return (await server.terminals(session_id, [session_id]))[session_id]


@pytest.mark.asyncio
async def test_one_sick_provider_beside_300_runs_delays_nobody_elses(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Upstream(lambda request: Answer.error(503, "{}")) as upstream:
        settings = load_settings(
            tmp_path,
            providers__up__format="openai-chat",
            providers__up__base_url=upstream.base_url,
            retries__max_retries="1",
            retries__first_delay_seconds="50",
            retries__jitter="0",
        )
        async with serving(tmp_path, settings=settings, clock=clock) as server:
            sick = [f"sick-{index}" for index in range(NUM_SICK)]
            for session_id in [*sick, "well"]:
                await server.session(session_id)
            for session_id in sick:
                await server.submit(session_id, "hello", session_id, model="up/m")
            for session_id in sick:
                async with watching(server, session_id) as watch:
                    await watch.seen(session_id, "retry_scheduled")
            await server.submit("well", "hello", "well", model="scripted/echo")
            assert (await outcome(server, "well")).text == "hello"
            view = await server.run_view(sick[0])
            assert view.state == run_service_pb2.RUN_STATE_AWAITING
            (retry,) = [hold for hold in view.holds if hold.label == "retry"]
            assert retry.turn_id
            assert retry.deadline.ToSeconds() - int(clock.time()) in range(40, 51)
            assert (await server.admin_stats()).num_running_turns == 0


@pytest.mark.asyncio
async def test_who_waits_for_a_busy_provider_has_no_permit(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        settings = {"limits.max_running_turns": "2", "providers.up.max_concurrent_calls": "1"}
        for name in ("up", "free"):
            settings |= {f"providers.{name}.format": "openai-chat", f"providers.{name}.base_url": upstream.base_url}
        async with serving(tmp_path, settings=load_settings(tmp_path, **settings)) as server:
            for session_id in ("a", "b", "c", "d"):
                await server.session(session_id)
            end = asyncio.Event()
            upstream.plan(Answer(token_stream(2), before_end=end))
            await server.submit("a", "hello", "a", model="up/tokens-1")
            await upstream.until(lambda: len(upstream.requests) == 1)
            for session_id in ("b", "c"):
                await server.submit(session_id, "hello", session_id, model="up/tokens-1")
                async with watching(server, session_id) as watch:
                    await watch.seen(session_id, "step_started")
            await server.submit("d", "hello", "d", model="free/tokens-1")
            assert (await outcome(server, "d")).status == COMPLETED
            assert "provider up" in [hold.label for hold in (await server.run_view("c")).holds]
            end.set()
            for session_id in ("a", "b", "c"):
                assert (await outcome(server, session_id)).status == COMPLETED
            assert upstream.max_requests_open == 2

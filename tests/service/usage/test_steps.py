"""What steps count: tokens and cost as the provider has them, or as they have to be estimated (C-106, C-107)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from examples.upstream import Answer, Upstream
from tests.service.dispatch.script import at_gate, reply
from tests.service.dispatch.watch import CANCELLED, COMPLETED, FAILED, Watch
from tests.service.titles.stage import seen
from tests.service.turns.scenes import Tools, calls, scene
from turnkeeper.v1 import content_pb2
from turnkeeper_service.engine.usage import context_after, context_of_summary, estimate

PRICED = '[models."scripted/echo"]\ninput_usd_per_million = 10\noutput_usd_per_million = 20\n'


@asynccontextmanager
async def priced(tmp_path: Path, tools: Tools | None = None, **options: Any) -> AsyncIterator[tuple[Any, Watch]]:
    """A server where the scripted model has a price, with the session ``s`` and a subscriber of it."""
    (tmp_path / "turnkeeper.toml").write_text(options.pop("config", PRICED))
    async with scene(tmp_path, tools, **options) as it:
        yield it.server, it.watch


def counts(usage: content_pb2.Usage) -> dict[str, Any]:
    """The counts that a usage has."""
    return {field.name: value for field, value in usage.ListFields()}


def tokens(text: str) -> int:
    """The estimate of a text."""
    return -(-len(text.encode()) // 4)


@pytest.mark.parametrize("usage", [None, {"input_tokens": 0, "output_tokens": 0, "cache_read_tokens": 0}])
@pytest.mark.spec("dispatch:X-20")
@pytest.mark.asyncio
async def test_what_the_provider_does_not_count_is_estimated_and_costs_nothing(
    tmp_path: Path, usage: dict[str, int] | None
) -> None:
    prompt = reply("twelve bytes", reasoning="four", usage=usage)
    async with priced(tmp_path, session={"system_prompt": "be brief!"}) as (server, watch):
        await server.submit("s", prompt, "r")
        outcome = await watch.terminal("r")
        expected = {
            "input_tokens": tokens(prompt + "be brief!"),
            "output_tokens": 4,
            "cost_usd": 0.0,
            "is_estimated": True,
            "num_calls": 1,
        }
        assert counts(outcome.usage.own) == expected
        step = (await watch.seen("r", "step_finished")).step_finished
        assert counts(step.usage) == expected
        context = (await seen(server)).context_tokens
        assert (context.prompt_tokens, context.answer_tokens) == (expected["input_tokens"], 4)
        assert context.is_estimated


@pytest.mark.spec("dispatch:X-20")
@pytest.mark.asyncio
async def test_a_partial_report_is_kept_as_it_is_and_the_other_count_of_the_context_stays(tmp_path: Path) -> None:
    async with priced(tmp_path) as (server, watch):
        whole = {"input_tokens": 700, "output_tokens": 50, "cache_read_tokens": 200, "cache_write_tokens": 100}
        await server.submit("s", reply("a", usage={**whole, "reasoning_tokens": 20}), "r1")
        outcome = await watch.terminal("r1")
        assert counts(outcome.usage.own) == pytest.approx(
            {**whole, "reasoning_tokens": 20, "cost_usd": 0.011, "num_calls": 1}
        )
        context = (await seen(server)).context_tokens
        assert (context.prompt_tokens, context.answer_tokens, context.is_estimated) == (1000, 50, False)

        await server.submit("s", reply("b", usage={"output_tokens": 60}), "r2")
        outcome = await watch.terminal("r2")
        assert counts(outcome.usage.own) == pytest.approx({"output_tokens": 60, "cost_usd": 0.0012, "num_calls": 1})
        context = (await seen(server)).context_tokens
        assert (context.prompt_tokens, context.answer_tokens) == (1000, 60)

        await server.submit("s", reply("c", usage={"input_tokens": 0, "cache_read_tokens": 1500}), "r3")
        await watch.terminal("r3")
        context = (await seen(server)).context_tokens
        assert (context.prompt_tokens, context.answer_tokens, context.is_estimated) == (1500, 60, False)

        # The flag is that of the last count, whatever was before.
        await server.submit("s", reply("d", usage=None), "r4")
        await watch.terminal("r4")
        assert (await seen(server)).context_tokens.is_estimated
        await server.submit("s", reply("e", usage={"input_tokens": 9, "output_tokens": 1}), "r5")
        await watch.terminal("r5")
        session = await seen(server)
        context = session.context_tokens
        assert (context.prompt_tokens, context.answer_tokens, context.is_estimated) == (9, 1, False)
        assert session.usage.own.is_estimated


@pytest.mark.spec("dispatch:X-20")
@pytest.mark.asyncio
async def test_costs_add_up_over_runs_and_a_restart(tmp_path: Path) -> None:
    async with priced(tmp_path) as (server, watch):
        await server.submit("s", reply("a", usage={"input_tokens": 125_000}), "r1")
        assert (await watch.terminal("r1")).usage.own.cost_usd == pytest.approx(1.25)
    async with priced(tmp_path, is_new=False) as (server, watch):
        assert (await seen(server)).context_tokens.prompt_tokens == 125_000
        await server.submit("s", reply("b", usage={"input_tokens": 1000, "output_tokens": 2000}), "r2")
        assert (await watch.terminal("r2")).usage.own.cost_usd == pytest.approx(0.05)
        session = await seen(server)
        assert session.usage.own.cost_usd == pytest.approx(1.30)
        assert (session.context_tokens.prompt_tokens, session.context_tokens.answer_tokens) == (1000, 2000)
        live = server.server.runs.table.get(("default", "s"))
        assert live is not None
        assert live.context.num_tokens == 3000


@pytest.mark.parametrize(
    ("usage", "facts", "cost"),
    [
        ({"prompt_tokens": 1000, "completion_tokens": 2000, "cost": 0.7}, "flat_rate = true", 0.0),
        ({"prompt_tokens": 1000, "completion_tokens": 2000, "cost": 0.7}, "", 0.7),
        ({"prompt_tokens": 1000, "completion_tokens": 2000}, "", 0.05),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 3000, "cost": 0.7}, "", 0.0),
        ({"total_tokens": 3000}, "", 0.0),
        (None, "", 0.0),
    ],
)
@pytest.mark.spec("dispatch:X-20")
@pytest.mark.asyncio
async def test_a_flat_rate_beats_the_providers_word_which_beats_the_prices(
    tmp_path: Path, usage: Mapping[str, float] | None, facts: str, cost: float
) -> None:
    delta = {"choices": [{"index": 0, "delta": {"content": "done"}, "finish_reason": "stop"}]}
    end = {"choices": [], "usage": usage} if usage is not None else {"choices": []}
    body = "".join(f"data: {json.dumps(one)}\n\n" for one in (delta, end)) + "data: [DONE]\n\n"
    (tmp_path / "turnkeeper.toml").write_text(PRICED.replace("scripted/echo", "up/m") + facts)
    async with Upstream() as vendor:
        up: dict[str, Any] = {"providers__up__format": "openai-chat", "providers__up__base_url": vendor.base_url}
        async with scene(tmp_path, session={"model": "up/m"}, **up) as it:
            vendor.plan(Answer.of(body))
            await it.server.submit("s", "how much", "r")
            outcome = await it.watch.terminal("r")
            assert outcome.status == COMPLETED
            own = outcome.usage.own
            assert own.cost_usd == pytest.approx(cost)
            is_told = usage is not None and bool(usage.get("prompt_tokens"))
            expected = (1000, 2000, False) if is_told else (tokens("how much"), 1, True)
            assert (own.input_tokens, own.output_tokens, own.is_estimated) == expected


@pytest.mark.asyncio
async def test_an_estimate_counts_calls_and_results_of_tools(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look")
    prompt = json.dumps({"replies": [{**calls("look"), "usage": None}, {"text": "done", "usage": None}]})
    async with priced(tmp_path, tools) as (server, watch):
        await server.submit("s", prompt, "r")
        await watch.terminal("r")
        first, second = (event.step_finished.usage for event in watch.events if event.HasField("step_finished"))
        assert first.input_tokens == tokens(prompt)
        assert second.input_tokens == tokens(prompt + "look{}" + "look is done")
        assert (await seen(server)).context_tokens.prompt_tokens == second.input_tokens


@pytest.mark.asyncio
async def test_a_step_that_is_cut_is_estimated_as_far_as_it_came(tmp_path: Path) -> None:
    async with priced(tmp_path) as (server, watch):
        prompt = reply("one more", gate="g", gate_after=1)
        await server.submit("s", prompt, "r")
        await at_gate(server, "g")
        await server.cancel(run_id="r")
        outcome = await watch.terminal("r")
        assert outcome.status == CANCELLED
        own = outcome.usage.own
        assert (own.input_tokens, own.output_tokens, own.is_estimated) == (tokens(prompt), 1, True)
        assert (await seen(server)).context_tokens.prompt_tokens == tokens(prompt)


@pytest.mark.parametrize(
    ("reported", "expected"),
    [({}, None), ({"input_tokens": 0}, None), ({"input_tokens": 70}, (70, 0, False))],
)
@pytest.mark.asyncio
async def test_a_step_that_fails_counts_as_reported_else_as_far_as_it_came(
    tmp_path: Path, reported: dict[str, int], expected: tuple[int, int, bool] | None
) -> None:
    async with priced(tmp_path) as (server, watch):
        prompt = reply("one more", fail="PROVIDER_ERROR", fail_after=1, fail_usage=reported)
        await server.submit("s", prompt, "r")
        outcome = await watch.terminal("r")
        assert outcome.status == FAILED
        own = outcome.usage.own
        assert (own.input_tokens, own.output_tokens, own.is_estimated) == (expected or (tokens(prompt), 1, True))


@pytest.mark.asyncio
async def test_a_step_that_fails_before_it_said_anything_leaves_the_size_of_the_context(tmp_path: Path) -> None:
    async with priced(tmp_path) as (server, watch):
        await server.submit("s", reply("a", usage={"input_tokens": 100, "output_tokens": 5}), "r1")
        await watch.terminal("r1")
        await server.submit("s", reply(fail="PROVIDER_ERROR"), "r2")
        outcome = await watch.terminal("r2")
        assert (outcome.status, outcome.usage.own.num_calls) == (FAILED, 1)
        context = (await seen(server)).context_tokens
        assert (context.prompt_tokens, context.answer_tokens, context.is_estimated) == (100, 5, False)


def test_media_count_by_what_is_said_of_them() -> None:
    message = content_pb2.Message()
    message.parts.add().media.CopyFrom(content_pb2.Media(mime_type="image/png", name="cat.png", data=b"x" * 9999))
    assert estimate([message], "", 0).input_tokens == 4


def test_a_summary_is_what_its_context_holds() -> None:
    before = content_pb2.ContextTokens(prompt_tokens=90_000, answer_tokens=100, is_estimated=True)
    after = context_of_summary(content_pb2.Usage(input_tokens=90_100, output_tokens=800))
    assert after == content_pb2.ContextTokens(answer_tokens=800)
    assert context_after(before, content_pb2.Usage(num_calls=1)) == before

"""Turns that do not stop where they are told to, and answers that stop too early: nothing runs that must not run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from examples.upstream import Answer, Ending, Upstream
from tests.service.failure.stories import StubbornGates, is_valid, kinds, reason_of
from tests.service.harness import submission
from tests.service.manual_clock import ManualClock
from tests.service.turns.scenes import Scene, Tools, calls, result_text, said, scene, script
from turnkeeper.v1 import run_service_pb2
from turnkeeper_service.providers.gates import Gates


@pytest.mark.parametrize(
    "late",
    [calls("t"), {"attempts": [{"fail": "PROVIDER_ERROR", "retryable": True}], "text": "again"}],
    ids=["calls", "fails"],
)
@pytest.mark.asyncio
async def test_a_model_call_that_ignores_its_cancel_writes_and_runs_nothing_after_its_terminal(
    late: dict[str, Any], tmp_path: Path
) -> None:
    clock, gates = ManualClock(), StubbornGates()
    tools = Tools(gates)
    tools.quick("t")
    held = {"gate": "held", **late}
    if "attempts" in late:
        held["attempts"] = [{"gate": "held", **late["attempts"][0]}]
    async with scene(tmp_path, tools, clock=clock, retries__max_retries="3") as on:
        await on.server.submit("s", script(held, "never"), "r")
        await gates.reached("held")
        await on.server.submit("s", "behind", "behind")
        await on.server.cancel(run_id="r")
        await clock.armed(2.0)
        clock.advance(2.0)
        assert reason_of(await on.watch.terminal("r")) == "CANCELLED/USER"
        await on.watch.terminal("behind")
        gates.open("held")
        assert (await on.watch.quiet()).keys() == {"r", "behind"}
        assert on.watch.of("r")[-1] == "run_finished"
        assert tools.ran == []
        assert is_valid(await on.server.messages("s"))
        assert not on.server.server.failure.done()


@pytest.mark.asyncio
async def test_calls_of_an_answer_that_comes_in_spite_of_a_cancel_do_not_run(tmp_path: Path) -> None:
    clock, gates = ManualClock(), StubbornGates()
    tools = Tools(gates)
    tools.quick("t")
    async with scene(tmp_path, tools, clock=clock) as on:
        await on.server.submit("s", script({"gate": "held", **calls("t")}, "never"), "r")
        await gates.reached("held")
        await on.server.cancel(run_id="r")
        await clock.armed(2.0)
        gates.open("held")
        assert reason_of(await on.watch.terminal("r")) == "CANCELLED/USER"
        assert tools.ran == []
        assert kinds(await on.server.history("s"), "r").count("tool_call_cancelled") == 1
        await on.server.submit("s", "next", "next")
        await on.watch.terminal("next")
        # The request of the next run has the call and its result: `scene` checks every request.
        assert "call t" in [said(message) for message in on.sent()]


@pytest.mark.parametrize(
    ("finish", "outcome"),
    [("max_tokens", "COMPLETED/MAX_TOKENS"), ("content_filter", "COMPLETED/CONTENT_FILTERED")],
)
@pytest.mark.asyncio
async def test_calls_of_an_answer_that_was_cut_short_do_not_run(finish: str, outcome: str, tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("t")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script({"text": "let me see", "finish": finish, **calls("t")}, "never"), "r")
        terminal = await on.watch.terminal("r")
        assert (reason_of(terminal), terminal.text) == (outcome, "let me see")
        assert tools.ran == []
        results = await on.results()
        assert [result_text(one) for one in results.values()] == ["not run: the answer was cut short"]
        assert results["id-t"].is_synthetic
        assert "tool_call_skipped" in on.watch.of("r")
        await on.server.submit("s", "next", "next")
        await on.watch.terminal("next")
        assert "call t" in said(on.sent()[1])


@asynccontextmanager
async def reading_the_list(data_dir: Path, clock: ManualClock) -> AsyncIterator[tuple[Scene, Gates]]:
    """A scene whose turns wait for the public list of models, which is read slowly; no vendor answers."""
    gates = Gates()
    settings: dict[str, Any] = {
        "providers__up__format": "openai-chat",
        "providers__up__base_url": "http://127.0.0.1:9/v1",
    }
    async with scene(data_dir, clock=clock, session={"model": "up/m"}, **settings) as on:
        public = on.server.server._public_list
        load = public.load

        async def slow() -> None:
            await gates.wait("list")
            await load()

        public.load = slow  # type: ignore[method-assign]
        yield on, gates


@pytest.mark.asyncio
async def test_a_deadline_that_passes_before_the_model_is_known_is_kept(tmp_path: Path) -> None:
    clock = ManualClock()
    async with reading_the_list(tmp_path, clock) as (on, gates):
        await on.server.submit("s", "hello", "r", run_timeout=Duration(seconds=5))
        await gates.reached("list")
        clock.advance(5)
        assert reason_of(await on.watch.terminal("r")) == "FAILED/RUN_DEADLINE"


@pytest.mark.asyncio
async def test_a_cancel_before_the_model_is_known_waits_for_nothing(tmp_path: Path) -> None:
    async with reading_the_list(tmp_path, ManualClock()) as (on, gates):
        await on.server.submit("s", "hello", "r")
        await gates.reached("list")
        await on.server.cancel(run_id="r")
        assert reason_of(await on.watch.terminal("r")) == "CANCELLED/USER"
        assert gates.num_waiting("list") == 0


@pytest.mark.asyncio
async def test_what_the_vendors_own_tools_did_before_a_cut_goes_back_whole(tmp_path: Path) -> None:
    search = {"type": "server_tool_use", "id": "own1", "name": "web_search", "input": {}}
    found = {"type": "web_search_tool_result", "tool_use_id": "own1", "content": []}
    unfinished = {**search, "id": "own2"}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {"id": "m"}}]
    for index, content in enumerate([search, found, unfinished]):
        events.append({"type": "content_block_start", "index": index, "content_block": content})
        events.append({"type": "content_block_stop", "index": index})
    events.append({"type": "content_block_start", "index": 3, "content_block": {"type": "text", "text": ""}})
    events.append({"type": "content_block_delta", "index": 3, "delta": {"type": "text_delta", "text": "found"}})
    chunks = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    async with Upstream() as upstream:
        settings: dict[str, Any] = {
            "providers__up__format": "anthropic-messages",
            "providers__up__base_url": upstream.base_url,
        }
        upstream.plan(Answer(chunks, ending=Ending.HANG))
        async with scene(tmp_path, session={"model": "up/tokens-1"}, **settings) as on:
            submitted = submission("s", "search", "r")
            async for response in on.server.runs.Run(run_service_pb2.RunRequest(submission=submitted)):
                if response.item.delta.text == "found":
                    await on.server.cancel(run_id="r")
            await on.server.submit("s", "go on", "next")
            assert reason_of(await on.watch.terminal("next")) == "COMPLETED/ANSWERED"
        (answer,) = [one for one in upstream.requests[1].json["messages"] if one["role"] == "assistant"]
        kinds_sent = [block["type"] for block in answer["content"]]
        assert kinds_sent == ["server_tool_use", "web_search_tool_result", "text"]

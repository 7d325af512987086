"""Tools of the server: whatever goes wrong with a call is a result that the model sees, and the turn goes on."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.service.failure.stories import reason_of
from tests.service.manual_clock import ManualClock
from tests.service.turns.scenes import Tools, call, calls, result_text, scene, script
from turnkeeper.v1 import content_pb2
from turnkeeper_service.tools.functions import ToolError


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


def broken() -> str:
    """Always fails."""
    raise ZeroDivisionError("secret detail")


def refusing() -> str:
    """Says what is wrong."""
    raise ToolError("come back on Monday")


def long() -> str:
    """Says too much."""
    return "x" * 2000


async def cancelled() -> str:
    """Is cancelled from within."""
    raise asyncio.CancelledError


def leaving() -> str:
    """Ends its process."""
    sys.exit(3)


async def leaving_at_once() -> str:
    """Ends its process on the loop."""
    sys.exit(3)


def foreign() -> content_pb2.ToolResult:
    """Answers another call than the one that was made."""
    result = content_pb2.ToolResult(tool_call_id="another", name="another")
    result.content.add().text.text = "mine"
    return result


RAW = {"name": "add", "id": "raw"}


@pytest.mark.parametrize(
    ("asked", "text", "is_error"),
    [
        pytest.param(call("nothing"), "there is no tool 'nothing'", True, id="unknown tool"),
        pytest.param(RAW | {"arguments": '{"a": 1'}, "the arguments are not valid JSON", True, id="bad JSON"),
        pytest.param(RAW | {"arguments": "[1]"}, "the arguments are not valid JSON", True, id="not an object"),
        pytest.param(call("add"), "'a' is a required property", True, id="missing argument"),
        pytest.param(call("add", a="one"), "a: 'one' is not of type 'integer'", True, id="wrong type"),
        pytest.param(call("add", a=2), "3", False, id="default argument"),
        pytest.param(call("broken"), "the tool failed: ZeroDivisionError", True, id="exception"),
        pytest.param(call("refusing"), "come back on Monday", True, id="error for the model"),
        pytest.param(call("long"), "the result is longer than 1000 bytes and was left out", True, id="too long"),
        pytest.param(call("cancelled"), "the tool was cancelled", True, id="cancelled from within"),
        pytest.param(call("leaving"), "the tool failed: RuntimeError", True, id="exit in a thread"),
        pytest.param(call("leaving_at_once"), "the tool failed: RuntimeError", True, id="exit on the loop"),
        pytest.param(call("foreign"), "mine", False, id="another call's id"),
    ],
)
@pytest.mark.asyncio
async def test_what_goes_wrong_with_a_call_is_its_result(
    tmp_path: Path, asked: dict[str, Any], text: str, is_error: bool
) -> None:
    tools = Tools()
    for function in (add, broken, refusing, long, cancelled, leaving, leaving_at_once, foreign):
        tools.add(function.__name__, function)
    async with scene(tmp_path, tools, limits__max_tool_result_bytes="1000") as on:
        await on.server.submit("s", script({"tool_calls": [asked | {"id": "c"}]}, "the end"), "r")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/ANSWERED", "the end", 2)
        result = (await on.results())["c"]
        assert text in result_text(result)
        assert (result.is_error, result.name) == (is_error, asked["name"])
        assert "secret" not in " ".join(on.told())


@pytest.mark.asyncio
async def test_a_tool_without_arguments_does_not_run_on_arguments_that_are_not_json(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("reset")
    async with scene(tmp_path, tools) as on:
        asked = {"name": "reset", "arguments": '{"only": "the cache"', "id": "c"}
        await on.server.submit("s", script({"tool_calls": [asked]}, "the end"), "r")
        await on.watch.terminal("r")
        assert tools.ran == []
        assert "not valid JSON" in result_text((await on.results())["c"])


@pytest.mark.asyncio
async def test_malformed_arguments_are_still_known_as_such_after_a_kill(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("slow")
    tools.quick("reset")
    asked = [call("slow", "c1"), {"name": "reset", "arguments": "{", "id": "c2"}]
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script({"tool_calls": asked}, "the end"), "r")
        await tools.gates.reached("slow")
    tools.gates.open("slow")
    async with scene_again(tmp_path, tools) as on:
        assert (await on.watch.terminal("r")).text == "the end"
        assert tools.ran == ["slow"]
        assert "not valid JSON" in result_text((await on.results())["c2"])


@pytest.mark.asyncio
async def test_a_tool_that_takes_too_long_is_cancelled(tmp_path: Path) -> None:
    clock, tools = ManualClock(), Tools()
    tools.held("default")
    tools.held("own", timeout=7.0)
    async with scene(tmp_path, tools, clock=clock) as on:
        await on.server.submit("s", script(calls("default", "own"), "the end"), "r")
        await tools.gates.reached("default")
        await clock.armed(120.0)
        clock.advance(120.0)
        await tools.gates.reached("own")
        await clock.armed(7.0)
        clock.advance(7.0)
        assert (await on.watch.terminal("r")).text == "the end"
        results = (await on.results()).values()
        assert [result_text(one) for one in results] == [
            "the tool did not answer within 120 seconds",
            "the tool did not answer within 7 seconds",
        ]
        assert [(one.is_error, one.is_synthetic) for one in results] == [(True, True)] * 2
        assert (tools.gates.num_waiting("default"), tools.gates.num_waiting("own")) == (0, 0)


@pytest.mark.asyncio
async def test_a_tool_that_ignores_its_timeout_is_detached_and_the_run_goes_on(tmp_path: Path) -> None:
    clock, tools = ManualClock(), Tools()

    async def stubborn() -> str:
        while True:
            try:
                await tools.gates.wait("stubborn")
                return "x" * 2000
            except asyncio.CancelledError:
                tools.ran.append("ignored")

    tools.add("stubborn", stubborn)
    async with scene(tmp_path, tools, clock=clock, limits__max_tool_result_bytes="1000") as on:
        await on.server.submit("s", script(calls("stubborn"), {"text": "the end", "gate": "g"}), "r")
        await clock.armed(120.0)
        clock.advance(120.0)
        await clock.armed(2.0)
        clock.advance(2.0)
        await on.watch.seen("r", "tool_call_finished")
        assert on.server.server.runs.parts.num_detached == 1
        # Its result comes while the run still goes on: it is recorded, and the model does not see it.
        tools.gates.open("stubborn")
        late = (await on.watch.seen("r", "tool_call_late_result")).tool_call_late_result.result
        assert (late.tool_call_id, late.name) == ("id-stubborn", "stubborn")
        assert result_text(late) == "the result is longer than 1000 bytes and was left out"
        on.server.gates.open("g")
        assert (await on.watch.terminal("r")).text == "the end"
        assert on.told()[-1] == "stubborn: the tool did not answer within 120 seconds"


@pytest.mark.asyncio
async def test_a_detached_tool_does_not_keep_the_server_from_closing(tmp_path: Path) -> None:
    clock, tools = ManualClock(), Tools()

    async def stubborn() -> str:
        try:
            await tools.gates.wait("stubborn")
        except asyncio.CancelledError:
            tools.ran.append("ignored once")
        await tools.gates.wait("stubborn")
        return "never recorded"

    tools.add("stubborn", stubborn)
    async with scene(tmp_path, tools, clock=clock) as on:
        await on.server.submit("s", script(calls("stubborn"), "never"), "r")
        await tools.gates.reached("stubborn")
        await on.server.cancel(run_id="r")
        await clock.armed(2.0)
        clock.advance(2.0)
        await on.watch.terminal("r")
        await tools.gates.reached("stubborn", 2)
        assert on.server.server.runs.parts.num_detached == 1
    assert tools.gates.num_waiting("stubborn") == 0
    async with scene_again(tmp_path, tools) as on:
        assert "r" in await on.watch.quiet()
        assert "tool_call_late_result" not in on.watch.of("r")


@pytest.mark.asyncio
async def test_parallel_calls_run_five_at_a_time_and_answer_in_their_order(tmp_path: Path) -> None:
    tools = Tools()
    names = [f"p{number}" for number in range(7)]
    tools.held(*names, is_parallel=True)
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls(*names), "the end"), "r")
        for name in names[:5]:
            await tools.gates.reached(name)
        # All that can have begun has: the server answers a whole call meanwhile.
        await on.server.run_view("r")
        assert sorted(tools.ran) == names[:5]
        for name in reversed(names[:5]):
            tools.gates.open(name)
            await on.watch.until(
                lambda event, name=name: event.tool_call_finished.result.name == name  # type: ignore[misc]
            )
        for name in reversed(names[5:]):
            await tools.gates.reached(name)
            tools.gates.open(name)
        assert (await on.watch.terminal("r")).text == "the end"
        ended = [
            event.tool_call_finished.result.name for event in on.watch.events if event.HasField("tool_call_finished")
        ]
        assert ended[:5] == names[4::-1]
        assert list(await on.results()) == [f"id-{name}" for name in names]
        assert on.told()[-1] == " | ".join(f"{name}: {name} is done" for name in names)


@pytest.mark.asyncio
async def test_calls_that_are_not_marked_parallel_run_one_after_another(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("a", "b")
    tools.held("p", "q", is_parallel=True)
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("p", "a", "q", "b"), "the end"), "r")
        for index, name in enumerate(("p", "a", "q", "b"), start=1):
            await tools.gates.reached(name)
            await on.server.run_view("r")
            assert len(tools.ran) == index
            tools.gates.open(name)
        await on.watch.terminal("r")
        assert tools.ran == ["p", "a", "q", "b"]


@pytest.mark.asyncio
async def test_one_parallel_call_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("slow", is_parallel=True)
    tools.add("broken", broken, is_parallel=True)
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("broken", "slow", "nothing"), "the end"), "r")
        await on.watch.seen("r", "tool_call_finished")
        tools.gates.open("slow")
        assert (await on.watch.terminal("r")).text == "the end"
        assert on.told()[-1] == (
            "broken: the tool failed: ZeroDivisionError | slow: slow is done | nothing: there is no tool 'nothing'"
        )


@pytest.mark.asyncio
async def test_a_cancel_of_parallel_calls_leaves_each_with_one_result(tmp_path: Path) -> None:
    tools = Tools()
    tools.held("a", "b", "c", is_parallel=True)
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("a", "b", "c"), "never"), "r")
        for name in ("a", "b", "c"):
            await tools.gates.reached(name)
        tools.gates.open("b")
        await on.watch.seen("r", "tool_call_finished")
        await on.server.cancel(run_id="r")
        assert reason_of(await on.watch.terminal("r")) == "CANCELLED/USER"
        results = await on.results()
        assert [(name, one.is_synthetic) for name, one in results.items()] == [
            ("id-a", True),
            ("id-b", False),
            ("id-c", True),
        ]
        await on.server.submit("s", "next", "next")
        assert (await on.watch.terminal("next")).text == "next"


@pytest.mark.parametrize(
    ("is_safe", "ran", "text"),
    [
        pytest.param(True, ["slow", "slow"], "slow is done", id="safe"),
        pytest.param(False, ["slow"], "the process was lost while this tool ran", id="never"),
    ],
)
@pytest.mark.asyncio
async def test_a_call_in_flight_when_the_process_was_lost_runs_again_by_its_replay_class(
    tmp_path: Path, is_safe: bool, ran: list[str], text: str
) -> None:
    tools = Tools()
    tools.held("slow", is_replay_safe=is_safe)
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("slow"), "the end"), "r")
        await tools.gates.reached("slow")
    tools.gates.open("slow")
    async with scene_again(tmp_path, tools) as on:
        outcome = await on.watch.terminal("r")
        assert (outcome.text, outcome.num_steps) == ("the end", 2)
        assert tools.ran == ran
        assert text in result_text((await on.results())["id-slow"])


def scene_again(data_dir: Path, tools: Tools) -> Any:
    """The next server over the same data, as tests see it."""
    return scene(data_dir, tools, is_new=False)

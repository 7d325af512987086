"""Loop detection: which steps are the same, and how many of the last ten may be."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.service.failure.stories import reason_of
from tests.service.turns.scenes import STEER, Tools, call, scene, script
from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.steps.loops import LoopDetector, signature


def did(name: str = "look", arguments: str = "{}", result: str | None = "nothing", call_id: str = "c") -> str:
    """The signature of a step of one call."""
    asked = content_pb2.ToolCall(tool_call_id=call_id, name=name, arguments_json=arguments)
    answered = None
    if result is not None:
        answered = content_pb2.ToolResult(tool_call_id=call_id, name=name)
        answered.content.add().text.text = result
    return signature([(asked, answered)])


def is_loop(steps: Iterable[str]) -> bool:
    """Whether any of these steps, taken in order, makes a loop."""
    detector = LoopDetector()
    found = [detector.step(step) for step in steps]
    return any(found)


SAME = did()
DISTINCT = [did(arguments=f'{{"number": {number}}}') for number in range(10)]


@pytest.mark.spec("dispatch:L-1")
def test_no_steps_are_no_loop() -> None:
    assert not is_loop([])


@pytest.mark.spec("dispatch:L-2")
def test_steps_fewer_than_the_window_are_no_loop() -> None:
    assert not is_loop([SAME] * 5)
    assert not is_loop([SAME] * 9)
    assert is_loop([SAME] * 10)


@pytest.mark.spec("dispatch:L-3")
def test_steps_that_differ_are_no_loop() -> None:
    assert len(set(DISTINCT)) == 10
    assert not is_loop(DISTINCT)


@pytest.mark.spec("dispatch:L-4")
def test_five_equal_steps_of_ten_are_no_loop() -> None:
    assert not is_loop([SAME] * 5 + DISTINCT[:5])
    assert not is_loop(DISTINCT[:5] + [SAME] * 5)


def test_equal_steps_that_have_left_the_window_do_not_count() -> None:
    assert not is_loop([SAME] * 5 + DISTINCT[:5] + [SAME] * 5)


@pytest.mark.spec("dispatch:L-6")
def test_steps_without_calls_do_not_count_and_keep_their_place() -> None:
    other = did("other")
    assert not is_loop([SAME] * 4 + [""] * 4 + [other] * 2)
    assert not is_loop([""] * 10)


@pytest.mark.spec("dispatch:L-7")
def test_two_patterns_in_turn_are_no_loop() -> None:
    assert not is_loop([SAME, did("other")] * 5)


@pytest.mark.spec("dispatch:L-8", "dispatch:L-9")
def test_a_step_without_calls_has_no_signature() -> None:
    # What a step said is no part of it, so one of text alone is like one without any content.
    assert signature([]) == ""


@pytest.mark.spec("dispatch:L-10", "dispatch:L-11", "dispatch:L-12")
def test_a_signature_is_of_name_input_and_result_and_not_of_the_id() -> None:
    assert SAME
    assert did(call_id="another") == SAME
    assert did(arguments='{"a": 1}') != SAME
    assert did(name="other") != SAME
    assert did(result="something") != SAME
    assert did(result=None) != SAME


def test_a_signature_is_of_all_calls_in_their_order() -> None:
    asked = [content_pb2.ToolCall(name=name) for name in ("a", "b")]
    assert signature((one, None) for one in asked) != signature((one, None) for one in reversed(asked))
    assert signature((one, None) for one in asked) != signature([(asked[0], None)])


@pytest.mark.spec("dispatch:L-5")
@pytest.mark.asyncio
async def test_a_model_that_repeats_itself_fails_as_a_tool_loop(tmp_path: Path) -> None:
    tools = Tools()

    async def look(number: int) -> str:
        tools.ran.append(f"look {number}")
        return f"saw {number}"

    tools.add("look", look)
    same = [{"tool_calls": [call("look", number=0)]}]
    others = [{"tool_calls": [call("look", number=number)]} for number in (1, 2, 3, 4)]
    async with scene(tmp_path, tools) as on:
        # Five equal ones of ten may be, so this run ends by its answer.
        few = script(*same * 5, *others, {"tool_calls": [call("look", number=5)]}, "an answer")
        await on.server.submit("s", few, "few")
        assert reason_of(await on.watch.terminal("few")) == "COMPLETED/ANSWERED"
        tools.ran.clear()
        await on.server.submit("s", script(*same * 3, *others, *same * 4, "never"), "loop")
        outcome = await on.watch.terminal("loop")
        assert (reason_of(outcome), outcome.num_steps) == ("FAILED/TOOL_LOOP", 10)
        assert outcome.errors[0].reason == outcome.reason
        assert len(tools.ran) == 10
        # The last call has its result in the history all the same: the next request is checked for it.
        await on.server.submit("s", "and now", "next")
        assert (await on.watch.terminal("next")).text == "and now"


@pytest.mark.asyncio
async def test_a_steer_that_was_taken_at_the_last_step_of_a_loop_is_folded(tmp_path: Path) -> None:
    """Each of ten equal batches is cut short by a steer: none may be lost when the tenth would be a loop."""
    tools = Tools()

    async def first() -> str:
        tools.ran.append("first")
        await tools.gates.wait(f"first {len(tools.ran)}")
        return "done"

    tools.add("first", first)
    tools.quick("second")
    batch = {"tool_calls": [call("first", "a"), call("second", "b")]}
    steers = [f"s{number}" for number in range(10)]
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(batch), "r")
        for number, run_id in enumerate(steers, start=1):
            await tools.gates.reached(f"first {number}")
            # The steer is the next user message, so it says what is answered next.
            text = "enough" if number == 10 else script(batch)
            await on.server.submit("s", text, run_id, delivery=STEER)
            tools.gates.open(f"first {number}")
            await on.watch.terminal(run_id)
        outcome = await on.watch.terminal("r")
        assert reason_of(outcome) == "COMPLETED/ANSWERED"
        found = on.watch.terminals()
        assert [found[run_id].status for run_id in steers] == [event_pb2.OUTCOME_STATUS_FOLDED] * 10
        assert tools.ran == ["first"] * 10

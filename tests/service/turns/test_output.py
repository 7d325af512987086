"""Runs with an output schema (U-8): answers that match it, those that do not, and when the model is asked again."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from tests.service.dispatch.script import at_gate, reply
from tests.service.failure.stories import kinds, reason_of, text_of
from tests.service.harness import Places
from tests.service.turns.scenes import STEER, STOP, Scene, Tools, calls, said, scene, script, texts
from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.steps.output import MAX_OUTPUT_BYTES, OutputMismatchError, output_of
from turnkeeper_service.tools.functions import EndTurn

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"answer": {"type": "integer"}},
        "required": ["answer"],
        "additionalProperties": False,
    }
)
GOOD = '{"answer": 42}'
ASKED = {"output_schema_json": SCHEMA}
TOLD = content_pb2.MESSAGE_ORIGIN_OUTPUT_INVALID


async def end_of(on: Scene, text: str, run_id: str = "r", **fields: Any) -> event_pb2.Outcome:
    """Submit a prompt with the schema and read up to its terminal."""
    await on.server.submit("s", text, run_id, **{**ASKED, **fields})
    return await on.watch.terminal(run_id)


async def reprompts(on: Scene, run_id: str = "r") -> list[str]:
    """What a run's model was told of its answers."""
    return [said(one) for one in await on.server.messages("s") if one.run_id == run_id and one.origin == TOLD]


@pytest.mark.spec("runs-and-tasks:R1")
@pytest.mark.asyncio
async def test_prose_is_asked_for_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        outcome = await end_of(on, script("I think it is 42.", f"```json\n{GOOD}\n```"))
        assert (reason_of(outcome), outcome.output_json) == ("COMPLETED/ANSWERED", GOOD)
        assert (outcome.text, outcome.num_steps) == (f"```json\n{GOOD}\n```", 2)
        assert outcome.usage.own.num_calls == len(on.requests) == 2
        # The answer stays, and the model is told what is wrong with it, in the user's role.
        assert texts(await on.server.messages("s"), content_pb2.ROLE_ASSISTANT) == ["I think it is 42.", outcome.text]
        words = await reprompts(on)
        assert on.told()[1:] == ["I think it is 42.", *words]
        assert on.sent()[-1].role == content_pb2.ROLE_USER
        assert "the answer is not JSON" in words[0]
        assert SCHEMA in words[0]
        step = ["step_started", "message_committed", "step_finished"]
        assert on.watch.of("r")[1:] == [
            "run_started",
            "message_committed",
            *step,
            "message_committed",
            *step,
            "run_finished",
        ]
        await on.idle()


@pytest.mark.spec("runs-and-tasks:R2")
@pytest.mark.asyncio
async def test_a_model_that_only_writes_prose_fails_the_run_after_three_requests(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        outcome = await end_of(on, "prose")
        assert (reason_of(outcome), outcome.output_json) == ("FAILED/OUTPUT_INVALID", "")
        assert len(on.requests) == outcome.num_steps == outcome.usage.own.num_calls == 3
        assert [(one.title, one.detail, one.reason) for one in outcome.errors] == [
            ("Output invalid", "the answer is not JSON (Expecting value, line 1)", outcome.reason)
        ]
        # The answers are whole, the last one too.
        answers = [one for one in await on.server.messages("s") if one.role == content_pb2.ROLE_ASSISTANT]
        assert [(text_of(one), one.status) for one in answers] == [("prose", content_pb2.MESSAGE_STATUS_COMPLETE)] * 3
        assert (outcome.text, outcome.message_id) == ("prose", answers[-1].message_id)
        assert len(await reprompts(on)) == 2
        assert not (await on.watch.quiet()).keys() - {"r"}


@pytest.mark.spec("runs-and-tasks:R3")
@pytest.mark.asyncio
async def test_without_re_prompts_it_fails_after_one_request(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        outcome = await end_of(on, "prose", max_output_reprompts=0)
        assert (reason_of(outcome), len(on.requests)) == ("FAILED/OUTPUT_INVALID", 1)


@pytest.mark.spec("runs-and-tasks:R4")
@pytest.mark.asyncio
async def test_one_re_prompt_in_the_words_of_the_submission(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        outcome = await end_of(on, "prose", max_output_reprompts=1, output_reprompt="Only JSON, please!")
        assert (reason_of(outcome), len(on.requests)) == ("FAILED/OUTPUT_INVALID", 2)
        assert on.told(1)[-1].startswith("Only JSON, please!\n\nWhat is wrong: the answer is not JSON")


@pytest.mark.asyncio
async def test_what_is_an_output(tmp_path: Path) -> None:
    fits = {
        GOOD: GOOD,
        f"  \n{GOOD}\n": GOOD,
        f"```json\n{GOOD}\n```": GOOD,
        f"```\n{GOOD}\n```\n": GOOD,
        f"Here it is:\n\n```JSON\n{GOOD}\n```\nThat is all.": GOOD,
        f"```python\nx = 1\n```\nso\n```json\n{GOOD}\n```": GOOD,
        f"```python\nx = {{'a': 1}}\n```\n{GOOD}": GOOD,
        f"\ufeff{GOOD}": GOOD,
        f"\ufeff```json\n\ufeff{GOOD}\n```": GOOD,
        f"{GOOD} it is": GOOD,
        f"It is {GOOD}": GOOD,
        f"I looked [1] and [2] at {{it}}, and\n\n{GOOD}\n\nis what I found.": GOOD,
        f"```json\n{GOOD}": GOOD,
        f"```json\n// the answer\n{GOOD}\n```": GOOD,
        f'Not {{"question": 1}} but {GOOD}.': GOOD,
        '{"answer": 4} with "quotes{"': '{"answer": 4}',
        f'<think>Perhaps {{"answer": 41}}, or not?</think>\n\n{GOOD}': GOOD,
        f'Perhaps {{"answer": 41}}.\n</THINK>So it is {GOOD}': GOOD,
    }
    async with scene(tmp_path) as on:
        for number, (text, output) in enumerate(fits.items()):
            outcome = await end_of(on, reply(text), f"r{number}")
            assert (reason_of(outcome), outcome.output_json, outcome.text) == ("COMPLETED/ANSWERED", output, text)
        assert len(on.requests) == len(fits)


@pytest.mark.asyncio
async def test_what_is_no_output_and_what_is_said_of_it(tmp_path: Path) -> None:
    fails = {
        "": "the answer is not JSON",
        f"It is {GOOD} or {GOOD}": "the answer is not JSON",
        "It is {answer: 42} or [answer]": "the answer is not JSON",
        'It is {"answer": "secret"}.': "answer: 'secret' is not of type 'integer'",
        f"```json\n{GOOD}\n```\n```json\n{GOOD}\n```": "the answer is not JSON",
        '{"answer": NaN}': "the answer is not JSON",
        '{"answer": ' + "7" * 5000 + "}": "the answer is not JSON",
        "[" * 12_000: "the answer is nested too deeply",
        "so " + '[{"a":' * 12_000: "the answer is not JSON",
        "[1]": "the answer: [1] is not of type 'object'",
        "{}": "the answer: 'answer' is a required property",
        '{"answer": "secret"}': "answer: 'secret' is not of type 'integer'",
        '{"answer": 1, "\\ud800": 2}': "the answer: Additional properties are not allowed",
        # Long enough to be checked beside the event loop.
        json.dumps({"answer": ["x" * 100] * 1000}): "is not of type 'integer'",
        json.dumps({"answer": 1, "more": "x" * 20_000}): "was unexpected",
    }
    async with scene(tmp_path) as on:
        for number, (text, problem) in enumerate(fails.items()):
            outcome = await end_of(on, script(text, GOOD), f"again-{number}")
            assert (reason_of(outcome), outcome.output_json) == ("COMPLETED/ANSWERED", GOOD), text[:40]
            (words,) = await reprompts(on, f"again-{number}")
            assert problem in words
            assert len(words) < 1000
            outcome = await end_of(on, reply(text), f"once-{number}", max_output_reprompts=0)
            assert reason_of(outcome) == "FAILED/OUTPUT_INVALID"
            # What operators see repeats nothing of the answer.
            assert "secret" not in outcome.errors[0].detail
            if problem.startswith("answer:"):
                assert outcome.errors[0].detail == "the answer does not match the schema at properties/answer/type"


def test_an_output_has_a_longest_size() -> None:
    longest = '"' + "x" * (MAX_OUTPUT_BYTES - 2) + '"'
    assert output_of(longest, "{}") == longest
    with pytest.raises(OutputMismatchError, match="longer than 4194304 bytes"):
        output_of(longest + " " * 3 + "1", "{}")


def test_prose_full_of_brackets_is_given_up_soon() -> None:
    for one in ("[", '["', "{", '{"a":[', "[1,"):
        with pytest.raises(OutputMismatchError):
            output_of("x" + one * 500_000, "{}")


@pytest.mark.parametrize(
    ("number", "step", "is_valid"),
    [
        ("4.02", "0.01", True),
        ("19.99", "0.01", True),
        ("-0.07", "0.01", True),
        ("1e3", "0.001", True),
        ("1e308", "1e-308", True),
        ("123456789.01", "0.01", True),
        ("0.3", "0.1", True),
        ("7", "0.7", True),
        ("8", "0.7", False),
        ("4.025", "0.01", False),
        ("1e-320", "0.01", False),
        ("1e999", "0.01", False),
        ("6", "4", False),
    ],
)
@pytest.mark.asyncio
async def test_numbers_are_compared_as_the_decimals_that_they_are_written_as(
    tmp_path: Path, number: str, step: str, is_valid: bool
) -> None:
    of_price = f'{{"type": "number", "multipleOf": {step}}}'
    schema = f'{{"type": "object", "properties": {{"price": {of_price}}}, "required": ["price"]}}'
    tools = Tools()
    tools.quick("book")
    tools.add("pay", pay)
    tools.offered["book"].tool.input_schema_json = schema
    price = f'{{"price": {number}}}'
    async with scene(tmp_path, tools) as on:
        called = {"tool_calls": [{"name": name, "arguments": price, "id": name} for name in ("book", "pay")]}
        outcome = await end_of(on, script(called, price), output_schema_json=schema, max_output_reprompts=0)
        assert reason_of(outcome) == ("COMPLETED/ANSWERED" if is_valid else "FAILED/OUTPUT_INVALID")
        found = await on.results()
        assert found["book"].is_error != is_valid
        # A function has a step of its own, and a limit.
        is_paid = Fraction(number) % Fraction("0.01") == 0 and Fraction(number) < 1e9
        assert found["pay"].is_error != is_paid


def pay(price: Annotated[float, Field(multiple_of=0.01, le=1e9)]) -> str:
    """Pay."""
    return f"paid {price}"


@pytest.mark.asyncio
async def test_a_long_output_is_whole(tmp_path: Path) -> None:
    text = json.dumps([{"number": number} for number in range(5000)])
    schema = json.dumps({"type": "array", "items": {"required": ["number"]}, "maxItems": 5000})
    async with scene(tmp_path) as on:
        outcome = await end_of(on, reply(text), output_schema_json=schema)
        assert (reason_of(outcome), outcome.output_json) == ("COMPLETED/ANSWERED", text)


@pytest.mark.asyncio
async def test_a_schema_that_refers_elsewhere_fails_the_run_at_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        schema = json.dumps({"$ref": "https://schemas.example/answer.json"})
        outcome = await end_of(on, reply(GOOD), output_schema_json=schema)
        assert (reason_of(outcome), len(on.requests)) == ("FAILED/OUTPUT_INVALID", 1)
        assert outcome.errors[0].detail == "the schema cannot be used: it refers to what is not in it"


@pytest.mark.asyncio
async def test_tools_may_run_before_and_after_a_re_prompt(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look")
    async with scene(tmp_path, tools) as on:
        outcome = await end_of(on, script(calls("look"), "prose", {**calls("look"), "text": "hm"}, GOOD))
        assert (reason_of(outcome), outcome.output_json) == ("COMPLETED/ANSWERED", GOOD)
        assert (tools.ran, len(on.requests), len(await reprompts(on))) == (["look", "look"], 4, 1)


@pytest.mark.asyncio
async def test_a_steer_comes_before_the_re_prompt_and_does_not_count(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.server.submit("s", reply("prose", gate="first"), "r", **ASKED)
        await at_gate(on.server, "first")
        await on.server.submit("s", script("more prose", "still prose", GOOD), "steer", delivery=STEER)
        on.server.gates.open("first")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.output_json) == ("COMPLETED/ANSWERED", GOOD)
        assert reason_of(await on.watch.terminal("steer")).startswith("FOLDED/")
        assert (outcome.num_steps, len(await reprompts(on))) == (4, 2)
        # The steer is the whole of what came between the first answer and the second.
        assert on.told(1)[1] == "prose"
        assert len(on.told(1)) == 3


@pytest.mark.asyncio
async def test_a_steer_after_the_last_re_prompt_is_heard_before_the_run_fails(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.server.submit("s", reply("prose", gate="only"), "r", **ASKED, max_output_reprompts=0)
        await at_gate(on.server, "only")
        await on.server.submit("s", reply(GOOD), "steer", delivery=STEER)
        on.server.gates.open("only")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.output_json, outcome.num_steps) == ("COMPLETED/ANSWERED", GOOD, 2)


@pytest.mark.parametrize(("text", "output"), [("prose", ""), (GOOD, GOOD)])
@pytest.mark.asyncio
async def test_a_stopped_run_is_not_asked_again(tmp_path: Path, text: str, output: str) -> None:
    async with scene(tmp_path) as on:
        await on.server.submit("s", reply(text, gate="g"), "r", **ASKED)
        await at_gate(on.server, "g")
        await on.server.cancel(run_id="r", mode=STOP)
        on.server.gates.open("g")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.output_json) == ("COMPLETED/STOPPED", output)
        assert (outcome.text, len(on.requests)) == (text, 1)


@pytest.mark.asyncio
async def test_a_stop_during_the_second_try_ends_it(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.server.submit("s", script("prose", {"text": "prose", "gate": "g"}), "r", **ASKED)
        await at_gate(on.server, "g")
        await on.server.cancel(run_id="r", mode=STOP)
        on.server.gates.open("g")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.output_json, outcome.num_steps) == ("COMPLETED/STOPPED", "", 2)


@pytest.mark.asyncio
async def test_a_cancel_during_the_second_try_keeps_what_there_is(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.server.submit("s", script("prose", {"text": GOOD, "gate": "g"}), "r", **ASKED)
        await at_gate(on.server, "g")
        outcome = (await on.server.cancel(run_id="r", wait=True)).runs[0].outcome
        assert (reason_of(outcome), outcome.output_json, outcome.num_steps) == ("CANCELLED/USER", "", 2)
        statuses = [(one.origin, one.status) for one in await on.server.messages("s")][2:]
        assert statuses == [
            (TOLD, content_pb2.MESSAGE_STATUS_COMPLETE),
            (content_pb2.MESSAGE_ORIGIN_UNSPECIFIED, content_pb2.MESSAGE_STATUS_CANCELLED),
        ]


@pytest.mark.parametrize(
    ("text", "fields", "reason", "output", "num_requests"),
    [
        ("prose", {"max_steps": 1}, "STEP_LIMIT", "", 1),
        ("prose", {"max_steps": 2}, "STEP_LIMIT", "", 2),
        (reply(GOOD), {"max_steps": 1}, "ANSWERED", GOOD, 1),
        ("prose", {"max_steps": 0}, "STEP_LIMIT", "", 0),
        (reply('{"answer"', finish="max_tokens"), {}, "MAX_TOKENS", "", 1),
        (reply(GOOD, finish="max_tokens"), {}, "MAX_TOKENS", GOOD, 1),
        (reply("prose", finish="content_filter"), {}, "CONTENT_FILTERED", "", 1),
    ],
)
@pytest.mark.asyncio
async def test_a_limit_ends_a_run_without_a_re_prompt(
    tmp_path: Path, text: str, fields: dict[str, Any], reason: str, output: str, num_requests: int
) -> None:
    async with scene(tmp_path) as on:
        outcome = await end_of(on, text, **fields)
        assert (reason_of(outcome), outcome.output_json) == (f"COMPLETED/{reason}", output)
        assert len(on.requests) == num_requests


@pytest.mark.asyncio
async def test_the_last_step_of_a_session_with_tools_is_not_asked_again(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look")
    async with scene(tmp_path, tools) as on:
        outcome = await end_of(on, script(calls("look"), "prose"), max_steps=2, max_output_reprompts=0)
        assert (reason_of(outcome), outcome.output_json, outcome.text) == ("COMPLETED/STEP_LIMIT", "", "prose")


@pytest.mark.asyncio
async def test_a_run_that_a_tool_ends_has_no_output_of_its_schema(tmp_path: Path) -> None:
    tools = Tools()
    tools.add("end", lambda: EndTurn("over"))
    async with scene(tmp_path, tools) as on:
        outcome = await end_of(on, script({**calls("end"), "text": GOOD}))
        assert (reason_of(outcome), outcome.output_json, outcome.text) == ("COMPLETED/TOOL_ENDED", "", GOOD)


@pytest.mark.parametrize(
    ("last", "reason", "output"), [("prose", "FAILED/OUTPUT_INVALID", ""), (GOOD, "COMPLETED/ANSWERED", GOOD)]
)
@pytest.mark.asyncio
async def test_a_restart_forgets_no_re_prompt(tmp_path: Path, last: str, reason: str, output: str) -> None:
    tools, places = Tools(), Places()
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script("prose", {"text": "prose", "gate": "second"}, last), "r", **ASKED)
        await at_gate(on.server, "second")
    tools.gates.open("second")
    places.hold("turn", "r")
    async with scene(tmp_path, tools, is_new=False, places=places) as on:
        places.release("turn", "r")
        outcome = await on.watch.terminal("r")
        assert (reason_of(outcome), outcome.output_json, outcome.num_steps) == (reason, output, 3)
        # One before the loss, one after it, and the step that was lost was run again.
        assert (len(await reprompts(on)), len(on.requests)) == (2, 2)
        assert kinds(await on.server.history("s"), "r").count("attempt_discarded") == 1

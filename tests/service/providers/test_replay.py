"""What a model said goes back to a vendor in a form that it takes, whatever it was: names, ids, depth, characters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.service.dispatch.script import at_gate, reply
from tests.service.failure.stories import reason_of
from tests.service.harness import Harness
from tests.service.providers.strict_vendor import Call, Reply, called_names, offered_names, strict
from tests.service.providers.test_formats import WIRE_FORMATS
from tests.service.turns.scenes import STEER, Tools, call, result_text, script
from turnkeeper.v1 import content_pb2, event_pb2

ODD_NAMES = ["", "functions.note", "note<|channel|>commentary", "n" * 80, "n" * 79 + "m", "9lives", "-", "naïve", "a b"]


async def outcome_of(server: Harness, text: str, run_id: str, **fields: object) -> event_pb2.Outcome:
    await server.submit("s", text, run_id, **fields)
    return (await server.terminals("s", [run_id]))[run_id]


async def results(server: Harness) -> list[content_pb2.ToolResult]:
    messages = await server.messages("s")
    return [part.tool_result for one in messages for part in one.parts if part.HasField("tool_result")]


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_names_that_no_tool_has_are_answered_and_do_not_poison_the_session(
    tmp_path: Path, wire_format: str
) -> None:
    tools = Tools()
    tools.quick("functions_note", "note", "9lives")
    odd = [Call(name, call_id=f"call{number}") for number, name in enumerate(ODD_NAMES)]
    replies = [Reply(calls=odd), Reply(text="one"), Reply(text="two")]
    async with strict(tmp_path, wire_format, *replies, tools=tools.offered) as (server, vendor):
        assert reason_of(await outcome_of(server, "go", "r")) == "COMPLETED/ANSWERED"
        outcome = await outcome_of(server, "and now", "next")
        assert (reason_of(outcome), outcome.text, vendor.problems) == ("COMPLETED/ANSWERED", "two", [])
        found = await results(server)
        # In the history each has the name that the model called it by; what is a tool has run.
        assert [one.name for one in found] == ODD_NAMES
        assert [one.name for one in found if not one.is_error] == ["9lives"] == tools.ran
        assert result_text(found[1]) == "there is no tool 'functions.note'"
        # Different names stay different, and none becomes that of a tool that it is not.
        (*_, body) = vendor.bodies
        sent = called_names(wire_format, body)
        assert len(set(sent)) == len(ODD_NAMES)
        assert set(sent) & set(offered_names(wire_format, body)) == {sent[5]}


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_a_call_by_the_name_that_the_vendor_was_told_is_one_of_ours(tmp_path: Path, wire_format: str) -> None:
    tools = Tools()
    tools.quick("7up", "functions_note")
    async with strict(tmp_path, wire_format, tools=tools.offered) as (server, vendor):
        vendor.replies = [Reply(calls=[Call("functions.note", call_id="a1")]), Reply()]
        await outcome_of(server, "go", "r1")
        body = vendor.bodies[-1]
        (legal,) = set(called_names(wire_format, body))
        seven = offered_names(wire_format, body)[0]
        # The model takes up what it finds in the conversation.
        vendor.replies = [Reply(calls=[Call(legal, call_id="b2"), Call(seven, call_id="c3")]), Reply(text="done")]
        assert (await outcome_of(server, "go", "r2")).text == "done"
        assert [one.name for one in await results(server)] == ["functions.note", "functions.note", "7up"]
        assert (tools.ran, vendor.problems) == (["7up"], [])


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_a_session_moves_to_a_vendor_that_wants_nine_letters_and_digits(tmp_path: Path, wire_format: str) -> None:
    tools = Tools()
    tools.quick("look")
    nine = r"[A-Za-z0-9]{9}"
    own = Reply(calls=[Call("look", call_id="Xy9Xy9Xy9"), Call("look", call_id="Ab1Ab1Ab1")])
    async with strict(tmp_path, wire_format, own, Reply(text="yes"), ids=nine, tools=tools.offered) as (server, vendor):
        ids = ["", "call_0123456789abcdef", "toolu_01-x.y:z", "é" * 3, "call_0123456789abcdef0" * 4]
        moved = script(*[{"tool_calls": [call("look", one)]} for one in ids], "moved")
        assert (await outcome_of(server, moved, "before", model="scripted/echo")).text == "moved"
        assert (await outcome_of(server, "go", "r")).text == "yes"
        assert vendor.problems == []
        assert (await outcome_of(server, "again", "r2")).text == "ok"
        if wire_format != "gemini":
            # Its own come back to it unchanged.
            assert b"Xy9Xy9Xy9" in vendor.upstream.requests[-1].body


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_user_and_assistant_alternate_after_failures_cancels_and_folds(tmp_path: Path, wire_format: str) -> None:
    async with strict(tmp_path, wire_format, Reply(text="yes")) as (server, vendor):
        failed = await outcome_of(server, reply(fail="PROVIDER_REFUSED"), "failed", model="scripted/echo")
        assert reason_of(failed) == "FAILED/PROVIDER_REFUSED"
        await server.submit("s", reply("never", gate="g"), "cancelled", model="scripted/echo")
        await at_gate(server, "g")
        await server.cancel(run_id="cancelled", wait=True)
        await server.submit("s", reply("before", gate="h"), "folding", model="scripted/echo")
        await at_gate(server, "h")
        for number in range(2):
            await server.submit("s", "hello", f"steer-{number}", delivery=STEER)
        server.gates.open("h")
        await server.terminals("s", ["folding"])
        outcome = await outcome_of(server, "go", "r")
        assert (reason_of(outcome), outcome.text, vendor.problems) == ("COMPLETED/ANSWERED", "yes", [])
        # Nothing that was said is lost by it.
        sent = vendor.upstream.requests[-1].body.decode()
        assert sent.count("PROVIDER_REFUSED") == 1
        assert sent.count("hello") >= 2


@pytest.mark.asyncio
@pytest.mark.parametrize("depth", [64, 65, 300, 5_000])
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_arguments_nested_too_deeply_are_said_to_the_model_and_left_out(
    tmp_path: Path, wire_format: str, depth: int
) -> None:
    tools = Tools()
    ran: list[object] = []

    def take(a: object) -> None:
        ran.append(a)

    tools.add("take", take)
    deep = Reply(calls=[Call("take", '{"a":' * depth + "1" + "}" * depth)])
    async with strict(tmp_path, wire_format, deep, Reply(text="one"), tools=tools.offered) as (server, vendor):
        outcome = await outcome_of(server, "go", "r")
        assert (reason_of(outcome), outcome.text, vendor.problems) == ("COMPLETED/ANSWERED", "one", [])
        (found,) = await results(server)
        assert found.is_error == (depth > 64) == (not ran)
        if found.is_error:
            assert "nested deeper" in result_text(found) or "not valid JSON" in result_text(found)
        assert (await outcome_of(server, "more", "next")).text == "ok"


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_half_a_character_in_arguments_is_not_sent_back(tmp_path: Path, wire_format: str) -> None:
    tools = Tools()
    tools.quick("look")
    schema = json.dumps({"type": "object", "title": "x"}).replace('"x"', '"\\ud83d"')
    tools.offered["look"].tool.input_schema_json = schema
    odd = Reply(calls=[Call("look", '{"q":"caf\\udce9 \\\\ud800 \\ud83d\\ude00","\\uDC00":1}')])
    async with strict(tmp_path, wire_format, odd, Reply(text="one"), tools=tools.offered) as (server, vendor):
        outcome = await outcome_of(server, "go", "r", output_schema_json='{"type":"object","title":"\\udfff"}')
        assert (outcome.num_steps, vendor.problems) == (4, [])


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_numbers_that_no_double_holds_do_not_end_the_session(tmp_path: Path, wire_format: str) -> None:
    tools = Tools()
    tools.quick("look")
    odd = f'{{"a":1e999,"b":[-1E+400,{"9" * 5000}],"c":"1e999","d":1.50,"é":1e-999}}'
    async with strict(tmp_path, wire_format, Reply(calls=[Call("look", odd)]), tools=tools.offered) as (server, vendor):
        assert reason_of(await outcome_of(server, "go", "r")) == "COMPLETED/ANSWERED"
        assert reason_of(await outcome_of(server, "more", "next")) == "COMPLETED/ANSWERED"
        assert vendor.problems == []


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", [one for one in WIRE_FORMATS if one != "gemini"])
async def test_of_arguments_sent_twice_no_number_stays_that_is_none(tmp_path: Path, wire_format: str) -> None:
    tools = Tools()
    tools.quick("look")
    odd = [Call("look", '{}{"a":1e999}', "twice1"), Call("look", '{"a":1}{"a":NaN}', "twice2")]
    async with strict(tmp_path, wire_format, Reply(calls=odd), tools=tools.offered) as (server, vendor):
        assert reason_of(await outcome_of(server, "go", "r")) == "COMPLETED/ANSWERED"
        assert vendor.problems == []
        assert "NaN" not in vendor.upstream.requests[-1].body.decode()

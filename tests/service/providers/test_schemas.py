"""Schemas of tools and of answers, as vendors take them; one that nobody takes fails no prompt."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from examples.upstream import Answer, Request, Upstream
from examples.upstream.dialects import CHAT, GEMINI, MESSAGES, RESPONSES
from tests.service.failure.stories import reason_of
from tests.service.harness import load_settings, serving
from tests.service.providers.strict_vendor import Call, Reply, answer_schema, strict, system_of, tools_of
from tests.service.providers.test_formats import WIRE_FORMATS
from tests.service.turns.scenes import Tools, result_text
from turnkeeper_service.providers.formats.tool_schemas import SchemaRule, fit, warn

Json = dict[str, Any]
TEXT = {"type": "string"}
ODD_TOOLS: dict[str, Any] = {
    "bare": {"type": "object"},
    "empty": {},
    "any_of": {
        "anyOf": [
            {"type": "object", "properties": {"id": TEXT}, "required": ["id"]},
            {"properties": {"name": TEXT, "id": {"type": "integer"}}, "required": ["id", "name"]},
            {"type": "null"},
        ]
    },
    "one_of": {"oneOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"properties": {"inner": {"$ref": "#/$defs/a"}}}}},
    "all_of": {"allOf": [{"properties": {"a": TEXT}, "required": ["a"]}, {"properties": {"b": TEXT}}]},
    "ref": {"$ref": "#/definitions/x", "definitions": {"x": {"type": "object", "properties": {"a": TEXT}}}},
    "maybe": {"type": ["object", "null"], "properties": None},
    "old": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "type": "object",
        "properties": {
            "n": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
            "pair": {"type": "array", "items": [TEXT, TEXT]},
            "list": {"type": "array"},
            "anything": True,
            "kind": {"type": "any"},
        },
    },
    "third": {"type": "object", "properties": {"a": {"type": ["string", {"type": "object"}]}}},
    "numbers": {"type": "object", "properties": {"a": {"default": float("inf")}, "b": {"enum": [float("nan")]}}},
    "not_this": {"type": "object", "properties": {"a": TEXT}, "not": {"required": ["a"]}, "enum": [{"a": "b"}]},
}
USELESS: dict[str, Any] = {
    "text": TEXT,
    "list": {"type": "array", "items": TEXT},
    "elsewhere": {"type": "object", "properties": {"a": {"$ref": "https://schemas.example/a.json"}}},
    "nowhere": {"$ref": "#/$defs/none"},
    "deep": json.loads('{"type":"object","properties":{"a":' * 70 + "{}" + "}}" * 70),
}


def offered(schemas: dict[str, Any]) -> Tools:
    tools = Tools()
    for name, schema in schemas.items():
        tools.quick(name)
        tools.offered[name].tool.input_schema_json = json.dumps(schema)
    return tools


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_schemas_of_tools_are_mended_and_what_cannot_be_is_left_out(
    tmp_path: Path, wire_format: str, caplog: pytest.LogCaptureFixture
) -> None:
    cities = {"type": "object", "properties": {"große Stadt": TEXT}}
    tools = offered({**ODD_TOOLS, **USELESS, "cities": cities})
    replies = [Reply(calls=[Call("any_of", '{"name": "x", "id": 1}')]), Reply(text="one"), Reply(text="two")]
    warn.cache_clear()
    with caplog.at_level(logging.WARNING):
        async with strict(tmp_path, wire_format, *replies, tools=tools.offered) as (server, vendor):
            await server.submit("s", "go", "r")
            outcome = (await server.terminals("s", ["r"]))["r"]
            assert (reason_of(outcome), outcome.text, vendor.problems) == ("COMPLETED/ANSWERED", "one", [])
    warned = [(vars(one)["tool"], vars(one)["problem"]) for one in caplog.records if "tool" in vars(one)]
    left_out = {*USELESS} | ({"cities"} if wire_format == MESSAGES else set())
    assert sorted(tool for tool, _ in warned) == sorted(left_out)
    assert ("text", "its arguments are no object") in warned
    assert tools.ran == ["any_of"]
    sent = tools_of(wire_format, vendor.bodies[0])
    assert set(sent) == {*ODD_TOOLS} | ({"cities"} if wire_format != MESSAGES else set())
    assert sent["any_of"]["properties"] == {"id": {"anyOf": [TEXT, {"type": "integer"}]}, "name": TEXT}
    assert (sent["any_of"]["required"], sent["all_of"]["required"]) == (["id"], ["a"])
    assert sent["old"]["properties"]["n"] == {"type": "number", "exclusiveMinimum": 0}
    assert sent["one_of"]["properties"] == {"inner": {"$ref": "#/$defs/a"}}


@pytest.mark.asyncio
async def test_arguments_are_checked_by_the_schema_as_it_was_written(tmp_path: Path) -> None:
    tools = offered({"any_of": ODD_TOOLS["any_of"]})
    replies = [Reply(calls=[Call("any_of", '{"name": "x"}')]), Reply(text="one")]
    async with strict(tmp_path, CHAT, *replies, tools=tools.offered) as (server, _):
        await server.submit("s", "go", "r")
        await server.terminals("s", ["r"])
        (result,) = [
            part.tool_result for one in await server.messages("s") for part in one.parts if part.tool_result.name
        ]
        assert (tools.ran, result.is_error) == ([], True)
        assert "is not valid under any of the given schemas" in result_text(result)


@pytest.mark.parametrize("schema", ['{"anyOf": [' + ",".join(['{"$ref": "#"}'] * 50) + "]}", '{"$ref": "#"}'])
def test_a_schema_that_leads_nowhere_is_soon_mended(schema: str) -> None:
    assert fit(schema, SchemaRule()) == ('{"type": "object", "properties": {}}', "")


def closed(**properties: Any) -> Json:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


# A schema, an answer that matches it, and the formats that hold an answer to it themselves: strictly, and loosely.
ANSWERS: list[tuple[Json, str, set[str], set[str]]] = [
    (closed(a=TEXT, b=closed(c={"type": "integer"})), '{"a":"x","b":{"c":1}}', {CHAT, RESPONSES, MESSAGES}, set()),
    ({"type": "object", "properties": {"a": TEXT}, "required": ["a"]}, '{"a":"x"}', set(), {CHAT, RESPONSES}),
    ({**closed(a=TEXT), "required": []}, '{"a":"x"}', {MESSAGES}, {CHAT, RESPONSES}),
    (closed(a={"type": "object", "additionalProperties": TEXT}), '{"a":{"k":"v"}}', set(), {CHAT, RESPONSES}),
    (closed(a={"type": "string", "minLength": 1}), '{"a":"x"}', set(), {CHAT, RESPONSES}),
    (closed(a={"oneOf": [TEXT, {"type": "null"}]}), '{"a":"x"}', set(), {CHAT, RESPONSES}),
    ({"type": "object"}, '{"a":"x"}', {MESSAGES}, {CHAT, RESPONSES}),
    ({"properties": {"a": TEXT}}, '{"a":"x"}', set(), {CHAT, RESPONSES}),
    ({"type": "array", "items": TEXT}, '["x"]', {MESSAGES}, set()),
    ({"anyOf": [closed(a=TEXT), closed(b=TEXT)]}, '{"a":"x"}', {MESSAGES}, set()),
]


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
@pytest.mark.parametrize("number", range(len(ANSWERS)))
async def test_a_vendor_holds_an_answer_to_its_schema_where_it_can(
    tmp_path: Path, wire_format: str, number: int
) -> None:
    schema, answer, strictly, loosely = ANSWERS[number]
    async with strict(tmp_path, wire_format, Reply(text=answer)) as (server, vendor):
        await server.submit("s", "go", "r", output_schema_json=json.dumps(schema))
        outcome = (await server.terminals("s", ["r"]))["r"]
    assert (reason_of(outcome), outcome.output_json) == ("COMPLETED/ANSWERED", answer)
    assert (vendor.problems, len(vendor.bodies)) == ([], 1)
    (body,) = vendor.bodies
    sent, told = answer_schema(wire_format, body), system_of(wire_format, body)
    is_native = wire_format in strictly | loosely or wire_format == GEMINI
    assert (sent is not None, json.dumps(schema) in told) == (is_native, not is_native)
    if wire_format in (CHAT, RESPONSES) and is_native:
        place = body["response_format"]["json_schema"] if wire_format == CHAT else body["text"]["format"]
        assert place["strict"] == (wire_format in strictly)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("model", "is_beside"),
    [("gemini-2.5-flash", False), ("gemini-2.0-pro-exp", False), ("gemini-3-pro-preview", True), ("gemini-10", True)],
)
async def test_gemini_is_told_a_schema_beside_tools_in_the_prompt_where_it_takes_no_two(
    tmp_path: Path, model: str, is_beside: bool
) -> None:
    tools = Tools()
    tools.quick("look")
    schema = json.dumps(closed(a=TEXT))
    replies = [Reply(calls=[Call("look")]), Reply(text='{"a": "x"}')]
    async with strict(tmp_path, GEMINI, *replies, model=model, tools=tools.offered) as (server, vendor):
        await server.submit("s", "go", "r", output_schema_json=schema, max_steps=2)
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (outcome.output_json, vendor.problems) == ('{"a": "x"}', [])
        # The last step has no tools, and holds the model to the schema.
        natively = [answer_schema(GEMINI, body) is not None for body in vendor.bodies]
        assert natively == [is_beside, True]
        assert [schema in system_of(GEMINI, body) for body in vendor.bodies] == [not is_beside, False]


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_a_vendor_that_refuses_a_schema_is_asked_once_more_with_it_in_the_prompt(
    tmp_path: Path, wire_format: str
) -> None:
    words = {
        CHAT: "json mode cannot be combined with tool/function calling",
        RESPONSES: "Invalid parameter: 'text.format' is not supported with this model.",
        MESSAGES: "output_config.format: Extra inputs are not permitted",
        GEMINI: "Function calling with a response mime type: 'application/json' is unsupported",
    }[wire_format]
    schema = json.dumps(closed(a=TEXT))

    def answer(request: Request) -> Answer:
        if answer_schema(wire_format, request.json) is not None:
            return Answer.error(400, json.dumps({"error": {"message": words}}))
        return Answer.of(Reply(text='{"a": "x"}').stream(wire_format))

    async with Upstream(answer) as upstream:
        settings = {"providers.up.format": wire_format, "providers.up.base_url": upstream.base_url}
        async with serving(tmp_path, settings=load_settings(tmp_path, **settings)) as server:
            await server.session("s", model="up/m")
            for run_id in ("r1", "r2"):
                await server.submit("s", "go", run_id, output_schema_json=schema)
                outcome = (await server.terminals("s", [run_id]))[run_id]
                assert (reason_of(outcome), outcome.output_json) == ("COMPLETED/ANSWERED", '{"a": "x"}')
                assert (outcome.num_steps, outcome.usage.own.num_calls) == (1, 1)
            # Once it is known, it is not tried again; other refusals are final.
            assert len(upstream.requests) == 3
            words = "the model is not for you"
            await server.submit("s", "go", "r3", output_schema_json=json.dumps(closed(b=TEXT)))
            assert reason_of((await server.terminals("s", ["r3"]))["r3"]) == "FAILED/PROVIDER_REFUSED"
            assert len(upstream.requests) == 4

"""Patterns in schemas of clients: a match that might never end is not begun, whoever wrote the pattern."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.service.tools.holders import Client, tool
from tests.service.turns.scenes import call, result_text, scene, script
from turnkeeper_service.tools.json_schema import validator
from turnkeeper_service.tools.patterns import is_soon


@pytest.mark.parametrize(
    ("pattern", "length"),
    [
        (r"^[a-z0-9_-]+$", 1_000_000),
        (r"^\d{4}-\d{2}-\d{2}$", 100_000),
        (r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", 36),
        (r"^[^@\s]+@[^@\s]+\.[^@\s]+$", 100),
        (r"^\d+(\.\d+)?$", 100),
        (r"^(red|green|blue)$", 100_000),
        (r"\.py$", 100_000),
        (r"[*+?(|)]\*\(\+", 100_000),
        ("", 0),
    ],
)
def test_what_people_write_is_checked(pattern: str, length: int) -> None:
    assert is_soon(pattern, length)


@pytest.mark.parametrize(
    ("pattern", "length"),
    [
        (r"^(a+)+$", 1),
        (r"(a|aa)+$", 1),
        (r"^((a*)b)*$", 1),
        (r"(\w+)\1", 1),
        (r"(?=a+)b", 1),
        (r"^(?:a?){40}$", 1),
        ("a?" * 40 + "a" * 40, 40),
        (r"a*a*a*a*b", 100),
        (r"a+b", 100_000),
        (r")(", 1),
        ("a*" * 17, 1),
        ("a" * 1001, 1),
    ],
)
def test_what_may_not_end_is_not_begun(pattern: str, length: int) -> None:
    assert not is_soon(pattern, length)


EVIL = "^(a+)+$"


@pytest.mark.parametrize(
    ("schema", "value", "num_errors"),
    [
        ({"pattern": "^[a-z]+$"}, "A", 1),
        ({"pattern": EVIL}, "a" * 15 + "!", 0),
        ({"patternProperties": {"^x": {"type": "string"}}}, {"x1": 1}, 1),
        ({"patternProperties": {EVIL: {"type": "string"}}}, {"aa": 1}, 0),
        ({"patternProperties": {"^x": {}}, "additionalProperties": False}, {"y": 1}, 1),
        ({"patternProperties": {EVIL: {}}, "additionalProperties": False}, {"a" * 15 + "!": 1}, 0),
        ({"propertyNames": {"pattern": "^[a-z]+$"}}, {"A": 1}, 1),
        ({"properties": {"a": {}}, "unevaluatedProperties": False}, {"b": 1}, 1),
        ({"allOf": [{"patternProperties": {EVIL: {}}}], "unevaluatedProperties": False}, {"a" * 15 + "!": 1}, 0),
    ],
)
def test_all_that_look_by_patterns_are_bounded(schema: dict[str, Any], value: object, num_errors: int) -> None:
    assert len(list(validator(json.dumps(schema)).iter_errors(value))) == num_errors


@pytest.mark.asyncio
async def test_a_clients_pattern_does_not_hold_the_server(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": EVIL}, "n": {"type": "integer"}}}
    async with scene(tmp_path) as on:
        client = await Client.serve(on.server, tool("look", input_schema_json=json.dumps(schema)))
        bad = {"tool_calls": [call("look", "bad", n="x", a="a"), call("look", "good", a="a" * 15 + "!")]}
        await on.server.submit("s", script(bad, "done"), "r")
        await client.answer(await client.invoked(), "found")
        assert (await on.watch.terminal("r")).text == "done"
        found = await on.results()
        assert "is not of type 'integer'" in result_text(found["bad"])
        # The rest of the schema is checked; what this pattern says is left to the tool.
        assert result_text(found["good"]) == "found"
        client.lose()

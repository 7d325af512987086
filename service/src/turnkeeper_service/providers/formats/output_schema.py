"""The schema of an answer: where a vendor takes it, and words for the prompt where it does not.

Answers are checked by the schema in any case; what a vendor makes of it only saves asking again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from turnkeeper_service.providers.base import ModelRequest

ASK = "Answer with JSON alone that matches this JSON Schema, without any other text:"
_WORDS = frozenset(("title", "description", "$schema", "$comment", "$id"))
_COMMON = frozenset(
    ("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref", "$defs")
) | {"definitions"}
_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"))
_BOUNDS = frozenset(("multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))


@dataclass(frozen=True, slots=True)
class OutputRule:
    """What a vendor wants of a schema that it holds an answer to: every object closed, and these words alone."""

    words: frozenset[str]
    is_all_required: bool
    """Whether every property has to be required."""
    max_depth: int
    max_properties: int


STRICT = OutputRule(
    _WORDS | _COMMON | _BOUNDS | {"pattern", "format", "minItems", "maxItems"},
    is_all_required=True,
    max_depth=10,
    max_properties=5_000,
)
"""OpenAI's, for ``strict``."""
CONSTRAINED = OutputRule(
    _WORDS | _COMMON | {"format", "default"}, is_all_required=False, max_depth=10, max_properties=1_000
)
"""Anthropic's, for any."""


def in_prompt(request: ModelRequest) -> ModelRequest:
    """The request with its schema as words of the system prompt."""
    words = f"{ASK}\n{request.output_schema_json}"
    system = f"{request.system}\n\n{words}" if request.system else words
    return replace(request, system=system, output_schema_json="")


@lru_cache(maxsize=256)
def object_schema(schema_json: str) -> str:
    """The schema with an object at its root, as vendors want it; "" where its root is something else."""
    schema = json.loads(schema_json)
    if not isinstance(schema, dict):
        return ""
    if schema.get("type") == "object" and not schema.keys() & {"anyOf", "oneOf", "allOf", "not", "enum", "const"}:
        return schema_json
    # One that says nothing of its form may as well be an object.
    says = schema.keys() - _WORDS - {"properties", "required", "additionalProperties", "$defs", "definitions"}
    return "" if says else json.dumps({"type": "object", **schema})


@lru_cache(maxsize=256)
def fulfils(schema_json: str, rule: OutputRule) -> bool:
    """Whether a schema is one that a vendor takes by its rule."""
    return _fulfils(json.loads(schema_json), rule)


def _fulfils(schema: Any, rule: OutputRule) -> bool:
    properties = 0
    for node, depth in _nodes(schema, 1):
        if not isinstance(node, dict) or depth > rule.max_depth or node.keys() - rule.words:
            return False
        properties += len(node.get("properties", {}))
        is_known = node.get("format", "date") in _FORMATS and str(node.get("$ref", "#")).startswith("#")
        if properties > rule.max_properties or not is_known or not _is_closed(node, rule):
            return False
    return True


def says_nothing(schema_json: str) -> bool:
    """Whether a schema wants an object and no more of it, which no vendor can hold against it."""
    return not json.loads(schema_json).keys() - _WORDS - {"type"}


def _is_closed(node: dict[str, Any], rule: OutputRule) -> bool:
    kind = node.get("type")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind) and "properties" not in node:
        return "additionalProperties" not in node
    if node.get("additionalProperties") is not False:
        return False
    return not rule.is_all_required or set(node.get("required", ())) == set(node.get("properties", {}))


def _nodes(schema: Any, depth: int) -> Iterator[tuple[Any, int]]:
    """A schema and all that are inside it, each with how deep it stands."""
    yield schema, depth
    if not isinstance(schema, dict) or depth > STRICT.max_depth:
        return
    for key in ("properties", "$defs", "definitions"):
        for inner in schema.get(key, {}).values():
            yield from _nodes(inner, depth + 1)
    for inner in schema.get("anyOf", ()):
        yield from _nodes(inner, depth + 1)
    if "items" in schema:
        yield from _nodes(schema["items"], depth + 1)

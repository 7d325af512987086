"""Schemas of tools as vendors take them.

Whoever offers a tool writes its schema, and vendors refuse a whole request for one that they do not take. What can be
said in their way is; a tool whose schema cannot is left out. Arguments are checked by the schema as it was written, so
a vendor may be told a wider one.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from jsonschema.exceptions import SchemaError
from jsonschema.validators import Draft202012Validator

from turnkeeper_service.json_text import is_too_deep, with_finite_numbers
from turnkeeper_service.providers.base import ToolDefinition

Json = dict[str, Any]
MAX_REFERENCES = 16
"""So many references in a row lead somewhere, or in a circle."""
SMALL_CHARACTERS = 16 << 10
"""Of schemas up to here many are kept, of longer ones few."""
MAX_ALTERNATIVES = 200
"""Of more, only that there are others is told."""
_TYPES = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))
_COMBINING = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "enum", "const", "$ref", "$schema", "$id", "id")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLES = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SchemaRule:
    """What a format wants beside an object with properties at the root."""

    property_name: str = ""
    """A regular expression that all names of properties match; empty takes any."""
    takes_capitals: bool = False
    """Whether types may be written in capitals."""


class UnfitSchemaError(Exception):
    """A schema cannot be said in the vendor's way; the message says why, as the end of a sentence."""


def fitted_tools(tools: Iterable[ToolDefinition], rule: SchemaRule, provider: str) -> list[ToolDefinition]:
    """The tools with schemas that the vendor takes; those that have none are left out, with a warning for each."""
    fitted = []
    for tool in tools:
        schema_json, problem = fit(tool.input_schema_json, rule)
        if problem:
            warn(provider, tool.name, problem)
        else:
            fitted.append(
                tool if schema_json == tool.input_schema_json else replace(tool, input_schema_json=schema_json)
            )
    return fitted


@lru_cache(maxsize=1024)
def warn(provider: str, tool: str, problem: str) -> None:
    """Said once, not with every step."""
    _log.warning("a tool is left out", extra={"tool": tool, "provider": provider, "problem": problem})


def fit(schema_json: str, rule: SchemaRule) -> tuple[str, str]:
    """A schema as the vendor takes it, itself if it does; and why there is none, "" where there is one."""
    return (_fit_small if len(schema_json) <= SMALL_CHARACTERS else _fit_large)(schema_json, rule)


def _fit(schema_json: str, rule: SchemaRule) -> tuple[str, str]:
    try:
        if is_too_deep(schema_json):
            raise UnfitSchemaError("its schema is nested too deeply")
        schema_json = with_finite_numbers(schema_json)
        written = json.loads(schema_json or "{}")
        schema = _small_letters(written)
        mended = _Mending(schema, rule).root()
        Draft202012Validator.check_schema(mended)
    except UnfitSchemaError as error:
        return "", str(error)
    except SchemaError as error:
        return "", f"its schema is no JSON Schema: {error.message[:200]}"
    except (ValueError, RecursionError):
        return "", "its schema is not JSON"
    is_taken = mended == schema and (schema == written or rule.takes_capitals)
    return (schema_json, "") if is_taken else (json.dumps(mended), "")


_fit_small = lru_cache(maxsize=1024)(_fit)
_fit_large = lru_cache(maxsize=16)(_fit)


class _Mending:
    """One schema on its way."""

    def __init__(self, schema: Any, rule: SchemaRule) -> None:
        self._schema = schema
        self._mended: Json = {}
        self._num_inlined = self._num_looked_at = 0
        self._legal = re.compile(rule.property_name) if rule.property_name else None

    def root(self) -> Json:
        """The whole of it. Raises UnfitSchemaError."""
        if not isinstance(self._schema, dict | bool):
            raise UnfitSchemaError("its schema is no JSON object")
        merged = self._as_object(self._schema, 0)
        if merged is None:
            raise UnfitSchemaError("its arguments are no object")
        self._mended = merged
        return dict(self._inner(merged))

    def _as_object(self, schema: Any, depth: int) -> Json | None:
        """An object's schema that takes what this one takes, without alternatives; None where it takes no object."""
        self._num_looked_at += 1
        if depth > MAX_REFERENCES or self._num_looked_at > MAX_ALTERNATIVES or schema is True:
            return {"type": "object", "properties": {}}
        if not isinstance(schema, dict):
            return None
        kind = schema.get("type", "object")
        if kind != "object" and not (isinstance(kind, list) and "object" in kind):
            return None
        merged = {key: value for key, value in schema.items() if key not in _COMBINING}
        merged["type"] = "object"
        properties = schema.get("properties")
        merged["properties"] = dict(properties) if isinstance(properties, dict) else {}
        more: set[str] = set()
        if "$ref" in schema:
            more |= self._add(merged, [self._referred(schema["$ref"])], depth, is_each_needed=True)
        more |= self._add(merged, schema.get("allOf"), depth, is_each_needed=True)
        for key in ("anyOf", "oneOf"):
            more |= self._add(merged, schema.get(key), depth, is_each_needed=False)
        there = schema.get("required")
        required = list(there) if isinstance(there, list) else []
        required += sorted(more.difference(_names(required)))
        merged.pop("required", None)
        if required:
            merged["required"] = required
        return merged

    def _add(self, merged: Json, parts: object, depth: int, *, is_each_needed: bool) -> set[str]:
        """Put the properties of parts, or of alternatives, into a schema; returns what they all require together."""
        if not isinstance(parts, list) or not parts:
            return set()
        objects = [self._as_object(part, depth + 1) for part in parts]
        found = [one for one in objects if one is not None]
        if not found or (is_each_needed and len(found) < len(objects)):
            raise UnfitSchemaError("its arguments are no object")
        for one in found:
            for name, schema in one["properties"].items():
                there = merged["properties"].get(name, schema)
                merged["properties"][name] = there if there == schema else _either(there, schema)
        if all(one.get("additionalProperties") is False for one in found):
            merged.setdefault("additionalProperties", False)
        needed = [_names(one.get("required")) for one in found]
        return set().union(*needed) if is_each_needed else set.intersection(*needed)

    def _referred(self, reference: object, root: Any = None) -> Any:
        """What a reference within the schema means."""
        found: Any = self._schema if root is None else root
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise UnfitSchemaError("its schema refers to what is not in it")
        for step in reference.split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                raise UnfitSchemaError("its schema refers to what is not in it")
        return found

    def _inner(self, schema: Any) -> Any:
        """A schema inside: in words of today's draft, and with what vendors miss."""
        if not isinstance(schema, dict):
            return {} if schema is True else schema
        if "$ref" in schema:
            found = self._referred(schema["$ref"])
            try:
                self._referred(schema["$ref"], self._mended)
            except UnfitSchemaError:
                # It stood where the alternatives were.
                self._num_inlined += 1
                return self._inner(found) if self._num_inlined <= MAX_REFERENCES else {}
        mended = {
            key: value
            for key, value in schema.items()
            if key != "$schema" and (value is not None or key in ("default", "const"))
        }
        _in_todays_words(mended)
        for name in _names(mended.get("properties")) if self._legal else ():
            if self._legal and not self._legal.fullmatch(name):
                raise UnfitSchemaError(f"the vendor takes no argument named {name[:80]!r}")
        for key in _MAPS:
            if isinstance(mended.get(key), dict):
                mended[key] = {name: self._inner(inner) for name, inner in mended[key].items() if inner is not False}
        for key in _LISTS:
            if isinstance(mended.get(key), list):
                mended[key] = [self._inner(inner) for inner in mended[key]]
        for key in _SINGLES:
            if isinstance(mended.get(key), dict):
                mended[key] = self._inner(mended[key])
        if mended.get("type") == "array" and not isinstance(mended.get("items"), dict) and "prefixItems" not in mended:
            mended["items"] = {}
        return mended


def _small_letters(schema: Any) -> Any:
    """The schema with types as JSON Schema writes them; some vendors taught people to write them in capitals."""
    if isinstance(schema, list):
        return [_small_letters(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    small = {key: _small_letters(inner) for key, inner in schema.items()}
    if isinstance(small.get("type"), str) and small["type"].lower() in _TYPES:
        small["type"] = small["type"].lower()
    return small


def _in_todays_words(schema: Json) -> None:
    """What older drafts, and nobody's draft, say otherwise."""
    kinds = schema.get("type")
    known = [kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if _is_type(kind)]
    if "type" in schema and not known:
        del schema["type"]
    elif isinstance(kinds, list):
        schema["type"] = known
    if isinstance(schema.get("items"), list):
        schema["prefixItems"] = schema.pop("items")
    for bound in ("minimum", "maximum"):
        exclusive = f"exclusive{bound.capitalize()}"
        if isinstance(schema.get(exclusive), bool):
            is_exclusive = schema.pop(exclusive)
            if is_exclusive and bound in schema:
                schema[exclusive] = schema.pop(bound)
    if not isinstance(schema.get("required", []), list):
        # At the property itself.
        del schema["required"]
    if "properties" in schema and not isinstance(schema["properties"], dict):
        del schema["properties"]


def _is_type(kind: object) -> bool:
    return isinstance(kind, str) and kind in _TYPES


def _names(value: object) -> set[str]:
    return {name for name in value if isinstance(name, str)} if isinstance(value, list | dict) else set()


def _either(one: Any, other: Any) -> Json:
    alternatives = one["anyOf"] if isinstance(one, dict) and list(one) == ["anyOf"] else [one]
    return {"anyOf": alternatives if other in alternatives else [*alternatives, other]}

"""Schemas of tool servers without what no draft takes: a keyword that cannot be used is left out, not its tool.

Without a keyword a schema takes more than was meant, and the tool itself says what it cannot do with.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jsonschema.validators import Draft202012Validator, validator_for

Json = dict[str, Any]
MAX_ROUNDS = 8
"""What is still wrong after so many looks cannot be mended."""
_TYPES = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))


def mended(schema: Json) -> tuple[Json, list[str]]:
    """The schema as far as it is one, and the places of what was left out of it."""
    kind = validator_for(schema, default=Draft202012Validator)
    meta = kind(kind.META_SCHEMA, format_checker=kind.FORMAT_CHECKER)
    left_out: list[str] = []
    for _ in range(MAX_ROUNDS):
        places = {keyword for error in meta.iter_errors(schema) if (keyword := _keyword(error.absolute_path))}
        if not places:
            break
        for place in sorted(places, key=str):
            schema, is_left_out = _without(schema, place)
            if is_left_out:
                left_out.append("/".join(map(str, place)))
    return schema, left_out


def _keyword(path: Iterable[object]) -> tuple[object, ...]:
    """The place of the keyword whose value is wrong somewhere inside."""
    place = list(path)
    while place and not isinstance(place[-1], str):
        place.pop()
    return tuple(place)


def _without(schema: Any, place: tuple[Any, ...]) -> tuple[Any, bool]:
    """The schema without a keyword, or with its type in small letters where that is all; shared with the given one."""
    step, rest = place[0], place[1:]
    if isinstance(schema, dict) and step in schema:
        if rest:
            inner, is_left_out = _without(schema[step], rest)
            return {**schema, step: inner}, is_left_out
        value = schema[step]
        if step == "type" and isinstance(value, str) and value.lower() in _TYPES:
            return {**schema, step: value.lower()}, False
        return {key: inner for key, inner in schema.items() if key != step}, True
    if isinstance(schema, list) and isinstance(step, int) and step < len(schema) and rest:
        inner, is_left_out = _without(schema[step], rest)
        return [*schema[:step], inner, *schema[step + 1 :]], is_left_out
    # Its keyword is gone already.
    return schema, False

"""JSON of vendors into the types that read it, strictly where it fits, and else field by field.

What vendors send has nearly always the shape that the types say, and then decoding costs what msgspec takes for it.
Where it has not, the fields that can be used are, and the others count as not sent (O-3): numbers for strings and
strings for numbers are taken, anything else of another type is left out and named.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from turnkeeper_service.json_text import without_lone_surrogates

from .counts import MAX_COUNT

T = TypeVar("T")
MAX_DEPTH = 200
"""Deeper values are left out where a vendor nests without end; no field that is read lies so deep."""
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding raises for bytes that are not what they should be."""
_TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{\]}]', re.DOTALL)


def _finite(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


_decoder = json.JSONDecoder(strict=False, parse_float=_finite, parse_constant=str)
_decode = _decoder.decode


class _UnfitError(Exception):
    """The value cannot be used for what it is meant for."""


class Shape(Generic[T]):
    """How events of a stream, or parts of them, are decoded to one type."""

    def __init__(self, wanted: type[T]) -> None:
        self.strict = msgspec.json.Decoder(wanted).decode
        """Decodes what is as it should be. Raises one of `UNREADABLE` for all else."""
        self._info = inspect.type_info(wanted)

    def lenient(self, data: bytes) -> tuple[T, list[str]]:
        """The value as far as it can be used, and the fields that cannot. Raises ValueError where it is no object."""
        left_out: list[str] = []
        try:
            found: T = _fit(self._info, loads(data), "", left_out)
        except _UnfitError:
            raise ValueError("it is no JSON object") from None
        return found, left_out


def loads(data: bytes) -> Any:
    """Any JSON, also with raw control characters, numbers that are none, or nested without end. Raises ValueError.

    Numbers that no float can hold, and NaN, are strings then.
    """
    text = without_lone_surrogates(data.decode())
    try:
        return _decode(text)
    except RecursionError:
        return _decode(shallow(text.encode()).decode())


def objects_in(data: bytes) -> list[dict[str, Any]]:
    """The objects of a list, or those that follow each other. Raises ValueError where there is anything else."""
    text = without_lone_surrogates(data.decode()).strip()
    found: list[Any] = []
    if text.startswith("["):
        found = loads(data)
    else:
        at = 0
        while at < len(text):
            value, at = _decoder.raw_decode(text, at)
            found.append(value)
            while at < len(text) and text[at].isspace():
                at += 1
    if not all(isinstance(one, dict) for one in found):
        raise ValueError("it is no JSON object")
    return found


def is_json(data: bytes) -> bool:
    """Whether it is one JSON value."""
    try:
        loads(data)
    except UNREADABLE:
        return False
    return True


def shallow(data: bytes, max_depth: int = MAX_DEPTH) -> bytes:
    """JSON in which values that lie deeper are null. Raises ValueError where brackets are left open."""
    kept: list[bytes] = []
    depth = at = 0
    for token, depth in _brackets(data):
        if depth == max_depth + 1 and token[0] in b"[{":
            kept += (data[at : token.start()], b"null")
        elif depth == max_depth and token[0] in b"]}":
            at = token.end()
    if depth:
        raise ValueError("it is not whole")
    return b"".join((*kept, data[at:]))


def _brackets(data: bytes) -> Iterator[tuple[re.Match[bytes], int]]:
    """The brackets outside of strings, each with the depth behind it."""
    depth = 0
    for token in _TOKENS.finditer(data):
        if token[0] in b"[{":
            depth += 1
        elif token[0] in b"]}":
            depth -= 1
        else:
            continue
        yield token, depth


def _fit(info: inspect.Type, value: Any, path: str, left_out: list[str]) -> Any:
    match info:
        case inspect.AnyType():
            return value
        case inspect.RawType():
            return msgspec.Raw(json.dumps(value, ensure_ascii=False).encode())
        case inspect.UnionType():
            return _fit_one_of(info.types, value, path, left_out)
        case inspect.StructType():
            return _fit_struct(info, value, path, left_out)
        case inspect.ListType():
            return _fit_list(info, value, path, left_out)
        case inspect.DictType() if isinstance(value, dict):
            return value
        case inspect.NoneType() if value is None:
            return None
    return _fit_scalar(info, value)


def _fit_scalar(info: inspect.Type, value: Any) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match info:
        case inspect.StrType() if isinstance(value, str):
            return value
        case inspect.StrType() if is_number:
            return str(value)
        case inspect.BoolType() if isinstance(value, bool):
            return value
        case inspect.BoolType() if value in ("true", "false"):
            return value == "true"
        case inspect.IntType() if is_number and abs(value) <= MAX_COUNT and value % 1 == 0:
            return int(value)
        case inspect.IntType() if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
            return int(value)
    raise _UnfitError


def _fit_one_of(types: tuple[inspect.Type, ...], value: Any, path: str, left_out: list[str]) -> Any:
    # Strings first: text is rather text than what its first letters look like.
    for one in sorted(types, key=lambda one: not isinstance(one, inspect.StrType)):
        try:
            return _fit(one, value, path, left_out)
        except _UnfitError:
            continue
    raise _UnfitError


def _fit_list(info: inspect.ListType, value: Any, path: str, left_out: list[str]) -> list[Any]:
    if isinstance(value, dict) and value and isinstance(info.item_type, inspect.StructType):
        # One thing, where a list of such things belongs.
        value = [value]
    if not isinstance(value, list):
        raise _UnfitError
    found = []
    for item in value:
        try:
            found.append(_fit(info.item_type, item, f"{path}[]", left_out))
        except _UnfitError:
            left_out.append(f"{path}[]")
    return found


def _fit_struct(info: inspect.StructType, value: Any, path: str, left_out: list[str]) -> Any:
    if not isinstance(value, dict):
        raise _UnfitError
    given: dict[str, Any] = {}
    for one in info.fields:
        inner = value.get(one.encode_name)
        if inner is None:
            continue
        name = f"{path}.{one.encode_name}" if path else one.encode_name
        try:
            given[one.name] = _fit(one.type, inner, name, left_out)
        except _UnfitError:
            if inner:
                left_out.append(name)
    return info.cls(**given)

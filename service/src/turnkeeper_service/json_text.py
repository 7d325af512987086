"""JSON that others wrote, as text: what of it would be refused where it is passed on."""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

MAX_DEPTH = 64
"""Arguments that are nested deeper are not taken, and not sent to vendors: each of them stops at a depth of its own."""
_ESCAPE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\.")
_NO_BRACKETS = re.compile(r'"(?:[^"\\]+|\\.)*+"|[^\[\]{}"]+', re.DOTALL)
_EMPTY = re.compile(r"\[\]|\{\}")
_PAIR_LENGTH = 12
MAX_DIGITS = 308
_LONG_NUMBER = re.compile(rf"\d(?:[eE]\+?\d{{3}}|\d{{{MAX_DIGITS}}})")


def without_lone_surrogates(text: str) -> str:
    """The same JSON with U+FFFD for each escape of half a character, which is no text and refused as such."""
    if "\\ud" not in text and "\\uD" not in text:
        return text
    return _ESCAPE.sub(_whole, text)


def _whole(match: re.Match[str]) -> str:
    escape = match.group()
    return escape if len(escape) in (2, _PAIR_LENGTH) else "\\ufffd"


def with_plain_numbers(text: str) -> str:
    """The same valid JSON, with strings for numbers that no double holds: parsers take them for infinite, or refuse."""
    return json.dumps(plain_decoder.decode(text), ensure_ascii=False) if _LONG_NUMBER.search(text) else text


def _float_of(digits: str) -> float | str:
    number = float(digits)
    return digits if math.isinf(number) else number


def _int_of(digits: str) -> int | str:
    return digits if len(digits) > MAX_DIGITS else int(digits)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


plain_decoder = json.JSONDecoder(strict=False, parse_constant=_refuse, parse_float=_float_of, parse_int=_int_of)
"""Reads JSON to write it again: what it gives can be said in JSON."""


_finite_decoder = json.JSONDecoder(strict=False, parse_constant=str, parse_float=_float_of, parse_int=_int_of)
_UNSURE = re.compile(rf"NaN|Infinity|{_LONG_NUMBER.pattern}")


def with_finite_numbers(text: str) -> str:
    """The same JSON, with strings for numbers that no double holds and for those that no JSON knows."""
    return json.dumps(_finite_decoder.decode(text), ensure_ascii=False) if _UNSURE.search(text) else text


def is_too_deep(text: str, max_depth: int = MAX_DEPTH) -> bool:
    """Whether JSON text nests deeper than so many levels; also where it is so long that parsing it would fail."""
    if text.count("{") + text.count("[") <= max_depth:
        return False
    brackets = _NO_BRACKETS.sub("", text)
    for _ in range(max_depth):
        # One level from the inside out each time.
        shorter = _EMPTY.sub("", brackets)
        if shorter == brackets:
            break
        brackets = shorter
    return bool(brackets)

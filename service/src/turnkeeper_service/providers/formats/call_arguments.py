"""The arguments of a tool call out of what a vendor sent for them: one JSON object, or none."""

from __future__ import annotations

import json

import msgspec

from turnkeeper_service.json_text import is_too_deep, plain_decoder, with_plain_numbers, without_lone_surrogates
from turnkeeper_service.providers.leniency import UNREADABLE

_WRAPPINGS = 2
"""How often an object may stand in a JSON string, which is in a JSON string."""
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def is_object(text: str) -> bool:
    """Whether it is one JSON object, which can be used as it stands."""
    try:
        _decode_object(text)
    except UNREADABLE:
        return False
    return True


def is_nothing(text: str) -> bool:
    """Whether it stands for no arguments; some languages cannot tell an empty object from an empty list."""
    return text.strip().strip('"').strip() in ("", "null", "[]")


def object_in(text: str) -> str | None:
    """The JSON object that was meant, as JSON; None where there is none.

    Some send a whole object first and then the real one, or the whole again behind its pieces: the last whole one
    counts where another begins behind the first. Some put the object into a JSON string.
    """
    for _ in range(_WRAPPINGS + 1):
        text = without_lone_surrogates(text.lstrip("\ufeff"))
        if is_too_deep(text):
            return None
        if is_object(text):
            return with_plain_numbers(text)
        last = _last_of(text)
        if last is None or isinstance(last, dict):
            return None if last is None else json.dumps(last, ensure_ascii=False, separators=(",", ":"))
        text = last
    return None


def _last_of(text: str) -> dict[str, object] | str | None:
    """The last of the objects that follow each other, or the one string."""
    last: dict[str, object] | str | None = None
    at = _skip(text, 0)
    while at < len(text):
        if last is not None and text[at] not in '{"':
            # What follows is no further start: nobody knows what it is.
            return None
        try:
            value, end = plain_decoder.raw_decode(text, at)
        except UNREADABLE:
            return last
        if not isinstance(value, (dict, str)):
            return None
        last = value
        at = _skip(text, end)
    return last


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at

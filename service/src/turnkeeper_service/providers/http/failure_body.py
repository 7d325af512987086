"""What vendors state in the body of a failure: words, a status, a wait, and whether waiting helps at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from turnkeeper_service.providers.leniency import UNREADABLE, loads

MAX_DETAIL = 1000
MAX_WAIT_SECONDS = 7 * 86400.0
"""Longer waits are no advice."""
_SPEAKING = (
    *("error", "message", "status_msg", "error_message", "error_msg", "errmsg", "err_msg", "detail", "msg", "text"),
    *("errors", "base_resp", "fault", "faultstring", "Message", "title", "reason", "description", "code", "type"),
    *("error_code", "__type"),
)
_INNER = ("error", "errors", "base_resp", "fault", "detail", "details", "metadata", "headers")
_QUOTED = ("raw", "original_error", "upstream_error")
"""Where gateways put the words of who stands behind them."""
_EXCEPTION = "Exception"
"""How the name of an event ends that is a failure, for gateways that pass on another vendor's events."""
_STATUSES = ("status_code", "statusCode", "http_status", "http_code", "status", "code")
_OWN_CODES = ("error_code", "errcode", "err_code")
_PLAIN = frozenset({"message", "msg", "detail", "text"})
_FAULT = re.compile(r"error|exception|fail", re.I)
_GOOD_CODES = frozenset({"", "0", "200", "ok", "success", "none", "null"})
_WAITS = (
    (re.compile(r"retry.?(?:after|delay|in).?ms", re.I), 0.001),
    (re.compile(r"retry.?(?:after|delay|in)(?:.?s(?:ec(?:ond)?s?)?)?", re.I), 1.0),
)
_UNIT = r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])"
_WAIT_IN_WORDS = re.compile(
    rf"(?:try again|retry|wait|available|resets?)\b[^.\d]{{0,40}}?((?:\d+(?:\.\d+)?\s*{_UNIT}\s*(?:and\s+|,\s*)?)+)",
    re.I,
)
_TIME = re.compile(r"(?=\s*\d)(?:\s*\d+(?:\.\d+)?\s*[a-z]+)*(?:\s*\d+(?:\.\d+)?)?\s*", re.I)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.I)
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPENT = re.compile(
    r"insufficient[_ ](?:quota|balance|credits?|funds)|billing_(?:hard_limit_reached|not_active)|quota_exhausted"
    r"|exceeded_current_quota|credit balance is too low|out of credits|billing hard limit|access_terminated",
    re.I,
)
_MAX_DEPTH = 5


def clip(text: str) -> str:
    """Words on one line, not too many of them."""
    text = " ".join(text.replace("\0", "").split())
    return text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 1] + "…"


def message_of(value: Any, depth: int = 0) -> str:
    """What a body says in words, whatever its shape; "" if nothing."""
    if isinstance(value, str):
        return clip(value)
    if depth > _MAX_DEPTH:
        return ""
    if isinstance(value, list):
        return message_of(value[0], depth + 1) if value else ""
    if isinstance(value, dict):
        for key in (*_SPEAKING, *exceptions_in(value)):
            found = message_of(value.get(key), depth + 1)
            if found:
                return found
    return ""


def words_of(value: Any) -> str:
    """All that a body says in words: its own and those that it quotes; "" if nothing."""
    said = message_of(value)
    for one in _objects(value):
        for key in _QUOTED:
            quoted = message_of(_parsed(one.get(key)))
            if quoted and quoted not in said:
                said = clip(f"{said}: {quoted}" if said else quoted)
    return said


def number_of(value: Any) -> str:
    """The number that a body gives in place of words; "" if it gives none."""
    numbers = (one.get(key) for one in _objects(value) for key in ("error", *_STATUSES, *_OWN_CODES))
    return next((str(number) for number in numbers if _integer(number) is not None), "")


def status_of(value: Any) -> int | None:
    """The status of HTTP that a body states, from 400 to 599; None if it states none."""
    for one in _objects(value):
        for key in _STATUSES:
            number = _integer(one.get(key))
            if number is not None and 400 <= number <= 599:
                return number
    return None


def stated_failure(value: Any) -> Any:
    """What a JSON body or an event states as its failure, whatever its shape; None where it states none."""
    if not isinstance(value, dict):
        return None
    base = value.get("base_resp")
    if isinstance(base, dict) and _is_bad(base.get("status_code")):
        return base
    kind = value.get("type", value.get("__type"))
    is_stated = (
        value.get("error")
        or value.get("errors")
        or value.get("fault")
        or any(exceptions_in(value))
        or value.get("object") == "error"
        or (isinstance(kind, str) and _FAULT.search(kind))
        or any(_is_bad(value.get(key)) for key in _OWN_CODES)
        or value.get("success") is False
        or value.get("ok") is False
        or value.get("error_message")
        or value.get("error_msg")
        or (_has_words(value) and not isinstance(kind, str) and _is_blunt(value))
    )
    return value if is_stated else None


def wait_of(value: Any) -> float | None:
    """The seconds to wait that a body names, in a field or in words; None if it names none."""
    for one in _objects(value):
        for key, inner in one.items():
            for name, scale in _WAITS:
                if name.fullmatch(key) and (seconds := seconds_of(inner)) is not None:
                    return within_bounds(seconds * scale)
    found = _WAIT_IN_WORDS.search(message_of(value))
    return None if found is None else within_bounds(_span(found[1]))


def is_spent(value: Any) -> bool:
    """Whether a body says that what was paid for is used up, so that no waiting helps."""
    said = [message_of(value)]
    said += [str(one.get(key, "")) for one in _objects(value) for key in ("code", "type", "status")]
    return any(_SPENT.search(text) for text in said)


def seconds_of(value: Any) -> float | None:
    """A length of time as vendors write it: 3, "3", "3s", "1m30s", "250ms"; None where it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    return _span(value) if isinstance(value, str) and _TIME.fullmatch(value) else None


def within_bounds(seconds: float | None) -> float | None:
    """The wait, where it can be one."""
    return seconds if seconds is not None and 0 <= seconds <= MAX_WAIT_SECONDS else None


def exceptions_in(value: dict[str, Any]) -> list[str]:
    """The names of events in a body that are failures of who stands behind it."""
    return [key for key, inner in value.items() if key.endswith(_EXCEPTION) and isinstance(inner, dict)]


def _parsed(value: Any) -> Any:
    """What a string of JSON says, anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return loads(value.encode(errors="replace"))
    except UNREADABLE:
        return value


def _span(text: str) -> float | None:
    total = 0.0
    for number, unit in _SPAN.findall(text):
        is_milli = unit.lower() in ("ms", "milliseconds", "millisecond")
        scale = 0.001 if is_milli else _UNITS.get(unit[:1].lower())
        if scale is None:
            return None
        total += float(number) * scale
    return total


def _objects(value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """A body's object and those in it that may speak of the failure."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, list):
        for one in value:
            yield from _objects(one, depth + 1)
    elif isinstance(value, dict):
        yield value
        for key in _INNER:
            yield from _objects(value.get(key), depth + 1)


def _integer(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        return int(value)
    return None


def _is_bad(code: Any) -> bool:
    return code is not None and not isinstance(code, bool) and str(code).lower() not in _GOOD_CODES


def _has_words(value: dict[str, Any]) -> bool:
    return any(value.get(key) and isinstance(value[key], (str, list)) for key in _PLAIN)


def _is_blunt(value: dict[str, Any]) -> bool:
    """Whether words are all that there is, or stand beside a code that is none of success."""
    is_said = isinstance(value.get("status"), str) and _FAULT.search(value["status"]) is not None
    return is_said or _is_bad(value.get("code")) or status_of(value) is not None or not value.keys() - _PLAIN

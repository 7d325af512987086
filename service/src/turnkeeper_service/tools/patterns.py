"""Patterns in schemas that others wrote: matched only where that ends soon.

Python's regular expressions go back over what they have tried: a short pattern on a short text may take years, and
nothing else of the process runs meanwhile. What would take too long is not checked: the value passes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from jsonschema import validators

MAX_TRIES = 5_000_000
"""Tries of one match at most: some tens of milliseconds."""
MAX_PATTERN, MAX_REPEATS = 1_000, 16
"""Longer patterns, and those with more repeats, are not tried at all."""
_TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[a-zA-Z<!=:#>-]*|[()|]|[*+?][?+]?|\{\d*(?:,\d*)?\}[?+]?|.", re.DOTALL
)
_EXACT = re.compile(r"\{\d+\}[?+]?")
_BACKWARDS = re.compile(r"\\[1-9]|\(\?P?[=(]")

Check = Callable[[Any, Any, Any, Any], Iterable[Any] | None]


def is_soon(pattern: str, length: int) -> bool:
    """Whether a search for the pattern in a text of this length ends soon, whatever the text."""
    shape = _shape(pattern) if len(pattern) <= MAX_PATTERN else None
    if shape is None or shape[0] > MAX_REPEATS:
        return False
    num_repeats, num_options = shape
    has_one_start = pattern.startswith("^") and "|" not in pattern
    num_tries: int = max(length, 1) ** (num_repeats + (not has_one_start)) << min(num_options, 64)
    return num_tries <= MAX_TRIES


@lru_cache(maxsize=256)
def _shape(pattern: str) -> tuple[int, int] | None:
    """How many repeats and how many choices a pattern has, one behind the other; None for one inside another."""
    if _BACKWARDS.search(pattern):
        return None
    num_repeats = num_options = 0
    # Of each group that is open, and of the one that was closed last: whether it holds a repeat or a choice.
    groups, closed = [False], False
    for token in _TOKEN.findall(pattern):
        last, closed = closed, False
        if token.startswith("("):
            groups.append(False)
        elif token == ")":
            if len(groups) == 1:
                return None
            closed = groups.pop()
            groups[-1] = groups[-1] or closed
        elif token == "|":
            num_options += 1
            groups[-1] = True
        elif token[0] in "*+?{" and len(token) <= 12 and (token[0] != "{" or token[-1] in "}?+") and token != "{":
            if token[0] == "?":
                num_options += 1
            elif last:
                return None
            elif _EXACT.fullmatch(token):
                continue
            else:
                num_repeats += 1
            groups[-1] = True
    return num_repeats, num_options


@lru_cache(maxsize=16)
def bounded(kind: Any) -> Any:
    """A class of validators as it is, but for patterns that would take too long."""
    checks: Mapping[str, Check] = kind.VALIDATORS
    guarded: dict[str, Check] = {
        name: _guarded(checks[name]) for name in ("patternProperties", "additionalProperties") if name in checks
    }
    if "unevaluatedProperties" in checks:
        guarded["unevaluatedProperties"] = _unless_patterns(checks["unevaluatedProperties"])
    pattern = checks["pattern"]

    def check_pattern(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if isinstance(instance, str) and is_soon(value, len(instance)):
            yield from pattern(validator, value, instance, schema) or ()

    extend: Any = validators.extend
    return extend(kind, {**guarded, "pattern": check_pattern})


def _guarded(check: Check) -> Check:
    """A check that looks at names by the patterns beside it."""

    def guard(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        patterns = schema.get("patternProperties", ())
        # Some checks search for all patterns as one.
        together = "|".join(patterns)
        if not patterns or not isinstance(instance, dict) or all(is_soon(together, len(name)) for name in instance):
            yield from check(validator, value, instance, schema) or ()

    return guard


def _unless_patterns(check: Check) -> Check:
    """A check that looks at names by patterns anywhere below."""

    def guard(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if '"patternProperties"' not in str(schema).replace("'", '"'):
            yield from check(validator, value, instance, schema) or ()

    return guard

"""Options as callers write them: a name or a value that is none is an error that says what was meant."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, NoReturn, TypeAlias, TypeVar, get_args, get_type_hints

Seconds: TypeAlias = float | timedelta
T = TypeVar("T")

_MAX_COUNT = 2**31 - 1
# The longest span that a `google.protobuf.Duration` holds, in seconds.
_MAX_SECONDS = 315_576_000_000


def named_options(owner: type[T]) -> type[T]:
    """Let the public methods of a class show all their options, and refuse others with the nearest name.

    Options that are written down as `**options: Unpack[...]` become keyword parameters of the signature.
    """
    for name, member in list(vars(owner).items()):
        if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_")):
            setattr(owner, name, _naming(member))
    return owner


def choice(option: str, value: object, choices: Mapping[Any, T]) -> T:
    """What a word stands for."""
    if isinstance(value, str) and value in choices:
        return choices[value]
    near = get_close_matches(value, choices, 1) if isinstance(value, str) else []
    meant = f"; did you mean {near[0]!r}?" if near else ""
    _refuse(option, value, f"one of {', '.join(map(repr, choices))}", meant)


def text(option: str, value: object) -> str:
    """A string."""
    if not isinstance(value, str):
        _refuse(option, value, "a string")
    return value


def texts(option: str, value: object) -> list[str]:
    """Several strings; one alone is not several of one letter each."""
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        _refuse(option, value, "a list of strings")
    return [text(option, one) for one in value]


def flag(option: str, value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        _refuse(option, value, "True or False")
    return value


def count(option: str, value: object) -> int:
    """A whole number from 0 on."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_COUNT:
        _refuse(option, value, f"a whole number from 0 to {_MAX_COUNT:,}")
    return value


def span(option: str, value: object) -> timedelta:
    """A span of time that was given in seconds, or as it is."""
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        _refuse(option, value, "a number of seconds or a timedelta")
    if not (math.isfinite(seconds) and 0 <= seconds <= timedelta.max.total_seconds() and seconds <= _MAX_SECONDS):
        _refuse(option, value, "a span of time that is not negative and has an end")
    return value if isinstance(value, timedelta) else timedelta(seconds=seconds)


def instance(option: str, value: object, kind: type[T]) -> T:
    """An object of one type."""
    if not isinstance(value, kind):
        _refuse(option, value, f"of type {kind.__name__}")
    return value


def json_schema(option: str, value: object) -> str:
    """A JSON Schema, given as an object or as its text."""
    if not isinstance(value, str | Mapping):
        _refuse(option, value, "a JSON Schema, as a mapping or as JSON text")
    try:
        if isinstance(value, str):
            json.loads(value)
            return value
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{option} must be a JSON Schema: {error}") from None


def _refuse(option: str, value: object, expected: str, meant: str = "") -> NoReturn:
    shown = repr(value)
    raise ValueError(f"{option} must be {expected}, not {shown if len(shown) <= 80 else shown[:79] + '…'}{meant}")


def _naming(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with all its options in its signature."""
    signature = _spelled_out(function)
    names = [
        parameter.name
        for parameter in list(signature.parameters.values())[1:]
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    known = frozenset(names)

    def check(given: Mapping[str, object]) -> None:
        if known.issuperset(given):
            return
        unknown = next(name for name in given if name not in known)
        near = get_close_matches(unknown, names, 1)
        meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names) or 'none'}"
        raise TypeError(f"{function.__qualname__.removesuffix('.__init__')}() has no option {unknown!r}; {meant}")

    if inspect.iscoroutinefunction(function):
        # Its kind stays visible: what stands in for it in somebody's tests has to be awaitable too.
        @functools.wraps(function)
        async def awaited(*given: Any, **options: Any) -> Any:
            check(options)
            return await function(*given, **options)

        named: Callable[..., Any] = awaited
    else:

        @functools.wraps(function)
        def called(*given: Any, **options: Any) -> Any:
            check(options)
            return function(*given, **options)

        named = called
    named.__signature__ = signature  # type: ignore[attr-defined]
    return named


def _spelled_out(function: Callable[..., Any]) -> inspect.Signature:
    signature = inspect.signature(function)
    *parameters, last = signature.parameters.values()
    if last.kind is not last.VAR_KEYWORD:
        return signature
    (options,) = get_args(get_type_hints(function)[last.name])
    for name, hint in get_type_hints(options).items():
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint))
    return signature.replace(parameters=parameters)

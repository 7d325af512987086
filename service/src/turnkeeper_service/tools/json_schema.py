"""JSON Schemas that others wrote, of arguments and of answers. What one refers to elsewhere is never fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

import referencing
from jsonschema import validators
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import Draft202012Validator, validator_for

from .patterns import bounded

MAX_KEPT_CHARACTERS = 64 << 10
MAX_SHOWN_CHARACTERS = 400


class BadSchemaError(Exception):
    """It is no schema; the message says why, as the end of a sentence."""


def validator(schema_json: str) -> Any:
    """The validator of a schema. Raises BadSchemaError.

    To check a schema takes longer than most of what it checks, so small ones that were used lately are kept.
    """
    return _kept(schema_json) if len(schema_json) <= MAX_KEPT_CHARACTERS else _built(schema_json)


def words_for(error: ValidationError | SchemaError, whole: str) -> str:
    """What does not match, and where; ``whole`` is what to call the outermost value.

    An error repeats what it is about, of any length and with any escape in it, and then says what is wrong.
    """
    place = "/".join(str(part) for part in error.absolute_path)
    return f"{_shown(place) or whole}: {_shown(error.message)}"


def _shown(text: str) -> str:
    half = MAX_SHOWN_CHARACTERS // 2
    shown = text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:half]} … {text[-half:]}"
    return shown.encode(errors="replace").decode()


def _built(schema_json: str) -> Any:
    try:
        schema = json.loads(schema_json)
        if not isinstance(schema, dict):
            raise BadSchemaError("is not a JSON object")
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema)
    except SchemaError as error:
        raise BadSchemaError(f"is no JSON Schema: {words_for(error, 'it')}") from None
    except ValueError:
        raise BadSchemaError("is not JSON") from None
    except RecursionError:
        raise BadSchemaError("is nested too deeply") from None
    return _decimal(bounded(kind))(schema, registry=referencing.Registry())


@lru_cache(maxsize=16)
def _decimal(kind: Any) -> Any:
    """A class of validators that compares numbers as the decimals that they are written as."""
    extend: Any = validators.extend
    names = [name for name in ("multipleOf", "divisibleBy") if name in kind.VALIDATORS]
    return extend(kind, dict.fromkeys(names, _check_multiple))


def _check_multiple(validator: Any, step: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "number") and not _is_multiple(instance, step):
        yield ValidationError(f"{instance!r} is not a multiple of {step}")


def _is_multiple(number: float, step: float) -> bool:
    if isinstance(number, int) and isinstance(step, int):
        return number % step == 0
    try:
        return (_decimal_of(number) / _decimal_of(step)).denominator == 1
    except ValueError:
        # Infinite, as what JSON writes beyond the largest float is read.
        return False


def _decimal_of(number: float) -> Fraction:
    """The decimal that a float was written as, exactly."""
    return Fraction(number) if isinstance(number, int) else Fraction(repr(number))


_kept = lru_cache(maxsize=64)(_built)

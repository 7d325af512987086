"""JSON Schemas that others wrote, of arguments and of answers. What one refers to elsewhere is never fetched."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import referencing
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
    return bounded(kind)(schema, registry=referencing.Registry())


_kept = lru_cache(maxsize=64)(_built)

"""Arguments of a call: JSON that fits the tool's schema, or words for the model about what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jsonschema.exceptions import ValidationError

from turnkeeper.v1 import content_pb2
from turnkeeper_service.json_text import MAX_DEPTH, is_too_deep, without_lone_surrogates

from .base import Tool
from .json_schema import validator, words_for

INVALID_JSON = "invalid_arguments"
"""The provider detail in which an adapter keeps arguments that were not JSON (C-84)."""
NOT_JSON = "the arguments are not valid JSON; send one JSON object"
TOO_DEEP = f"the arguments are nested deeper than {MAX_DEPTH} levels"


class BadArgumentsError(Exception):
    """The arguments cannot be used; the message is for the model."""


def malformed(parts: Sequence[content_pb2.Part]) -> frozenset[str]:
    """The ids of the calls whose arguments were not JSON, so that `{}` stands in their place."""
    return frozenset(part.tool_call.tool_call_id for part in parts if INVALID_JSON in part.provider_details.fields)


def whole_json(call: content_pb2.ToolCall) -> str:
    """The arguments as a JSON text in which every text can be written as UTF-8."""
    return without_lone_surrogates(call.arguments_json) or "{}"


def loaded(call: content_pb2.ToolCall) -> Any:
    """The arguments as a value. Raises ValueError, RecursionError."""
    return json.loads(whole_json(call))


def parse(tool: Tool, call: content_pb2.ToolCall) -> dict[str, Any]:
    """The arguments as an object. Raises BadArgumentsError."""
    try:
        arguments = loaded(call)
    except ValueError:
        raise BadArgumentsError(NOT_JSON) from None
    except RecursionError:
        raise BadArgumentsError(TOO_DEEP) from None
    if is_too_deep(call.arguments_json):
        raise BadArgumentsError(TOO_DEEP)
    if not isinstance(arguments, dict):
        raise BadArgumentsError("the arguments are not a JSON object")
    if tool.input_schema_json:
        try:
            validator(tool.input_schema_json).validate(arguments)
        except ValidationError as error:
            raise BadArgumentsError(words_for(error, "the arguments")) from None
        except Exception as error:
            # Whoever offers a tool writes its schema: what is wrong with it must not end the turn.
            raise BadArgumentsError(f"the schema of this tool cannot be used: {type(error).__name__}") from None
    return arguments

"""Arguments of a call: JSON that fits the tool's schema, or words for the model about what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
from jsonschema.exceptions import ValidationError

from turnkeeper.v1 import content_pb2

from .base import Tool

INVALID_JSON = "invalid_arguments"
"""The provider detail in which an adapter keeps arguments that were not JSON (C-84)."""


class BadArgumentsError(Exception):
    """The arguments cannot be used; the message is for the model."""


def parse(tool: Tool, call: content_pb2.ToolCall) -> dict[str, Any]:
    """The arguments as an object. Raises BadArgumentsError."""
    try:
        arguments = json.loads(call.arguments_json or "{}")
    except ValueError:
        raise BadArgumentsError("the arguments are not valid JSON; send one JSON object") from None
    if not isinstance(arguments, dict):
        raise BadArgumentsError("the arguments are not a JSON object")
    if tool.input_schema_json:
        try:
            jsonschema.validate(arguments, json.loads(tool.input_schema_json))
        except ValidationError as error:
            place = "/".join(str(part) for part in error.absolute_path)
            raise BadArgumentsError(f"{place or 'the arguments'}: {error.message}") from None
    return arguments

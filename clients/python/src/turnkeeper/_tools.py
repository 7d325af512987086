"""Tools that this process runs: functions, and what a model is told of them."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from turnkeeper._options import Seconds, named_options, span
from turnkeeper.v1.content_pb2 import Part, Text, ToolResult
from turnkeeper.v1.tool_service_pb2 import REPLAY_CLASS_NEVER, REPLAY_CLASS_SAFE, Tool

_HALF = re.compile("[\ud800-\udfff]")
_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", list: "array"}


class ToolError(Exception):
    """Raised by a tool to tell the model what is wrong; its text is shown to the model."""


class EndTurn:
    """Returned by a tool to end the turn with its result."""

    def __init__(self, result: object) -> None:
        """Take the result."""
        self.result = result


@named_options
class FunctionTool:
    """A function as a tool: a coroutine function runs on the event loop, any other in a thread.

    It returns a string, something that JSON can say, a `Part`, a `ToolResult`, or an `EndTurn` of one of these.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str = "",
        description: str = "",
        input_schema: Mapping[str, Any] | None = None,
        is_parallel: bool = False,
        needs_approval: bool = False,
        is_replay_safe: bool = False,
        timeout: Seconds | None = None,
    ) -> None:
        """Say what is offered; the function itself says what is not given.

        Args:
            function: Gets the arguments by keyword.
            name: As the model sees it; else the function's.
            description: For the model; else the docstring.
            input_schema: A JSON Schema object of the arguments; else made of the type hints.
            is_parallel: Whether calls may run beside other calls of one step.
            needs_approval: Whether somebody has to allow each call first.
            is_replay_safe: Whether a call may be run again after its outcome was lost.
            timeout: Seconds that a call may take; else the server's default.

        Raises:
            TypeError: A type hint is not one that is known here; give `input_schema`.
        """
        self._function = function
        schema = input_schema if input_schema is not None else _schema(function)
        self.tool = Tool(
            name=name or function.__name__,
            description=description or inspect.getdoc(function) or "",
            input_schema_json=json.dumps(schema),
            replay_class=REPLAY_CLASS_SAFE if is_replay_safe else REPLAY_CLASS_NEVER,
            is_parallel=is_parallel,
            needs_approval=needs_approval,
        )
        if timeout is not None:
            self.tool.timeout.FromTimedelta(span("timeout", timeout))

    async def call(self, arguments_json: str) -> tuple[ToolResult, bool]:
        """Run the function: its result, and whether the turn ends with it."""
        arguments = json.loads(arguments_json or "{}")
        if inspect.iscoroutinefunction(self._function):
            value = await self._function(**arguments)
        else:
            value = await asyncio.to_thread(self._function, **arguments)
        if isinstance(value, EndTurn):
            return _result(value.result), True
        return _result(value), False


AnyTool: TypeAlias = FunctionTool | Callable[..., Any]


def by_name(tools: Iterable[AnyTool]) -> dict[str, FunctionTool]:
    """The tools by their names; a bare function is one as it stands. Raises ValueError where a name is there twice."""
    named: dict[str, FunctionTool] = {}
    for tool in tools:
        made = tool if isinstance(tool, FunctionTool) else FunctionTool(tool)
        if named.setdefault(made.tool.name, made) is not made:
            raise ValueError(f"two tools are called {made.tool.name!r}")
    return named


def error_result(text: str) -> ToolResult:
    """A result that the model sees as an error."""
    return _text_result(text, is_error=True)


def _result(value: object) -> ToolResult:
    if isinstance(value, ToolResult):
        return value
    if isinstance(value, Part):
        return ToolResult(content=[value])
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
    return _text_result(text)


def _text_result(text: str, *, is_error: bool = False) -> ToolResult:
    # A text with half of a character, as Python's file names have it, is none that a message can hold.
    return ToolResult(content=[Part(text=Text(text=_HALF.sub("\ufffd", text)))], is_error=is_error)


def _schema(function: Callable[..., Any]) -> dict[str, Any]:
    hints = get_type_hints(function, include_extras=True)
    properties, required = {}, []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"{function.__qualname__}: {parameter} cannot be an argument of a tool")
        properties[name] = _property(hints.get(name, Any), f"{function.__qualname__}: {name}")
        if parameter.default is parameter.empty:
            required.append(name)
        else:
            properties[name]["default"] = parameter.default
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _property(hint: Any, where: str) -> dict[str, Any]:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if origin is Annotated:
        texts = [text for text in inner[1:] if isinstance(text, str)]
        return _property(inner[0], where) | ({"description": texts[0]} if texts else {})
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_property(one, where) for one in inner]}
    if hint is types.NoneType:
        return {"type": "null"}
    if (name := _JSON_TYPES.get(origin or hint)) is None:
        raise TypeError(f"{where} is {hint}, which has no JSON type that is known here: give input_schema")
    return {"type": name} | ({"items": _property(inner[0], where)} if origin is list else {})

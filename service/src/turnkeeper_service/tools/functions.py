"""Tools that are Python functions in this process: the typed signature is the schema."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, to_jsonable_python

from turnkeeper.v1 import content_pb2, tool_service_pb2

from .arguments import BadArgumentsError, whole_json
from .base import Invocation, OfferedTool, Tool, ToolAnswer, text_result
from .threads import TooManyThreadsError, in_thread


class ToolError(Exception):
    """Raised by a tool to tell the model what is wrong; its text is shown to the model."""


class EndTurn:
    """Returned by a tool to end the turn with its result."""

    def __init__(self, result: object) -> None:
        self.result = result


class FunctionTool:
    """One function as a tool. Plain functions run in a thread, coroutines on the loop."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str = "",
        description: str = "",
        is_parallel: bool = False,
        needs_approval: bool = False,
        is_replay_safe: bool = False,
        timeout: float | None = None,
    ) -> None:
        self._function = function
        fields: dict[str, Any] = {}
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise TypeError(f"{function.__qualname__}: {parameter} cannot be an argument of a tool")
            annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
            default = FieldInfo() if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (annotation, default)
        self._model = create_model(f"{function.__name__}_arguments", **fields)
        self.tool = Tool(
            name=name or function.__name__,
            description=description or inspect.getdoc(function) or "",
            input_schema_json=json.dumps(self._model.model_json_schema()),
            replay_class=tool_service_pb2.REPLAY_CLASS_SAFE if is_replay_safe else tool_service_pb2.REPLAY_CLASS_NEVER,
            is_parallel=is_parallel,
            needs_approval=needs_approval,
        )
        if timeout is not None:
            self.tool.timeout.FromNanoseconds(int(timeout * 1e9))

    def offered(self) -> OfferedTool:
        """The tool as sessions get it."""
        return OfferedTool(self.tool, self)

    async def call(self, invocation: Invocation) -> ToolAnswer:
        """Run the function. Raises BadArgumentsError, ToolError and whatever it raises."""
        try:
            model = self._model.model_validate_json(whole_json(invocation.call))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise BadArgumentsError(f"{place}: {first['msg']}") from None
        arguments = {name: getattr(model, name) for name in type(model).model_fields}
        try:
            if inspect.iscoroutinefunction(self._function):
                value = await self._function(**arguments)
            else:
                value = await in_thread(self._function, arguments)
        except (SystemExit, KeyboardInterrupt, GeneratorExit):
            # A tool does not end the process.
            raise RuntimeError("the tool wanted to end the process") from None
        except TooManyThreadsError as error:
            raise ToolError(str(error)) from None
        is_turn_end = isinstance(value, EndTurn)
        return ToolAnswer(_result(invocation.call, value.result if isinstance(value, EndTurn) else value), is_turn_end)


def _result(call: content_pb2.ToolCall, value: object) -> content_pb2.ToolResult:
    if isinstance(value, content_pb2.ToolResult):
        return value
    if isinstance(value, content_pb2.Part):
        result = content_pb2.ToolResult(tool_call_id=call.tool_call_id, name=call.name)
        result.content.append(value)
        return result
    if isinstance(value, str):
        return text_result(call, value)
    if value is None:
        return text_result(call, "")
    return text_result(call, _json_of(value))


def _json_of(value: object) -> str:
    """The value as JSON. Raises ToolError, and what its type raises."""
    adapter = TypeAdapter(type(value))
    try:
        return adapter.dump_json(value).decode()
    except PydanticSerializationError:
        # A text in it has half of a character, or bytes in it are no text; whoever writes the result replaces it.
        try:
            return json.dumps(adapter.dump_python(value), ensure_ascii=False, default=_plain)
        except RecursionError:
            raise ToolError("the result is nested too deeply") from None


def _plain(value: object) -> object:
    """What JSON has no form for, in one that it has."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else to_jsonable_python(value)

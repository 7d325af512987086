"""The built-in tool by which a model notes what it has to do, for itself and for whoever looks at its session."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

from turnkeeper.v1 import event_pb2, tool_service_pb2

from .arguments import parse
from .base import Invocation, OfferedTool, Tool, ToolAnswer, text_result

Todo = event_pb2.Todo
NAME = "todos"
MAX_TODOS = 100
MAX_CHARACTERS = 1000
_DESCRIPTION = (
    "Notes what you have to do in this conversation, and how far it is. Give the whole list each time: it replaces the "
    "one of before. Use it for work of several steps: write the steps down, keep the one that you are at in progress, "
    "and mark each as completed as soon as it is done. The user sees the list."
)
_STATUSES = {
    "pending": event_pb2.TODO_STATUS_PENDING,
    "in_progress": event_pb2.TODO_STATUS_IN_PROGRESS,
    "completed": event_pb2.TODO_STATUS_COMPLETED,
}
_WORDS = {status: name.replace("_", " ") for name, status in _STATUSES.items()}
_TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS}
_SCHEMA = {
    "type": "object",
    "properties": {
        "todos": {
            "type": "array",
            "maxItems": MAX_TODOS,
            "description": "All todos, in order; empty for none.",
            "items": {
                "type": "object",
                "properties": {
                    "content": {**_TEXT, "description": "What is to be done, for example `Run the tests`."},
                    "status": {"type": "string", "enum": list(_STATUSES)},
                    "active_form": {
                        "type": "string",
                        "maxLength": MAX_CHARACTERS,
                        "description": "The same for while it is being done, for example `Running the tests`.",
                    },
                },
                "required": ["content", "status"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["todos"],
    "additionalProperties": False,
}


class TodoPad(Protocol):
    """Where the todos of sessions are kept."""

    async def replace(self, invocation: Invocation, todos: Sequence[Todo]) -> Sequence[Todo]:
        """Put these in the place of a session's todos, durably; returns those of before."""
        ...


class TodoTool:
    """The tool. A call that is run again changes nothing: it always brings the whole list."""

    def __init__(self, pad: TodoPad) -> None:
        self._pad = pad
        self.tool = Tool(
            name=NAME,
            description=_DESCRIPTION,
            input_schema_json=json.dumps(_SCHEMA),
            replay_class=tool_service_pb2.REPLAY_CLASS_SAFE,
        )

    def offered(self) -> OfferedTool:
        """The tool as sessions get it."""
        return OfferedTool(self.tool, self)

    async def call(self, invocation: Invocation) -> ToolAnswer:
        """Replace the list. Raises BadArgumentsError."""
        arguments = parse(self.tool, invocation.call)
        todos = [
            Todo(content=one["content"], status=_STATUSES[one["status"]], active_form=one.get("active_form", ""))
            for one in arguments["todos"]
        ]
        before = await self._pad.replace(invocation, todos)
        return ToolAnswer(text_result(invocation.call, changes(before, todos)))


def changes(before: Sequence[Todo], after: Sequence[Todo]) -> str:
    """What a new list changes, for the model that wrote it."""
    old = {todo.content: todo for todo in before}
    lines = []
    for todo in after:
        known = old.pop(todo.content, None)
        if known is None:
            lines.append(f"added, {_WORDS[todo.status]}: {todo.content}")
        elif known.status != todo.status:
            lines.append(f"{_WORDS[known.status]} -> {_WORDS[todo.status]}: {todo.content}")
    lines += [f"removed: {content}" for content in old]
    if not lines:
        lines = ["nothing changed" if list(before) == list(after) else "the order or the wording changed"]
    num_completed = sum(todo.status == event_pb2.TODO_STATUS_COMPLETED for todo in after)
    return "\n".join([*lines, f"{num_completed} of {len(after)} completed"])


def listed(todos: Sequence[Todo]) -> str:
    """The todos as text, a line for each; empty where there are none."""
    return "\n".join(f"- {todo.content} ({_WORDS[todo.status]})" for todo in todos)

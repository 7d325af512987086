"""Keeps the todos that models note in their sessions: an event for each change, and the list as it is now."""

from __future__ import annotations

from collections.abc import Sequence

from turnkeeper.v1 import event_pb2
from turnkeeper_service.runs.session.table import SessionTable
from turnkeeper_service.tools.base import Invocation, OfferedTool
from turnkeeper_service.tools.functions import ToolError
from turnkeeper_service.tools.todos import NAME, Todo, TodoTool


def todo_tool(table: SessionTable) -> dict[str, OfferedTool]:
    """The tool that notes todos, by its name."""
    return {NAME: TodoTool(SessionTodos(table)).offered()}


class SessionTodos:
    """The todos of all sessions; `Session.todos` has those of one."""

    def __init__(self, table: SessionTable) -> None:
        self._table = table

    async def replace(self, invocation: Invocation, todos: Sequence[Todo]) -> Sequence[Todo]:
        """See `turnkeeper_service.tools.todos.TodoPad`. Raises ToolError, Refused, StoreError."""
        async with self._table.pin(invocation.tenant, invocation.session_id) as session:
            if not session.is_active:
                raise ToolError("the session is being deleted")
            before = list(session.todos)
            if before != list(todos):
                draft = session.draft()
                event = event_pb2.Event(run_id=invocation.run_id, turn_id=invocation.turn_id)
                event.todos_changed.todos.extend(todos)
                draft.event(event)
                await session.submit(draft)
            return before

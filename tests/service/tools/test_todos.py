"""The built-in tool by which a model notes what it has to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.service.dispatch.watch import COMPLETED, Watch
from tests.service.titles.stage import seen
from tests.service.turns.scenes import Scene, Tools, call, calls, result_text, scene, script
from turnkeeper.v1 import event_pb2
from turnkeeper_service.tools.todos import MAX_TODOS, changes, listed

Todo = event_pb2.Todo
PENDING = event_pb2.TODO_STATUS_PENDING
IN_PROGRESS = event_pb2.TODO_STATUS_IN_PROGRESS
DONE = event_pb2.TODO_STATUS_COMPLETED
ON: dict[str, Any] = {"tools__todos": "true"}


def todo(content: str, status: str = "pending", **more: str) -> dict[str, str]:
    """A todo as a model sends it."""
    return {"content": content, "status": status, **more}


def noting(call_id: str, *todos: dict[str, str]) -> dict[str, Any]:
    """A reply that notes these todos."""
    return {"tool_calls": [call("todos", call_id, todos=list(todos))]}


def changed(watch: Watch) -> list[list[str]]:
    """The todos of every change that was read, by content."""
    return [
        [todo.content for todo in event.todos_changed.todos]
        for event in watch.events
        if event.HasField("todos_changed")
    ]


async def told(it: Scene, run_id: str = "r") -> list[str]:
    """What the calls of a run were told."""
    return [result_text(result) for result in (await it.results(run_id)).values()]


@pytest.mark.asyncio
async def test_a_model_notes_todos_and_everybody_sees_them_after_a_restart_too(tmp_path: Path) -> None:
    first = noting("c1", todo("read it", "in_progress", active_form="Reading it"), todo("fix it"))
    second = noting("c2", todo("read it", "completed"), todo("fix it", "in_progress"), todo("test it"))
    async with scene(tmp_path, **ON) as it:
        await it.server.submit("s", script(first, second, "done"), "r")
        assert (await it.watch.terminal("r")).status == COMPLETED
        assert it.offered() == ["todos"]
        assert await told(it) == [
            "added, in progress: read it\nadded, pending: fix it\n0 of 2 completed",
            "in progress -> completed: read it\npending -> in progress: fix it\nadded, pending: test it\n"
            "1 of 3 completed",
        ]
        event = await it.watch.seen("r", "todos_changed")
        assert event.todos_changed.todos[0] == Todo(content="read it", status=IN_PROGRESS, active_form="Reading it")
        assert event.turn_id == (await it.watch.seen("r", "run_started")).turn_id
        now = [Todo(content="read it", status=DONE), Todo(content="fix it", status=IN_PROGRESS)]
        now.append(Todo(content="test it", status=PENDING))
        assert list((await seen(it.server)).todos) == now
    async with scene(tmp_path, is_new=False, **ON) as it:
        assert list((await seen(it.server)).todos) == now
        await it.server.submit("s", script(noting("c3", todo("test it", "completed")), "done"), "r2")
        await it.watch.terminal("r2")
        assert await told(it, "r2") == [
            "pending -> completed: test it\nremoved: read it\nremoved: fix it\n1 of 1 completed"
        ]


@pytest.mark.asyncio
async def test_the_same_list_again_is_no_event(tmp_path: Path) -> None:
    async with scene(tmp_path, **ON) as it:
        await it.server.submit("s", script(noting("c1", todo("a")), noting("c2", todo("a")), "done"), "r")
        await it.watch.terminal("r")
        assert (await told(it))[1] == "nothing changed\n0 of 1 completed"
        assert changed(it.watch) == [["a"]]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"todos": [todo("a", "doing")]}, "'doing' is not one of"),
        ({"todos": [{"content": "a"}]}, "'status' is a required property"),
        ({"todos": [todo("")]}, "should be non-empty"),
        ({"todos": [todo("a")] * (MAX_TODOS + 1)}, "too long"),
        ({"todos": [todo("a", priority="high")]}, "'priority' was unexpected"),
        ({}, "'todos' is a required property"),
    ],
)
@pytest.mark.asyncio
async def test_a_list_that_is_none_changes_nothing(tmp_path: Path, arguments: dict[str, Any], complaint: str) -> None:
    async with scene(tmp_path, **ON) as it:
        bad = {"tool_calls": [call("todos", "c2", **arguments)]}
        await it.server.submit("s", script(noting("c1", todo("a")), bad, "done"), "r")
        await it.watch.terminal("r")
        result = (await it.results())["c2"]
        assert result.is_error
        assert complaint in result_text(result)
        assert changed(it.watch) == [["a"]]
        assert [todo.content for todo in (await seen(it.server)).todos] == ["a"]


@pytest.mark.parametrize(
    ("options", "offered"),
    [
        ({}, ["look"]),
        ({**ON}, ["look", "todos"]),
        ({**ON, "session": {"tools": ["look"]}}, ["look"]),
        ({**ON, "session": {"tools": ["todos"]}}, ["todos"]),
        ({**ON, "session": {"is_tool_free": True}}, []),
    ],
)
@pytest.mark.asyncio
async def test_the_tool_is_there_where_it_is_wanted(
    tmp_path: Path, options: dict[str, Any], offered: list[str]
) -> None:
    tools = Tools()
    tools.quick("look")
    async with scene(tmp_path, tools, **options) as it:
        await it.server.submit("s", "hello", "r")
        await it.watch.terminal("r")
        assert it.offered() == offered


@pytest.mark.asyncio
async def test_a_function_of_the_same_name_comes_before_it(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("todos")
    async with scene(tmp_path, tools, **ON) as it:
        await it.server.submit("s", script(calls("todos"), "done"), "r")
        await it.watch.terminal("r")
        assert await told(it) == ["todos is done"]
        assert changed(it.watch) == []


def test_what_a_list_changes() -> None:
    before = [Todo(content="a", status=PENDING), Todo(content="b", status=DONE)]
    assert changes(before, before) == "nothing changed\n1 of 2 completed"
    assert changes(before, before[::-1]) == "the order or the wording changed\n1 of 2 completed"
    assert changes(before, []) == "removed: a\nremoved: b\n0 of 0 completed"


def test_todos_as_text() -> None:
    todos = [Todo(content="a", status=IN_PROGRESS, active_form="Doing a"), Todo(content="b", status=DONE)]
    assert listed(todos) == "- a (in progress)\n- b (completed)"
    assert listed([]) == ""

"""Owners of asyncio tasks: whoever starts a task keeps it, sees how it ended and awaits it at close."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class TaskOwner:
    """Holds tasks until they end.

    A task that ends by an exception nobody awaits is given to ``on_fault``, once; cancellation is not a fault.
    """

    def __init__(self, on_fault: Callable[[str, BaseException], None]) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_fault = on_fault

    def __len__(self) -> int:
        return len(self._tasks)

    def names(self) -> list[str]:
        """The names of the tasks that are held."""
        return [task.get_name() for task in self._tasks]

    def fault(self, name: str, error: BaseException) -> None:
        """Report a fault of something that nobody awaits."""
        self._on_fault(name, error)

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task; it is held until it ends."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def start(
        self, name: str, coroutine: Coroutine[Any, Any, Any], ended: Callable[[asyncio.Task[Any]], None]
    ) -> asyncio.Task[Any]:
        """Start a task whose end somebody looks at, whatever way it ends; it is held until then."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_fault(task.get_name(), error)

    async def close(self, timeout: float | None = None) -> int:
        """Cancel what is left and wait for it, at most ``timeout`` seconds; returns how many did not end in time."""
        pending = {task for task in self._tasks if task is not asyncio.current_task()}
        for task in pending:
            task.cancel()
        if not pending:
            return 0
        _, late = await asyncio.wait(pending, timeout=timeout)
        return len(late)

"""Plain functions of tools, each call in a thread of its own.

One that never ends takes no thread from anything else, and keeps the process from nothing, its end included.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

MAX_THREADS = 512
"""Calls that may run at a time, those that nobody waits for any more among them."""
PREFIX = "tool "


class TooManyThreadsError(Exception):
    """So many calls run already that no further one begins."""


async def in_thread(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Run a function. A thread cannot be interrupted, so the first cancel is ignored (U-12); the second gives up.

    Raises TooManyThreadsError and whatever the function raises.
    """
    if sum(one.name.startswith(PREFIX) for one in threading.enumerate()) >= MAX_THREADS:
        raise TooManyThreadsError(f"{MAX_THREADS} calls of plain functions run already")
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[Any, Exception | None]] = loop.create_future()
    context = contextvars.copy_context()

    def end(value: Any, error: Exception | None) -> None:
        if not done.done():
            done.set_result((value, error))

    def work() -> None:
        value, error = None, None
        try:
            value = context.run(function, **arguments)
        except Exception as raised:
            error = raised
        except BaseException as raised:
            # Of all threads only the main one may say that the process ends.
            error = RuntimeError(type(raised).__name__)
        with suppress(RuntimeError):
            # A loop that is closed has nobody who waits.
            loop.call_soon_threadsafe(end, value, error)

    threading.Thread(target=work, name=PREFIX + function.__name__, daemon=True).start()
    try:
        await asyncio.wait({done})
    except asyncio.CancelledError:
        await asyncio.wait({done})
    value, error = done.result()
    if error is not None:
        raise error
    return value

"""How the store's threads answer the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, TypeVarTuple

from turnkeeper_service.store.errors import StoreError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def post(loop: asyncio.AbstractEventLoop, callback: Callable[[*Ts], object], *args: *Ts) -> None:
    """Call back on the loop's thread. A loop that is closed has nobody left to tell."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *args)


def resolve(future: asyncio.Future[T], result: T) -> None:
    """Give a future its result, unless its waiter has gone."""
    if not future.done():
        future.set_result(result)


def reject(future: asyncio.Future[Any], error: Exception) -> None:
    """Give a future its error, unless its waiter has gone."""
    if future.done():
        return
    if isinstance(error, StoreError):
        # Many futures may share the cause; each gets an exception of its own, since raising one writes on it.
        own = type(error)(str(error), path=error.path)
        own.__cause__ = error.__cause__
        error = own
    future.set_exception(error)

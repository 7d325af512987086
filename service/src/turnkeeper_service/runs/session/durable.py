"""Waiting for the store on behalf of a caller."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from turnkeeper_service.errors import store_busy, store_unavailable
from turnkeeper_service.store.base import Store
from turnkeeper_service.store.errors import StoreBusyError, StoreCorruptError, StoreError

T = TypeVar("T")


async def durable(work: asyncio.Future[T], store: Store) -> T:
    """What a commit gives once it is durable, or work that ends with one; whoever leaves the wait takes nothing back.

    It takes as long as it takes while the store gets on with what it was handed.

    Raises:
        Refused: STORE_UNAVAILABLE: the store has failed, or is busy and has got on with nothing. What was handed over
            may still become durable: the same ids tell. The server that closes leaves the work to the next one.
        StoreCorruptError: What had to be read first cannot be read.
    """
    while True:
        try:
            return await _told(work, store)
        except StoreBusyError:
            if store.is_stalled:
                raise store_busy() from None


async def _told(future: asyncio.Future[T], store: Store) -> T:
    try:
        return await store.patiently(future)
    except (StoreBusyError, StoreCorruptError):
        raise
    except StoreError:
        raise store_unavailable() from None

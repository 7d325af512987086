"""Waiting for the store on behalf of a caller."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from turnkeeper_service.errors import store_busy, store_unavailable
from turnkeeper_service.store.base import Store, StoreBusyError, StoreCorruptError, StoreError

T = TypeVar("T")


async def durable(commit: asyncio.Future[T], store: Store) -> T:
    """What a commit gives once it is durable; cancelling whoever waits takes nothing back.

    Raises:
        Refused: STORE_UNAVAILABLE: the store has failed, or is busy for too long. What was handed over may still
            become durable: the same ids tell.
        StoreCorruptError: What had to be read first cannot be read.
    """
    try:
        return await _told(commit, store)
    except StoreBusyError:
        raise store_busy() from None


async def eventually(work: asyncio.Future[T], store: Store) -> T:
    """What work gives that ends with a commit: as long as it takes, unless that is because the store is busy.

    Raises as `durable` does. The server that closes leaves the work to the next one.
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

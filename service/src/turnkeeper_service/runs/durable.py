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
        return await store.patiently(commit)
    except StoreCorruptError:
        raise
    except StoreBusyError:
        raise store_busy() from None
    except StoreError:
        raise store_unavailable() from None

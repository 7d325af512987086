"""What a scenario needs of the store under test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from turnkeeper_service.store.base import Store, TombstoneRow
from turnkeeper_service.store.conformance.rows import TENANT

T = TypeVar("T")


class Harness(Protocol):
    """One empty database, and stores on it."""

    def store(self) -> Store:
        """Another store on the same database, not open yet."""
        ...

    def break_lock(self) -> None:
        """Let the next store open although one is open: what the fence is for."""
        ...


def found(row: T | None) -> T:
    """A row that must be there."""
    assert row is not None
    return row


@asynccontextmanager
async def opened(harness: Harness) -> AsyncIterator[Store]:
    """An open store, closed afterwards."""
    store = harness.store()
    try:
        await store.open()
        yield store
    finally:
        await store.close()


async def tombstones(store: Store, run_id: str, tenant: str = TENANT) -> list[TombstoneRow]:
    """The cancels that wait for a run."""
    async with store.claim_run(tenant, run_id) as claim:
        return list(claim.tombstones)

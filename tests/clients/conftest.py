"""A server of the tests' own, and clients that do not wait long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.clients.fake import FakeLog, FakeServer
from tests.clients.real import RealServer
from turnkeeper import Backoff, Client

QUICK = Backoff(initial=0.01, maximum=0.05, patience=20.0)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeServer]:
    server = FakeServer(FakeLog())  # type: ignore[abstract]
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def client(server: FakeServer) -> AsyncIterator[Client]:
    async with Client(server.address, backoff=QUICK) as client:
        yield client


@pytest_asyncio.fixture
async def real(tmp_path: Path) -> AsyncIterator[RealServer]:
    server = RealServer(tmp_path / "data")
    try:
        await server.start()
        yield server
    finally:
        await server.kill()

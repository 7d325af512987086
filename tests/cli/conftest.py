"""A server of the tests' own, and the command as a process."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.clients.fake import FakeLog, FakeServer


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Awaitable[Done]]


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeServer]:
    server = FakeServer(FakeLog())  # type: ignore[abstract]
    await server.start()
    yield server
    await server.stop()


def environment(address: str) -> dict[str, str]:
    return {**os.environ, "TURNKEEPER_ADDRESS": address, "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}


async def start(address: str, *arguments: str) -> Process:
    command = [sys.executable, "-m", "turnkeeper.cli", *arguments]
    return await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment(address)
    )


@pytest.fixture
def command(server: FakeServer) -> Command:
    async def run(*arguments: str, given: str = "") -> Done:
        process = await start(server.address, *arguments)
        out, err = await asyncio.wait_for(process.communicate(given.encode()), 60)
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    return run


@pytest.fixture
def session(request: pytest.FixtureRequest) -> str:
    """A session of this test's own, where a server is many tests'."""
    return str(request.node.name)[:100].replace("[", ".").replace("]", "")

"""The tests' own tool server over HTTP, on the loopback and inside the test's loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.service.harness import LIMIT


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the test runner's."""
        yield


class OverHttp:
    """Serves while its context is open. `shut` holds every request at the door."""

    def __init__(self, server: MCPServer[Any], port: int = 0) -> None:
        self._app: ASGIApp = server.streamable_http_app()
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self.headers: list[dict[str, str]] = []
        """Of every request so far."""
        self._door = asyncio.Event()
        self._door.set()
        self._knocked = asyncio.Event()
        config = uvicorn.Config(
            self._serve, interface="asgi3", log_config=None, lifespan="on", ws="none", timeout_graceful_shutdown=0
        )
        self._uvicorn = _Uvicorn(config)
        self._task: asyncio.Task[None] | None = None

    def shut(self) -> None:
        """Hold what comes from now on."""
        self._door.clear()
        self._knocked.clear()

    def open(self) -> None:
        """Let in what is held, and what comes."""
        self._door.set()

    async def knocked(self) -> None:
        """Wait until a request is held at the door."""
        async with asyncio.timeout(LIMIT):
            await self._knocked.wait()

    async def __aenter__(self) -> OverHttp:
        self._task = asyncio.create_task(self._uvicorn.serve([self._socket]), name="uvicorn")
        async with asyncio.timeout(LIMIT):
            while not self._uvicorn.started:  # noqa: ASYNC110
                await asyncio.sleep(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Go away at once, as a process that is killed does. Idempotent."""
        for connection in list(self._uvicorn.server_state.connections):
            connection.transport.abort()
        self.open()
        self._uvicorn.should_exit = True
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
            if not self._door.is_set():
                self._knocked.set()
                await self._door.wait()
        await self._app(scope, receive, send)

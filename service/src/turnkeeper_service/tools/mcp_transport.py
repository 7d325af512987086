"""How a tool server is reached: a child process, or HTTP. Both say when their stream has ended."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import httpx2
import structlog
from mcp.client import Transport
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from .mcp_options import McpOptions

log = structlog.get_logger(__name__)

KEPT_LINES = 20
MAX_LINE_BYTES = 2000


class Complaints(asyncio.Protocol):
    """The last lines that a child process wrote to its standard error.

    They are told where it did not come up. Later they may hold what a call said, and go to the debug log only.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._rest = b""
        self.last: deque[str] = deque(maxlen=KEPT_LINES)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-MAX_LINE_BYTES:]
        for line in lines:
            self._take(line)

    def eof_received(self) -> None:
        """Called by the loop."""
        if self._rest:
            self._take(self._rest)
        self._rest = b""

    def _take(self, line: bytes) -> None:
        said = line[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip()
        self.last.append(said)
        log.debug("a tool server writes to its standard error", server=self._server, line=said)


class _Watched:
    """A stream of messages that says when it has ended."""

    def __init__(self, stream: Any, on_end: Callable[[], None]) -> None:
        self._stream = stream
        self._on_end = on_end

    @property
    def last_context(self) -> Any:
        """The context in which the last message was sent, where the stream knows it."""
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        try:
            return await self._stream.receive()
        except BaseException:
            self._on_end()
            raise

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except BaseException:
            self._on_end()
            raise

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        ended: bool | None = await self._stream.__aexit__(kind, error, trace)
        return ended


def transport(options: McpOptions, complaints: Complaints, on_end: Callable[[], None]) -> Transport:
    """The server's transport, to be entered once."""
    return _over_stdio(options, complaints, on_end) if options.command else _over_http(options, on_end)


@asynccontextmanager
async def _over_stdio(
    options: McpOptions, complaints: Complaints, on_end: Callable[[], None]
) -> AsyncGenerator[tuple[Any, Any]]:
    parameters = StdioServerParameters(command=options.command, args=list(options.args), env=dict(options.env))
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as errors:
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: complaints, os.fdopen(reading, "rb", buffering=0)
        )
        try:
            async with stdio_client(parameters, errlog=errors) as (read, write):
                errors.close()
                yield _Watched(read, on_end), write
        finally:
            pipe.close()


@asynccontextmanager
async def _over_http(options: McpOptions, on_end: Callable[[], None]) -> AsyncGenerator[tuple[Any, Any]]:
    # How long an answer may take is the call's matter, and a stream of changes is quiet for as long as nothing changes.
    timeout = httpx2.Timeout(options.connect_timeout, read=None)
    async with (
        httpx2.AsyncClient(headers=dict(options.headers), timeout=timeout, trust_env=False) as client,
        # A result in base64 is longer than what it becomes.
        streamable_http_client(
            options.url, http_client=client, max_sse_event_size=2 * options.max_result_bytes + (1 << 16)
        ) as (read, write),
    ):
        yield _Watched(read, on_end), write

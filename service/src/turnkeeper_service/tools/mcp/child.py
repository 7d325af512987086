"""A tool server as a child process: its messages are lines on its standard input and output.

The SDK's own transport is not used: it ends its reader at the first byte that is no UTF-8 and says so to nobody. Here
the reader is the iterator that the session itself asks, so that it cannot end unseen.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, cast

import anyio
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from .answers import Json
from .lines import Complaints, Lines
from .messages import Exchange
from .options import McpOptions

EXIT_SECONDS = 2.0
"""How long a child may take to exit once its standard input is closed, and again once it is told to."""


class _Child(asyncio.SubprocessProtocol):
    """The process, as the loop tells of it."""

    def __init__(self, complaints: Complaints, limit: int) -> None:
        self.lines = Lines(limit)
        self.exited = asyncio.Event()
        self.is_mute = False
        self.is_deaf = False
        self._complaints = complaints
        self._said = asyncio.Event()
        self._takes = asyncio.Event()
        self._takes.set()
        self._is_paused = False
        self._process: asyncio.SubprocessTransport | None = None

    @property
    def process(self) -> asyncio.SubprocessTransport:
        assert self._process is not None
        return self._process

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none by its class.
        self._process = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._complaints.take(data)
            return
        self.lines.take(data)
        self._said.set()
        if self.lines.num_bytes > self.lines.limit and not self._is_paused:
            self._is_paused = True
            self._pipe(1).pause_reading()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 0:
            # Nothing can be asked any more: it is lost, whatever it goes on to say.
            self.is_deaf = True
            self._takes.set()
            self._said.set()
        elif fd == 1:
            self.lines.end()
            self.is_mute = True
            self._said.set()
        else:
            self._complaints.end()

    def process_exited(self) -> None:
        self.exited.set()

    def pause_writing(self) -> None:
        self._takes.clear()

    def resume_writing(self) -> None:
        self._takes.set()

    def _pipe(self, fd: int) -> Any:
        return self.process.get_pipe_transport(fd)

    async def line(self) -> tuple[bytes, bool] | None:
        """The next line; None at the end."""
        while not self.lines.whole:
            if self.is_mute or self.is_deaf:
                return None
            if self._is_paused:
                self._is_paused = False
                self._pipe(1).resume_reading()
            self._said.clear()
            await self._said.wait()
        return self.lines.next()

    async def write(self, data: bytes) -> None:
        """Raises BrokenResourceError where nobody reads any more."""
        if self.is_deaf or self.exited.is_set():
            raise anyio.BrokenResourceError
        self._pipe(0).write(data)
        await self._takes.wait()

    async def end(self) -> None:
        """Let it go: it may see that its standard input is closed, then it is told, then it is killed."""
        self._pipe(0).close()
        if not await self._exits():
            self._signal(signal.SIGTERM)
            if not await self._exits():
                self._signal(signal.SIGKILL)
                await self._exits()
        elif not self.is_mute:
            # One of its own children holds its pipes.
            self._signal(signal.SIGTERM)
        self.process.close()

    async def _exits(self) -> bool:
        if self._is_paused:
            self._is_paused = False
            self._pipe(1).resume_reading()
        with anyio.move_on_after(EXIT_SECONDS):
            await self.exited.wait()
        return self.exited.is_set()

    def _signal(self, number: signal.Signals) -> None:
        # It leads a process group of its own, which holds what it has started too.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.get_pid(), number)


class _Stream:
    """What the two directions have in common."""

    async def aclose(self) -> None:
        """The process is ended by who began it."""

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _Reading(_Stream):
    """The messages of a child."""

    def __init__(self, child: _Child, exchange: Exchange, on_end: Callable[[], None]) -> None:
        self._child = child
        self._exchange = exchange
        self._on_end = on_end
        self._messages: deque[Json] = deque()

    def __aiter__(self) -> _Reading:
        return self

    async def __anext__(self) -> SessionMessage:
        while True:
            # However fast it writes, others have their turn.
            await asyncio.sleep(0)
            if self._messages:
                break
            line = await self._child.line()
            if line is None:
                self._on_end()
                raise StopAsyncIteration
            data, is_cut = line
            if is_cut:
                text = data.decode("utf-8", "replace")
                self._messages += self._exchange.unusable(text, f"is longer than {self._child.lines.limit} bytes")
            else:
                self._messages += self._exchange.read(data)
        return SessionMessage(jsonrpc_message_adapter.validate_python(self._messages.popleft(), by_name=False))

    async def receive(self) -> SessionMessage:
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise anyio.EndOfStream from None


class _Writing(_Stream):
    """What a child is told."""

    def __init__(self, child: _Child, exchange: Exchange) -> None:
        self._child = child
        self._exchange = exchange

    async def send(self, item: SessionMessage) -> None:
        self._exchange.sent(item.message)
        line = item.message.model_dump_json(by_alias=True, exclude_unset=True)
        await self._child.write(line.encode() + b"\n")


@asynccontextmanager
async def over_stdio(
    options: McpOptions, exchange: Exchange, complaints: Complaints, on_end: Callable[[], None]
) -> AsyncGenerator[tuple[Any, Any]]:
    """Run the server while the context is open. Raises OSError, and ValueError for a command with NUL in it."""
    _, protocol = await asyncio.get_running_loop().subprocess_exec(
        lambda: _Child(complaints, options.max_message_bytes),
        options.command,
        *options.args,
        env=get_default_environment() | dict(options.env),
        start_new_session=True,
    )
    try:
        yield _Reading(protocol, exchange, on_end), _Writing(protocol, exchange)
    finally:
        # Every wait in it has its end: a cancel must not leave the process behind.
        with anyio.CancelScope(shield=True):
            await protocol.end()

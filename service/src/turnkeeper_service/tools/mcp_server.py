"""One tool server that speaks MCP: connected by one task, which connects again, with back-off, when it is lost.

What the server offers is there while the connection stands and gone when it is lost. A call that is in flight then ends
as an error: whether it took effect is unknown.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping

import anyio
import mcp_types
import structlog
from mcp import MCPError
from mcp.client import Client, IncomingMessage
from mcp.client.subscriptions import SubscriptionLost
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from turnkeeper_service.clock import Clock

from .base import Invocation, OfferedTool, Tool, ToolAnswer, synthetic_result, text_result
from .mcp_content import offers, result_of, text_of
from .mcp_options import McpOptions
from .mcp_transport import Complaints, transport

log = structlog.get_logger(__name__)

FIRST_BACKOFF = 0.5
MAX_BACKOFF = 30.0
CLOSE_SECONDS = 5.0
"""How long a close may take to say goodbye; a child process that stays is ended after it."""
MAX_PAGES = 100


class McpServer:
    """A tool server. Only the event loop's thread touches it."""

    def __init__(self, options: McpOptions, clock: Clock, changed: Callable[[], None]) -> None:
        self.options = options
        self.tools: Mapping[str, OfferedTool] = {}
        """What it offers now, by the names that models see."""
        self.instructions = ""
        self.settled = asyncio.Event()
        """Set once it has connected for the first time, or has had its time to."""
        self._clock = clock
        self._changed = changed
        self._connection: _Connection | None = None
        self._came_up = asyncio.Event()
        self._scope: anyio.CancelScope | None = None
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect."""
        timer = self._clock.call_later(self.options.connect_timeout, self.settled.set)
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"tool server {self.options.name}")
        self._task.add_done_callback(lambda _: timer.cancel())

    async def close(self) -> None:
        """End the connection, and the child process if it is one. Idempotent."""
        self._is_closing = True
        self.settled.set()
        task, scope = self._task, self._scope
        if task is None or scope is None or task.done():
            return
        timer = None
        if self._connection is not None:
            self._connection.end("closed")
            timer = self._clock.call_later(CLOSE_SECONDS, scope.cancel)
        else:
            scope.cancel()
        try:
            await asyncio.wait({task})
        finally:
            if timer is not None:
                timer.cancel()

    # ---- connecting

    async def _run(self) -> None:
        backoff = FIRST_BACKOFF
        while not self._is_closing:
            with anyio.CancelScope() as self._scope:
                if await self._connect() >= MAX_BACKOFF:
                    backoff = FIRST_BACKOFF
                if not self._is_closing:
                    await self._clock.sleep(backoff)
                    backoff = min(2 * backoff, MAX_BACKOFF)

    async def _connect(self) -> float:
        """One connection, from its first byte to its end; how many seconds it stood."""
        options, complaints = self.options, Complaints(self.options.name)
        since: float | None = None
        connection = _Connection(options, complaints)
        with anyio.CancelScope() as scope:
            timer = self._clock.call_later(options.connect_timeout, scope.cancel)
            try:
                async with connection.client:
                    await connection.begin()
                    timer.cancel()
                    since = self._clock.monotonic()
                    await self._stay(connection)
            except Exception as error:
                connection.end(_told(error))
            finally:
                timer.cancel()
                connection.is_over.set()
                self._down()
        stood = 0.0 if since is None else self._clock.monotonic() - since
        if self._is_closing:
            return stood
        if since is not None:
            log.warning("a tool server is lost", server=options.name, error=connection.why)
        else:
            why = connection.why or f"no answer within {options.connect_timeout:g} seconds"
            log.warning("a tool server does not come up", server=options.name, error=why, stderr=list(complaints.last))
        return stood

    async def _stay(self, connection: _Connection) -> None:
        """Show what the server offers, until the connection ends or the server is closed."""
        self._connection = connection
        self._show(connection)
        log.info("a tool server is connected", server=self.options.name, tools=len(self.tools))
        self.settled.set()
        self._came_up.set()
        while not self._is_closing and await connection.changed():
            with anyio.CancelScope() as scope:
                timer = self._clock.call_later(self.options.connect_timeout, scope.cancel)
                try:
                    await connection.list()
                finally:
                    timer.cancel()
            if scope.cancelled_caught:
                connection.end("it does not list its tools")
                return
            self._show(connection)
            connection.listed()

    def _show(self, connection: _Connection) -> None:
        self.instructions = text_of(connection.client.instructions or "")
        self.tools = {
            name: OfferedTool(tool, _RemoteTool(self, connection, own_name))
            for name, (tool, own_name) in offers(self.options, connection.tools).items()
        }
        self._changed()

    def _down(self) -> None:
        self._connection = None
        self._came_up.clear()
        self.tools = {}
        self.instructions = ""
        self._changed()

    # ---- calls that outlived their process

    def absent(self, name: str) -> OfferedTool:
        """A tool of this server that is not offered now; a call of it waits for the server, if it may run again."""
        is_replay_safe = self.options.replay == "safe"
        tool = Tool(name=name, replay_class=mcp_replay_class(is_replay_safe))
        return OfferedTool(tool, _AbsentTool(self))

    async def come_up(self) -> None:
        """Wait until the connection stands."""
        await self._came_up.wait()


class _Connection:
    """One connection and what is known of it."""

    def __init__(self, options: McpOptions, complaints: Complaints) -> None:
        self.client = Client(
            transport(options, complaints, lambda: self.end("its stream has ended")),
            message_handler=self._take,
            cache=None,
            client_info=mcp_types.Implementation(name="turnkeeper", version="1"),
        )
        self.tools: list[mcp_types.Tool] = []
        self.why = ""
        self.is_over = asyncio.Event()
        self._wake = asyncio.Event()
        self._is_stale = False
        self._is_ended = False
        self._is_current = asyncio.Event()
        self._is_current.set()

    def end(self, why: str) -> None:
        """The connection cannot be used any longer."""
        self._is_ended = True
        self.why = self.why or why
        self._is_current.set()
        self._wake.set()

    # ---- the list of tools

    async def begin(self) -> None:
        """List the tools for the first time."""
        await self.list()

    async def list(self) -> None:
        """Ask for all tools."""
        self._is_stale = False
        tools: list[mcp_types.Tool] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await self.client.list_tools(cursor=cursor)
            tools += page.tools
            cursor = page.next_cursor
            if cursor is None:
                break
        self.tools = tools

    async def changed(self) -> bool:
        """Wait until the tools have changed: true; or until the connection has ended: false."""
        while not self._is_stale and not self._is_ended:
            self._wake.clear()
            await self._wake.wait()
        return not self._is_ended

    def listed(self) -> None:
        """What is shown is what there is, unless it has changed meanwhile."""
        if not self._is_stale:
            self._is_current.set()

    async def current(self) -> None:
        """Wait until what is shown is what there is, as far as is known now."""
        await self._is_current.wait()

    def _outdated(self) -> None:
        self._is_stale = True
        self._is_current.clear()
        self._wake.set()

    async def _take(self, message: IncomingMessage) -> None:
        if isinstance(message, mcp_types.ToolListChangedNotification) and not self._is_ended:
            self._outdated()

"""One tool server that speaks MCP: connected by one task, which connects again, with back-off, when it is lost.

What the server offers is there while the connection stands and gone when it is lost. A call that is in flight then ends
as an error: whether it took effect is unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import anyio
import structlog
from mcp import MCPError
from pydantic import ValidationError

from turnkeeper.v1 import tool_service_pb2
from turnkeeper_service.process.clock import Clock
from turnkeeper_service.tools.arguments import loaded
from turnkeeper_service.tools.base import (
    Invocation,
    OfferedTool,
    Tool,
    ToolAnswer,
    synthetic_result,
    text_of,
    text_result,
)

from .connection import Connection, ServerLostError
from .content import left_out, offers, replay_class, result_of
from .options import McpOptions

log = structlog.get_logger(__name__)

FIRST_BACKOFF = 0.8
MAX_BACKOFF = 30.0
MAX_INSTRUCTIONS = 32_000
"""Characters that go into system prompts; what a server says beyond them does not."""
CLOSE_SECONDS = 5.0
"""How long a goodbye may take."""


class McpServer:
    """A tool server. Only the event loop's thread touches it."""

    def __init__(self, options: McpOptions, clock: Clock, changed: Callable[[], None]) -> None:
        self.options = options
        self.tools: Mapping[str, OfferedTool] = {}
        """What it offers now, by the names that models see."""
        self.left_out: Mapping[str, str] = {}
        """What it has and does not offer, likewise, each with why."""
        self.instructions = ""
        self.settled = asyncio.Event()
        """Set once it has connected for the first time, or has had its time to."""
        self._clock = clock
        self._changed = changed
        self._connection: Connection | None = None
        self._came_up = asyncio.Event()
        self._scope = anyio.CancelScope()
        self._is_closing = False
        self._is_old = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect."""
        timer = self._clock.call_later(self.options.connect_timeout, self.settled.set)
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"tool server {self.options.name}")
        self._task.add_done_callback(self._ended)
        self._task.add_done_callback(lambda _: timer.cancel())

    async def close(self) -> None:
        """End the connection, and the child process if it is one. Idempotent."""
        self._is_closing = True
        if self._task is None:
            return
        if self._connection is not None:
            self._connection.end("closed")
            timer = self._clock.call_later(CLOSE_SECONDS, self._scope.cancel)
        else:
            self._scope.cancel()
            timer = None
        try:
            await asyncio.wait({self._task})
        finally:
            if timer is not None:
                timer.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a tool server is given up by a fault", server=self.options.name, exc_info=error)

    # ---- connecting

    async def _run(self) -> None:
        backoff = FIRST_BACKOFF
        # Ended by its scope and never by a cancel of the task: the SDK ends child processes only so.
        with self._scope:
            while not self._is_closing:
                if await self._connect() >= MAX_BACKOFF:
                    backoff = FIRST_BACKOFF
                if not self._is_closing:
                    await self._clock.sleep(backoff)
                    backoff = min(2 * backoff, MAX_BACKOFF)

    async def _connect(self) -> float:
        """One connection, from its first byte to its end; how many seconds it stood."""
        connection = Connection(self.options, self._clock, self._down, is_old=self._is_old)
        since: float | None = None
        with anyio.CancelScope() as scope:
            timer = self._clock.call_later(self.options.connect_timeout, scope.cancel)
            try:
                async with connection.opened():
                    timer.cancel()
                    since = self._clock.monotonic()
                    await self._stay(connection)
            except Exception as error:
                connection.end(_told(error))
            finally:
                timer.cancel()
                connection.end()
        name, why = self.options.name, connection.why
        if self._is_closing:
            return 0.0
        if since is None:
            if self.options.command and connection.has_left:
                # Some programs end when they are asked what only newer ones know.
                self._is_old = not self._is_old
            said = list(connection.complaints.last)
            log.warning("a tool server does not come up", server=name, error=why or "no answer in time", stderr=said)
            return 0.0
        log.warning("a tool server is lost", server=name, error=why)
        return self._clock.monotonic() - since

    async def _stay(self, connection: Connection) -> None:
        """Offer what the server has, until the connection ends."""
        self._connection = connection
        self._show(connection)
        self._came_up.set()
        self.settled.set()
        log.info("a tool server is connected", server=self.options.name, num_tools=len(self.tools))
        while await connection.changed():
            await connection.unchanged()
            with anyio.CancelScope() as scope:
                timer = self._clock.call_later(self.options.connect_timeout, scope.cancel)
                try:
                    await connection.list()
                finally:
                    timer.cancel()
            if scope.cancelled_caught:
                connection.end("it does not list its tools")
            else:
                self._show(connection)

    def _show(self, connection: Connection) -> None:
        self.instructions = text_of(connection.instructions)[:MAX_INSTRUCTIONS]
        self.tools = {
            name: OfferedTool(tool, _McpTool(self.options.name, connection, own_name))
            for name, (tool, own_name) in offers(self.options, connection.tools).items()
        }
        self.left_out = left_out(self.options, connection.tools, connection.left_out)
        connection.shown()
        self._changed()

    def _down(self) -> None:
        self._connection = None
        self._came_up.clear()
        self.tools = {}
        self.left_out = {}
        self.instructions = ""
        self._changed()

    # ---- calls that outlived their process

    def absent(self, name: str) -> OfferedTool:
        """A tool of this server that is not offered now. A call of it waits for the server, if it may run again."""
        tool = Tool(name=name, replay_class=replay_class(self.options.replay != "never"))
        return OfferedTool(tool, _AbsentTool(self))

    async def again(self, invocation: Invocation) -> ToolAnswer:
        """Run a call that was in flight when its process was lost, once the server is there."""
        await self._came_up.wait()
        call = invocation.call
        offered = self.tools.get(call.name)
        if offered is None:
            return ToolAnswer(text_result(call, f"there is no tool {call.name!r} any more", is_error=True))
        if offered.tool.replay_class != tool_service_pb2.REPLAY_CLASS_SAFE:
            text = "the process was lost while this tool ran; whether it took effect is unknown"
            return ToolAnswer(synthetic_result(call, text))
        return await offered.executor.call(invocation)


class _AbsentTool:
    def __init__(self, server: McpServer) -> None:
        self._server = server

    async def call(self, invocation: Invocation) -> ToolAnswer:
        return await self._server.again(invocation)


class _McpTool:
    """Runs calls of one tool over one connection."""

    def __init__(self, server: str, connection: Connection, name: str) -> None:
        self._server = server
        self._connection = connection
        self._name = name

    async def call(self, invocation: Invocation) -> ToolAnswer:
        call = invocation.call
        try:
            given = await self._connection.call(self._name, loaded(call), invocation.idempotency_key)
            return ToolAnswer(result_of(call, given))
        except ServerLostError:
            text = f"the tool server {self._server!r} was lost during this call; whether it took effect is unknown"
            return ToolAnswer(synthetic_result(call, text))
        except MCPError as error:
            text = text_of(error.message) or "the tool server refused the call and did not say why"
            return ToolAnswer(text_result(call, text, is_error=True))
        except (ValidationError, RuntimeError, ValueError) as error:
            log.warning("a tool server gave a bad answer", server=self._server, error=type(error).__name__)
            text = f"the tool server {self._server!r} gave an answer that cannot be used"
            return ToolAnswer(text_result(call, text, is_error=True))


def _told(error: Exception) -> str:
    """What went wrong, out of the groups that the SDK wraps it in."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"

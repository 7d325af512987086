"""One connection to a tool server: its tools, kept current, and calls of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import mcp_types
import structlog
from anyio.abc import TaskStatus
from mcp import MCPError
from mcp.client import Client, IncomingMessage
from mcp.client.subscriptions import SubscriptionLost
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from turnkeeper_service.process.clock import Clock
from turnkeeper_service.tools.json_schema import BadSchemaError, validator

from .answers import LEFT_OUT
from .child import over_stdio
from .http import over_http
from .lines import Complaints
from .messages import Exchange
from .options import McpOptions
from .schema_mending import mended

log = structlog.get_logger(__name__)

MAX_PAGES = 100
MAX_TOOLS = 1000
"""Of one server; what it lists beyond them is left out."""
IDEMPOTENCY_KEY = "turnkeeper.dev/idempotency-key"
"""The key in `_meta` under which a call has what is the same however often it is run."""
MAX_SHOWN = 128
"""Characters of a tool's name in the log."""
MAX_UNCHANGED = 20
"""Lists in a row that brought nothing new, after which the next one waits."""
UNCHANGED_PAUSE = 1.1
LISTEN_AGAIN = 1.2
STEADY = 30.0
"""Seconds after which a stream of changes that is lost is opened again at once."""


class ServerLostError(Exception):
    """The connection went while a call was in flight; whether the call took effect is unknown."""


class Connection:
    """A connection, to be opened once. Only the event loop's thread touches it.

    ``is_old`` begins with the handshake of older versions of the protocol, without asking for a newer one first.
    """

    def __init__(self, options: McpOptions, clock: Clock, on_over: Callable[[], None], *, is_old: bool = False) -> None:
        self.complaints = Complaints(options.name)
        self.tools: Sequence[mcp_types.Tool] = ()
        """The tools as they were listed last."""
        self.left_out: Mapping[str, str] = {}
        """Those that cannot be offered, by the server's own names, each with why."""
        self.over = asyncio.Event()
        self.why = ""
        """Why it has ended; "" as long as it has not, or where nothing is known."""
        self.has_left = False
        """Whether the server has ended it."""
        self._name = options.name
        self._num_unchanged = 0
        self._checked: dict[str, dict[str, Any]] = {}
        """Schemas of tools that are such."""
        self._clock = clock
        self._on_over = on_over
        exchange = Exchange(options.name)

        def is_over() -> None:
            self.has_left = True
            self.end("its stream has ended")

        transport = (
            over_stdio(options, exchange, self.complaints, is_over)
            if options.command
            else over_http(options, exchange, is_over)
        )
        self._client = Client(
            transport,
            mode="legacy" if is_old else "auto",
            message_handler=self._take,
            cache=None,
            client_info=mcp_types.Implementation(name="turnkeeper", version="1"),
        )
        self._num_changes = 0
        self._num_listed = 0
        """The changes that were known when the last list was asked for."""
        self._wake = asyncio.Event()
        self._rested = asyncio.Event()
        self._was_shown = asyncio.Event()

    @property
    def _is_restless(self) -> bool:
        """Whether it has said too often that its tools have changed, while they have not."""
        return self._num_unchanged > MAX_UNCHANGED

    @property
    def instructions(self) -> str:
        """What the server wants the system prompt to say."""
        return self._client.instructions or ""

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Stand, with the tools listed, while the context is open. Raises whatever goes wrong with it."""
        async with self._client, anyio.create_task_group() as group:
            tools = self._client.server_capabilities.tools
            # Older servers send their changes unasked; newer ones over a stream that the client opens.
            if tools and tools.list_changed and self._client.protocol_version in MODERN_PROTOCOL_VERSIONS:
                await group.start(self._listen)
            await self.list()
            yield
            group.cancel_scope.cancel()

    def end(self, why: str = "") -> None:
        """It cannot be used any longer."""
        if not self.over.is_set():
            self.over.set()
            self.why = why
            self._on_over()
            self._wake.set()
            self._rested.set()
            self.shown()

    # ---- the list of tools

    async def list(self) -> None:
        """Ask for all tools. Raises MCPError."""
        num_changes = self._num_changes
        tools: list[mcp_types.Tool] = []
        left_out: dict[str, str] = {}
        cursor: str | None = None
        cursors: set[str] = set()
        while len(tools) <= MAX_TOOLS:
            page = await self._page(cursor)
            tools += page.tools
            left_out |= cast("dict[str, str]", (page.meta or {}).get(LEFT_OUT, {}))
            cursor = page.next_cursor
            if cursor is None:
                break
            if cursor in cursors or len(cursors) + 1 == MAX_PAGES:
                log.warning("a tool server does not end its list of tools", server=self._name, num_tools=len(tools))
                break
            cursors.add(cursor)
        if len(tools) > MAX_TOOLS:
            log.warning("a tool server has too many tools; some are left out", server=self._name, limit=MAX_TOOLS)
        usable: list[mcp_types.Tool] = []
        for tool in tools[:MAX_TOOLS]:
            try:
                usable.append(await self._usable(tool))
            except BadSchemaError as error:
                left_out[tool.name] = f"its schema {error}"
        for name, why in left_out.items() - self.left_out.items():
            log.warning("a tool of a tool server is left out", server=self._name, tool=name[:MAX_SHOWN], why=why)
        self.left_out = left_out
        self._num_unchanged = self._num_unchanged + 1 if usable == self.tools else 0
        self.tools, self._num_listed = usable, num_changes

    async def _page(self, cursor: str | None) -> mcp_types.ListToolsResult:
        try:
            return await self._client.list_tools(cursor=cursor)
        except MCPError as error:
            if error.code != mcp_types.METHOD_NOT_FOUND:
                raise
            # It has prompts and resources only.
            return mcp_types.ListToolsResult(tools=[])

    async def _usable(self, tool: mcp_types.Tool) -> mcp_types.Tool:
        """The tool with a schema that is one. Vendors refuse a whole request for one that is not.

        Raises BadSchemaError where it cannot be made one.
        """
        schema_json = json.dumps(tool.input_schema)
        schema = self._checked.get(schema_json)
        if schema is None:
            # To check a schema takes milliseconds, and a server may have hundreds.
            await asyncio.sleep(0)
            schema = await self._checked_schema(tool.name, schema_json)
            self._checked[schema_json] = schema
        return tool if schema == tool.input_schema else tool.model_copy(update={"input_schema": schema})

    async def _checked_schema(self, name: str, schema_json: str) -> dict[str, Any]:
        schema: dict[str, Any] = json.loads(schema_json)
        try:
            validator(schema_json)
        except BadSchemaError:
            schema, left_out = await asyncio.to_thread(mended, schema)
            validator(json.dumps(schema))
            log.warning(
                "parts of a tool's schema cannot be used",
                server=self._name,
                tool=name[:MAX_SHOWN],
                parts=[one[:MAX_SHOWN] for one in left_out[:MAX_UNCHANGED]],
            )
        return schema

    async def unchanged(self) -> None:
        """Wait where the server says again and again that its tools have changed, and they have not."""
        if not self._is_restless or self.over.is_set():
            return
        self._rested.clear()
        timer = self._clock.call_later(UNCHANGED_PAUSE, self._rested.set)
        try:
            await self._rested.wait()
        finally:
            timer.cancel()

    async def changed(self) -> bool:
        """Wait until the tools have changed: true; or until the connection has ended: false."""
        while self._num_listed == self._num_changes and not self.over.is_set():
            self._wake.clear()
            await self._wake.wait()
        return not self.over.is_set()

    def shown(self) -> None:
        """What was listed is offered now."""
        shown, self._was_shown = self._was_shown, asyncio.Event()
        shown.set()

    def _outdated(self) -> None:
        self._num_changes += 1
        self._wake.set()

    async def _take(self, message: IncomingMessage) -> None:
        if isinstance(message, mcp_types.ToolListChangedNotification):
            self._outdated()

    async def _listen(self, *, task_status: TaskStatus[None]) -> None:
        """Have a stream of changes open; what was missed between two of them is found by listing again."""
        is_first = True
        while not self.over.is_set():
            began = self._clock.monotonic()
            try:
                async with self._client.listen(tools_list_changed=True) as changes:
                    if is_first:
                        is_first = False
                        task_status.started()
                    else:
                        self._outdated()
                    async for _ in changes:
                        self._outdated()
            except (SubscriptionLost, MCPError):
                if is_first:
                    # It does not serve the stream after all.
                    task_status.started()
                    return
            if self._clock.monotonic() - began < STEADY:
                await self._clock.sleep(LISTEN_AGAIN)

    # ---- calls

    async def call(self, name: str, arguments: dict[str, Any], key: str) -> mcp_types.CallToolResult:
        """Run a call. Raises ServerLostError, MCPError, and ValueError or RuntimeError for an answer that is none.

        A call that changes the server's tools returns when the change is shown, so that the next step has it.
        """
        if self.over.is_set():
            raise MCPError(mcp_types.CONNECTION_CLOSED, "the tool server is not connected")
        meta = cast("mcp_types.RequestParamsMeta", {IDEMPOTENCY_KEY: key})
        try:
            result = await self._client.call_tool(name, arguments, meta=meta)
        except MCPError as error:
            if self.over.is_set() or _is_lost(error):
                raise ServerLostError from None
            # Perhaps it does not have the tool any more. Or it was started again and does not know this session: then
            # it fails to list its tools too, and the connection ends.
            self._outdated()
            raise
        num_changes = self._num_changes
        while self._num_listed < num_changes and not self.over.is_set() and not self._is_restless:
            await self._was_shown.wait()
        return result


def _is_lost(error: MCPError) -> bool:
    # Servers use the code for errors of their own too.
    is_ours = error.message == "Connection closed" or error.message.startswith("SSE stream")
    return error.code == mcp_types.CONNECTION_CLOSED and is_ours

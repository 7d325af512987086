"""A worker: tools of this process for all sessions of its tenant, over as many connections as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol, Self

import grpc
import grpc.aio

from turnkeeper._connection import Connection, Retry
from turnkeeper._errors import TurnkeeperError
from turnkeeper._leases import LeasedCalls
from turnkeeper._tools import FunctionTool
from turnkeeper.v1.tool_service_pb2 import OpenWorker, ServeToolsRequest, ServeToolsResponse


class Closable(Protocol):
    """What a client closes before itself."""

    async def close(self) -> None:
        """End it. Again does nothing."""


class Worker:
    """Serves tools. Use it as `async with client.serve_tools(...) as worker: await worker.wait()`."""

    def __init__(
        self, connection: Connection, opening: OpenWorker, tools: dict[str, FunctionTool], live: set[Closable]
    ) -> None:
        """Connect nothing yet; `async with` does, and adds itself to what its client closes."""
        self._connection = connection
        self._opening = opening
        self._live = live
        self._to_write = asyncio.Event()
        self._calls = LeasedCalls(self._to_write.set)
        self._calls.tools = tools
        self._opened = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._error: TurnkeeperError | None = None

    @property
    def worker_id(self) -> str:
        """The worker's name."""
        return self._opening.worker_id

    @property
    def tool_names(self) -> Sequence[str]:
        """The tools."""
        return list(self._calls.tools)

    async def __aenter__(self) -> Self:
        """Return once the tools are offered."""
        if self._task is not None:
            raise RuntimeError("a worker is opened once")
        self._live.add(self)
        self._task = asyncio.create_task(self._drive(), name=f"worker {self.worker_id}")
        try:
            await self._opened.wait()
            if self._error is not None:
                raise self._error
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def wait(self) -> None:
        """Serve until closed.

        Raises:
            TurnkeeperError: The server refuses the worker, or could not be reached for too long.
        """
        if self._task is None:
            raise RuntimeError("the worker is not open: use `async with`")
        await asyncio.wait([self._task])
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """Stop serving at once, and the calls that run. Again does nothing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._live.discard(self)

    async def _drive(self) -> None:
        """Keep the worker connected. The one task; `close` awaits it."""
        retry = Retry(self._connection)
        try:
            while True:
                try:
                    await self._connected(retry)
                except TurnkeeperError as error:
                    await retry.wait(error)
        except TurnkeeperError as error:
            self._error = error
        except Exception as fault:
            self._error = TurnkeeperError(grpc.StatusCode.UNKNOWN, f"a fault of this client: {fault!r}")
            self._error.__cause__ = fault
        finally:
            self._opened.set()
            await self._calls.close()

    async def _connected(self, retry: Retry) -> None:
        """Live through one connection."""
        self._calls.results.clear()
        call = self._connection.tools.ServeTools(metadata=self._connection.metadata)
        writer = asyncio.create_task(self._write(call), name=f"writer of worker {self.worker_id}")
        try:
            while (response := await self._connection.read(call, ServeToolsResponse)) is not None:
                retry.connected()
                self._take(response)
        finally:
            call.cancel()
            writer.cancel()
            await asyncio.wait([writer])
        raise TurnkeeperError(grpc.StatusCode.UNAVAILABLE, "the server ended the worker's stream")

    async def _write(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        """Write the frames of one connection. What breaks here is seen, with its status, by the reader."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            await call.write(ServeToolsRequest(open=self._opening))
            while True:
                self._to_write.clear()
                while self._calls.results:
                    await call.write(ServeToolsRequest(result=self._calls.results.popleft()))
                await self._to_write.wait()

    def _take(self, response: ServeToolsResponse) -> None:
        match response.WhichOneof("item"):
            case "tools":
                self._opened.set()
            case "invocation":
                self._calls.invoke(response.invocation)
            case "cancelled":
                self._calls.take_back(response.cancelled)

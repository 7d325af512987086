"""Those who serve tools from outside: a client over its Converse stream, a worker over ServeTools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio
from google.protobuf import duration_pb2

from tests.service.harness import LIMIT, Harness
from tests.service.wire.talk import Talk
from turnkeeper.v1 import admin_service_pb2, run_service_pb2, tool_service_pb2, tool_service_pb2_grpc

SAFE = tool_service_pb2.REPLAY_CLASS_SAFE
Invocation = tool_service_pb2.ToolInvocation
Item = tool_service_pb2.ServeToolsResponse


def tool(name: str, **fields: Any) -> tool_service_pb2.Tool:
    """A tool that somebody offers."""
    return tool_service_pb2.Tool(name=name, **fields)


def offer(*tools: tool_service_pb2.Tool | str, grace: float | None = None) -> tool_service_pb2.OfferTools:
    """An offer; a name stands for a plain tool."""
    offered = tool_service_pb2.OfferTools(tools=[tool(one) if isinstance(one, str) else one for one in tools])
    if grace is not None:
        offered.reconnect_grace.CopyFrom(duration_pb2.Duration(nanos=int(grace * 1e9) % 10**9, seconds=int(grace)))
    return offered


def result(invocation: Invocation, text: str, **fields: Any) -> tool_service_pb2.ToolInvocationResult:
    """The answer to a call."""
    given = tool_service_pb2.ToolInvocationResult(lease_id=invocation.lease_id, **fields)
    given.result.content.add().text.text = text
    return given


class Client:
    """A client that serves tools to the session ``s``."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self._frames = 0
        self._num_seen = 0

    @classmethod
    async def serve(
        cls,
        server: Harness,
        *tools: tool_service_pb2.Tool | str,
        name: str = "me",
        grace: float | None = None,
        metadata: Any = None,
        session_id: str = "s",
    ) -> Client:
        """Open a stream and offer tools."""
        client = cls(await Talk.open(server, session_id, metadata, client_name=name))
        await client.offer(*tools, grace=grace)
        return client

    async def offer(self, *tools: tool_service_pb2.Tool | str, grace: float | None = None) -> None:
        """Offer tools instead of those of before."""
        answer = await self._ask(offer_tools=offer(*tools, grace=grace))
        assert answer.HasField("receipt"), answer

    async def withdraw(self) -> None:
        """Offer nothing any more."""
        await self.offer()

    async def _ask(self, **frame: Any) -> Any:
        self._frames += 1
        return await self.talk.ask(f"frame-{self._frames}", **frame)

    async def _next(self, kind: str) -> run_service_pb2.StreamItem:
        """The next item of a kind, one that came before an answer to something else among them."""
        while True:
            for item in self.talk.items[self._num_seen :]:
                self._num_seen += 1
                if item.HasField(kind):  # type: ignore[arg-type]
                    return item
            assert await self.talk.next() is not None, "the stream ended first"

    async def invoked(self) -> Invocation:
        """The next call."""
        return (await self._next("tool_invocation")).tool_invocation

    async def taken_back(self) -> tool_service_pb2.ToolInvocationCancelled:
        """The next call that is taken back."""
        return (await self._next("tool_invocation_cancelled")).tool_invocation_cancelled

    async def answer(self, invocation: Invocation, text: str, **fields: Any) -> bool:
        """Answer a call; whether the answer came too late."""
        answer = await self._ask(tool_result=result(invocation, text, **fields))
        assert answer.HasField("receipt"), answer
        assert answer.receipt.tool_result.tool_call_id == invocation.tool_call.tool_call_id
        return bool(answer.receipt.tool_result.is_late)

    def lose(self) -> None:
        """Lose the stream."""
        self.talk.cancel()


class Worker:
    """A worker that serves tools to the sessions of its tenant."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.items: list[Item] = []

    @classmethod
    async def serve(
        cls,
        server: Harness,
        *tools: tool_service_pb2.Tool | str,
        name: str = "worker",
        grace: float | None = None,
        max_concurrent: int = 0,
        metadata: Any = None,
    ) -> Worker:
        """Open a stream and offer tools."""
        stub: Any = tool_service_pb2_grpc.ToolServiceStub(server.channel)
        worker = cls(stub.ServeTools(metadata=metadata))
        opening = tool_service_pb2.OpenWorker(
            worker_id=name, offer=offer(*tools, grace=grace), max_concurrent=max_concurrent
        )
        await worker.send(open=opening)
        await worker.until(lambda item: item.HasField("tools"))
        return worker

    async def send(self, frame_id: str = "", **frame: Any) -> None:
        """Write one frame."""
        await self.call.write(tool_service_pb2.ServeToolsRequest(frame_id=frame_id, **frame))

    async def next(self) -> Item | None:
        """The next item; None where the stream has ended OK."""
        async with asyncio.timeout(LIMIT):
            item = await self.call.read()
        if item is grpc.aio.EOF:
            return None
        assert isinstance(item, Item)
        self.items.append(item)
        return item

    async def until(self, wanted: Callable[[Item], bool]) -> Item:
        """Read up to the first item that is wanted."""
        while (item := await self.next()) is not None:
            if wanted(item):
                return item
        raise AssertionError("the stream ended first")

    async def invoked(self) -> Invocation:
        """The next call."""
        return (await self.until(lambda item: item.HasField("invocation"))).invocation

    async def answer(self, invocation: Invocation, text: str, **fields: Any) -> bool:
        """Answer a call; whether the answer came too late."""
        await self.send(result=result(invocation, text, **fields))
        item = await self.until(
            lambda item: item.HasField("acknowledged") and item.acknowledged.lease_id == invocation.lease_id
        )
        return item.acknowledged.is_late

    async def withdraw(self) -> None:
        """Offer nothing any more."""
        await self.send(offer_tools=offer())
        await self.until(lambda item: item.HasField("tools"))

    def kill(self) -> None:
        """Lose the stream."""
        self.call.cancel()


async def unheld(server: Harness, name: str) -> None:
    """Wait until the server knows that a holder's stream is lost. Each look is a whole call."""
    async with asyncio.timeout(LIMIT):
        while any(one.name == name and one.link is not None for one in server.server.runs.remote.holders()):
            await server.admin.GetStats(admin_service_pb2.GetStatsRequest())

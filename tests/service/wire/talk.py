"""A Converse stream, frame by frame."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio

from tests.service.harness import LIMIT, Harness, OneItem
from turnkeeper.v1 import admin_service_pb2, event_pb2, run_service_pb2

StreamItem = run_service_pb2.StreamItem


class Talk:
    """Writes frames and reads items; keeps all items that it has read."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.items: list[StreamItem] = []

    @classmethod
    async def open(cls, server: Harness, session_id: str, metadata: Any = None, **fields: Any) -> Talk:
        """Open a stream and wait for its receipt."""
        talk = cls(server.runs.Converse(metadata=metadata))
        frame = run_service_pb2.OpenFrame(session_id=session_id, **fields)
        await talk.send("open", open=frame)
        answer = await talk.answer("open")
        assert answer.HasField("receipt"), answer
        return talk

    async def send(self, frame_id: str = "", **frame: Any) -> None:
        """Write one frame."""
        await self.call.write(run_service_pb2.ConverseRequest(frame_id=frame_id, **frame))

    async def next(self) -> StreamItem | None:
        """The next item; None where the stream has ended OK."""
        async with asyncio.timeout(LIMIT):
            response = await self.call.read()
        if response is grpc.aio.EOF:
            return None
        assert isinstance(response, OneItem)
        self.items.append(response.item)
        return response.item

    async def until(self, wanted: Callable[[StreamItem], bool]) -> StreamItem:
        """Read up to the first item that is wanted."""
        while (item := await self.next()) is not None:
            if wanted(item):
                return item
        raise AssertionError("the stream ended first")

    async def answer(self, frame_id: str) -> StreamItem:
        """Read up to the receipt or the error of a frame."""

        def is_answer(item: StreamItem) -> bool:
            return frame_id == {"receipt": item.receipt.frame_id, "error": item.error.frame_id}.get(
                item.WhichOneof("item") or ""
            )

        return await self.until(is_answer)

    async def ask(self, frame_id: str, **frame: Any) -> StreamItem:
        """Write a frame and read up to its answer."""
        await self.send(frame_id, **frame)
        return await self.answer(frame_id)

    async def terminal(self, run_id: str) -> event_pb2.Outcome:
        """Read up to the terminal of a run."""
        item = await self.until(lambda item: item.event.HasField("run_finished") and item.event.run_id == run_id)
        return item.event.run_finished.outcome

    async def rest(self) -> list[StreamItem]:
        """Read to the end."""
        begin = len(self.items)
        while await self.next() is not None:
            pass
        return self.items[begin:]

    def cancel(self) -> None:
        """Lose the stream."""
        self.call.cancel()


async def streams_left(server: Harness, number: int) -> None:
    """Wait until the server has noticed that only so many streams are open. Each look is a whole call."""
    async with asyncio.timeout(LIMIT):
        while (await server.admin.GetStats(admin_service_pb2.GetStatsRequest())).num_streams > number:
            pass

"""A bare relay: a prompt in, an upstream's tokens out, and nothing else.

The same loop, gRPC, HTTP transport, JSON decoder, merging of deltas and messages as the service; no store, no sessions,
no history, no cancel, no validation, no retry, no events but the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import httpx
import msgspec
import uvloop
from httpx_aiohttp import AiohttpTransport

from bench.baselines.serve import Handlers, serve
from turnkeeper.v1 import event_pb2, run_service_pb2


class Delta(msgspec.Struct):
    """What a chunk adds."""

    content: str | None = None


class Choice(msgspec.Struct):
    """An answer of several."""

    delta: Delta


class Chunk(msgspec.Struct):
    """One event of the stream."""

    choices: list[Choice]


decode = msgspec.json.Decoder(Chunk).decode


class Relay:
    """The one method."""

    def __init__(self, upstream: str) -> None:
        self._url = httpx.URL(upstream + "/v1/chat/completions")
        self._transport: AiohttpTransport | None = None

    def _open(self) -> AiohttpTransport:
        if self._transport is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=15.0)
            session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
            self._transport = AiohttpTransport(client=session)
        return self._transport

    async def run(self, request: run_service_pb2.RunRequest, context: Any) -> None:
        """Relay one answer."""
        text = await self.deltas(request.submission, context)
        response = run_service_pb2.RunResponse()
        outcome = response.items.add().event.run_finished.outcome
        outcome.status, outcome.text = event_pb2.OUTCOME_STATUS_COMPLETED, text
        await context.write(response)

    async def deltas(self, submission: run_service_pb2.Submission, context: Any) -> str:
        """Read on one side, write on the other; what comes while a write is under way leaves as one delta."""
        buffer: list[str] = []
        wake = asyncio.Event()
        reading = asyncio.get_running_loop().create_task(self._read(submission, buffer, wake))
        written = ""
        offset = 0
        while True:
            if not buffer:
                if reading.done():
                    break
                wake.clear()
                await wake.wait()
                continue
            text = "".join(buffer)
            buffer.clear()
            response = run_service_pb2.RunResponse()
            delta = response.items.add().delta
            delta.message_id = delta.turn_id = "msg-0123456789abcdef"
            delta.run_id, delta.attempt, delta.offset, delta.text = "run-0123456789abcdef", 1, offset, text
            offset += len(text.encode())
            written += text
            await context.write(response)
        await reading
        return written

    async def _read(self, submission: run_service_pb2.Submission, buffer: list[str], wake: asyncio.Event) -> None:
        prompt = submission.prompt[0].text.text
        model = submission.model.partition("/")[2]
        body = msgspec.json.encode({"model": model, "stream": True, "messages": [{"role": "user", "content": prompt}]})
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        rest = b""
        try:
            request = httpx.Request("POST", self._url, headers=headers, content=body)
            response = await self._open().handle_async_request(request)
            stream: Any = response.stream
            async for piece in _closing(stream):
                *events, rest = (rest + piece).split(b"\n\n")
                for event in events:
                    if event == b"data: [DONE]":
                        continue
                    for choice in decode(event[6:]).choices:
                        if choice.delta.content:
                            buffer.append(choice.delta.content)
                if buffer:
                    wake.set()
        finally:
            wake.set()


async def _closing(stream: Any) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(aiter(stream)) as pieces:
        async for piece in pieces:
            yield piece
    await stream.aclose()


def handlers(relay: Relay) -> Handlers:
    """What a relay serves."""
    method = grpc.unary_stream_rpc_method_handler(
        relay.run,
        request_deserializer=run_service_pb2.RunRequest.FromString,
        response_serializer=run_service_pb2.RunResponse.SerializeToString,
    )
    return {"Run": method}


if __name__ == "__main__":
    uvloop.run(serve(handlers(Relay(sys.argv[1]))))

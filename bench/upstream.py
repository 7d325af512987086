"""A model on the loopback that costs little: prebuilt SSE, HTTP/1.1 spoken by a bare protocol on uvloop.

``examples/upstream`` can misbehave and counts what it does; this one only answers, so that it is not the limit. The
name of the model says what: ``tokens-N`` sends N tokens, one write for each, in as many turns of the loop (a fast
model); ``paced-N-MS`` sends them MS milliseconds apart, the first at once.
"""

from __future__ import annotations

import asyncio
import json
from functools import lru_cache
from typing import cast

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@lru_cache(maxsize=16)
def chunks_of(num_tokens: int) -> tuple[bytes, ...]:
    """The answer, a chunk per token, and one with what ends it."""

    def event(choices: list[object], **more: object) -> bytes:
        chunk = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "bench"}
        text = json.dumps({**chunk, "choices": choices, **more}, separators=(",", ":"))
        return f"data: {text}\n\n".encode()

    def framed(data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data)

    tokens = [
        framed(event([{"index": 0, "delta": {"content": f"t{n} "}, "logprobs": None, "finish_reason": None}]))
        for n in range(num_tokens)
    ]
    usage = {"prompt_tokens": 7, "completion_tokens": num_tokens, "total_tokens": 7 + num_tokens}
    end = event([{"index": 0, "delta": {}, "finish_reason": "stop"}]) + event([], usage=usage) + b"data: [DONE]\n\n"
    return (*tokens, framed(end) + b"0\r\n\r\n")


class Connection(asyncio.Protocol):
    """One connection; requests on it come one after another."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # By its use: uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Stop writing."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Take a request, and answer it once it is whole."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        if len(body) < length:
            return
        self._buffer = b""
        name, *numbers = json.loads(body)["model"].split("-")
        chunks = chunks_of(int(numbers[0]))
        pace = int(numbers[1]) / 1000 if name == "paced" else 0.0
        assert self._transport is not None
        self._transport.write(HEAD)
        self._send(chunks, 0, pace, self._loop.time())

    def _send(self, chunks: tuple[bytes, ...], index: int, pace: float, due: float) -> None:
        if self._transport is None:
            return
        self._transport.write(chunks[index])
        index += 1
        if index == len(chunks):
            return
        due += pace
        if pace:
            self._loop.call_later(max(0.0, due - self._loop.time()), self._send, chunks, index, pace, due)
        else:
            self._loop.call_soon(self._send, chunks, index, pace, due)


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=4096)
    host, port = server.sockets[0].getsockname()[:2]
    print(f"listening http://{host}:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())

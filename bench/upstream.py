"""A model on the loopback that costs little: prebuilt SSE, HTTP/1.1 spoken by a bare protocol on uvloop.

``examples/upstream`` can misbehave and counts what it does; this one only answers, so that it is not the limit. The
path says the wire format, the name of the model the rest: ``tokens-N`` sends N tokens, one write for each, in as many
turns of the loop (a fast model); ``paced-N-MS`` sends them MS milliseconds apart, the first at once; ``block-N`` sends
all in one write; ``hang-N`` sends nothing behind them.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import cast

import uvloop

from examples.upstream.answer import Request
from examples.upstream.dialects import DIALECTS
from examples.upstream.generator import token_stream

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@lru_cache(maxsize=64)
def chunks_of(num_tokens: int, wire_format: str) -> tuple[bytes, ...]:
    """The answer, a chunk per token, and one with what ends it."""
    events = token_stream(num_tokens, wire_format)
    begun = len(DIALECTS[wire_format].begin)
    # What comes before the first token leaves with it.
    first = b"".join(events[: begun + 1])
    return (framed(first), *map(framed, events[begun + 1 : begun + num_tokens]), end_of(events[begun + num_tokens :]))


def framed(data: bytes) -> bytes:
    """A chunk of HTTP."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def end_of(events: tuple[bytes, ...]) -> bytes:
    """The last chunk, and the end of the body."""
    return framed(b"".join(events)) + b"0\r\n\r\n"


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
        request = Request("POST", head.split(b" ", 2)[1].decode(), {}, body)
        name, *numbers = request.model.split("-")
        chunks = chunks_of(int(numbers[0]), request.wire_format)
        pace = int(numbers[1]) / 1000 if name == "paced" else 0.0
        if name == "block":
            chunks = (b"".join(chunks),)
        elif name == "hang":
            chunks = chunks[:-1]
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

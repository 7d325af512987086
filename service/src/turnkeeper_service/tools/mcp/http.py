"""A tool server behind a URL: what it sends is made readable before the SDK reads it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any

import httpx2
from mcp.client.streamable_http import streamable_http_client

from .messages import Exchange
from .options import McpOptions

JSON = "application/json"
EVENTS = "text/event-stream"
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")


class _Readable(httpx2.AsyncBaseTransport):
    """Sends requests, and gives their answers in the form in which the SDK takes them."""

    def __init__(self, exchange: Exchange, limit: int) -> None:
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False)
        self._exchange = exchange
        self._limit = limit

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        answers = self._asked(request)
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException:
            self._exchange.forget(answers)
            raise
        if not 200 <= response.status_code < 300 or response.status_code in (202, 204):
            # The SDK knows what these mean for a call.
            self._exchange.forget(answers)
            return response
        chunks: AsyncIterator[bytes] = response.aiter_bytes()
        first = b""
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (JSON, EVENTS):
            # Some name no type, or a plain one: its first bytes tell what it is.
            with suppress(httpx2.TransportError):
                first = await anext(chunks, b"")
            begins = first.lstrip(b"\xef\xbb\xbf \t\r\n")
            kind = JSON if begins[:1] in (b"{", b"[") else EVENTS if begins.startswith(_FIELDS) else kind
        headers = response.headers.copy()
        for name in ("content-encoding", "content-length", "transfer-encoding"):
            headers.pop(name, None)
        headers["content-type"] = kind
        chunks = _joined(first, chunks)
        if kind == JSON:
            chunks = self._body(chunks, answers)
        elif kind == EVENTS:
            chunks = self._events(chunks, answers)

        async def close() -> None:
            self._exchange.forget(answers)
            await response.aclose()

        stream = _Stream(chunks, close)
        return httpx2.Response(response.status_code, headers=headers, stream=stream, extensions=response.extensions)

    def _asked(self, request: httpx2.Request) -> int | str | None:
        """The id of the message in a request, if it is one that is answered."""
        message = json.loads(request.content) if request.method == "POST" else {}
        if "method" not in message or "id" not in message:
            return None
        self._exchange.asked(message["id"], message["method"])
        answers: int | str = message["id"]
        return answers

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _body(self, chunks: AsyncIterator[bytes], answers: int | str | None) -> AsyncIterator[bytes]:
        parts: list[bytes] = []
        length, why = 0, ""
        try:
            async for chunk in chunks:
                length += len(chunk)
                if length > self._limit:
                    why = f"is longer than {self._limit} bytes"
                    break
                parts.append(chunk)
        except httpx2.TransportError:
            why = "breaks off"
        messages = [] if why else self._exchange.read(b"".join(parts), answers)
        if answers is not None and not any("method" not in message for message in messages):
            messages = self._exchange.unusable("", why or "holds no answer", answers)
        # A body is one message: of several the one that answers.
        chosen = [message for message in messages if "method" not in message] or messages
        yield json.dumps(chosen[0]).encode() if chosen else b"{}"

    async def _events(self, chunks: AsyncIterator[bytes], answers: int | str | None) -> AsyncIterator[bytes]:
        """Events in which every message is one line of data."""
        data: list[bytes] = []
        length = 0
        async for line in _lines(chunks, self._limit):
            if line is None or length > self._limit:
                data, length = [], 0
                for message in self._exchange.unusable("", f"is longer than {self._limit} bytes", answers):
                    yield _event(message)
                continue
            name, _, value = line.partition(b":") if line[:1] != b"{" else (b"data", b"", line)
            if name in (b"id", b"retry"):
                yield line + b"\n"
            elif name == b"data":
                data.append(value)
                length += len(value)
                # Most are whole in one line, and some servers put no empty line behind it.
                if value.strip()[-1:] == b"}" and _is_whole(b"\n".join(data)):
                    line = b""
            if line == b"" and data:
                for message in self._exchange.read(b"\n".join(data), answers):
                    yield _event(message)
                if not any(one.strip() for one in data):
                    yield b"data:\n\n"
                data, length = [], 0
        if data:
            for message in self._exchange.read(b"\n".join(data), answers):
                yield _event(message)


class _Watched:
    """A stream of messages that says when it has ended."""

    def __init__(self, stream: Any, on_end: Callable[[], None]) -> None:
        self._stream = stream
        self._on_end = on_end

    @property
    def last_context(self) -> Any:
        """The context in which the last message was sent, where the stream knows it."""
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        try:
            return await self._stream.receive()
        except BaseException:
            self._on_end()
            raise

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except BaseException:
            self._on_end()
            raise

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        ended: bool | None = await self._stream.__aexit__(kind, error, trace)
        return ended


class _Stream(httpx2.AsyncByteStream):
    def __init__(self, chunks: AsyncIterator[bytes], close: Callable[[], Any]) -> None:
        self._chunks = chunks
        self._close = close

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            yield chunk

    async def aclose(self) -> None:
        await self._close()


def _is_whole(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _event(message: Any) -> bytes:
    return b"event: message\ndata: " + json.dumps(message).encode() + b"\n\n"


async def _joined(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for chunk in chunks:
        yield chunk


async def _lines(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes | None]:
    """The lines of a stream, however they end; None for one that is too long."""
    parts: list[bytes] = []
    length, is_long = 0, False
    async for chunk in chunks:
        *ends, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for end in ends:
            yield None if is_long else b"".join([*parts, end])
            parts, length, is_long = [], 0, False
        length += len(rest)
        if length > limit:
            parts, is_long = [], True
        elif rest:
            parts.append(rest)
    if parts or is_long:
        yield None if is_long else b"".join(parts)


@asynccontextmanager
async def over_http(
    options: McpOptions, exchange: Exchange, on_end: Callable[[], None]
) -> AsyncGenerator[tuple[Any, Any]]:
    """Stand in connection with the server while the context is open."""
    # How long an answer may take is the call's matter, and a stream of changes is quiet for as long as nothing changes.
    timeout = httpx2.Timeout(options.connect_timeout, read=None)
    limit = options.max_message_bytes
    async with (
        httpx2.AsyncClient(
            headers=dict(options.headers), timeout=timeout, trust_env=False, transport=_Readable(exchange, limit)
        ) as client,
        # An event is at most as long as what it was read from, with every character escaped.
        streamable_http_client(options.url, http_client=client, max_sse_event_size=8 * limit) as (read, write),
    ):
        yield _Watched(read, on_end), write

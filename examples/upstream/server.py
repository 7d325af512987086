"""The upstream's HTTP/1.1: small, exact about sockets, and free to break the rules."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable
from http.client import responses
from types import TracebackType

from examples.upstream.answer import EVENT_STREAM, Answer, Ending, Request
from examples.upstream.generator import answer_by_model

Handler = Callable[[Request], Answer]


class Upstream:
    """Listens on the loopback while its context is open.

    A request gets the next planned answer; with none left, the handler's (by default what the model's name asks for).
    """

    def __init__(self, handler: Handler = answer_by_model, *, port: int = 0) -> None:
        self.requests: list[Request] = []
        """Every request so far."""
        self.num_requests_open = 0
        """Requests that are being answered."""
        self.max_requests_open = 0
        self.num_connections = 0
        """Connections that are open now, whether in use or not."""
        self.total_connections = 0
        self._handler = handler
        self._port = port
        self._planned: deque[Answer] = deque()
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def base_url(self) -> str:
        """Where it listens, without a path."""
        return f"http://127.0.0.1:{self._port}"

    def plan(self, *answers: Answer) -> None:
        """Answer the next requests with these, in order."""
        self._planned.extend(answers)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something about requests or connections is so."""
        async with self._changed:
            await self._changed.wait_for(condition)

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, backlog=4096)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.num_connections += 1
        self.total_connections += 1
        try:
            await self._notify()
            while (request := await _read_request(reader)) is not None:
                if not await self._answer(request, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # The other side left, or the server is closing: either way this connection is over.
            pass
        finally:
            writer.close()
            self._tasks.discard(task)
            self.num_connections -= 1
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await self._notify()
                await writer.wait_closed()

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; True if the connection may be used again."""
        self.requests.append(request)
        self.num_requests_open += 1
        self.max_requests_open = max(self.max_requests_open, self.num_requests_open)
        await self._notify()
        try:
            answer = self._planned.popleft() if self._planned else self._handler(request)
            if not answer.is_mute:
                writer.write(_head(answer))
                await self._write_body(answer, reader, writer)
            if answer.before_end is not None:
                await writer.drain()
                await answer.before_end.wait()
            if answer.ending is Ending.END:
                writer.write(b"0\r\n\r\n")
                await writer.drain()
                return True
            if answer.ending is Ending.HANG:
                await writer.drain()
                # What a client sends while it waits is its leaving.
                await reader.read(1)
            elif answer.ending is Ending.RESET:
                await writer.drain()
                _reset(writer)
            return False
        finally:
            self.num_requests_open -= 1
            await self._notify()

    async def _write_body(self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for chunk in answer.chunks:
            if answer.pace:
                due += answer.pace
                await asyncio.sleep(due - loop.time())
            if reader.at_eof():
                raise ConnectionResetError
            writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await writer.drain()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _head(answer: Answer) -> bytes:
    phrase = responses.get(answer.status, "Unknown")
    lines = [f"HTTP/1.1 {answer.status} {phrase}", "transfer-encoding: chunked"]
    if answer.content_type:
        lines.append(f"content-type: {answer.content_type}")
    if answer.content_type == EVENT_STREAM:
        lines.append("cache-control: no-cache")
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None:
        # Linger of zero seconds: closing sends RST.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

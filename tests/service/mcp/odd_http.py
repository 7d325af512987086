"""The server that writes what it is told to, over HTTP: each answer is a body, labelled as the test chooses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import TracebackType

from tests.service.mcp.odd_server import answer_of


class OddHttp:
    """Serves while its context is open."""

    def __init__(self, folder: Path, wrap: str, content_type: str) -> None:
        self._folder = folder
        self._wrap = wrap.encode()
        self._type = content_type
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def __aenter__(self) -> OddHttp:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/mcp"
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
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = dict(
                    line.lower().split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:] if ": " in line
                )
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                await self._answer(writer, head.partition(b" ")[0], body)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, verb: bytes, body: bytes) -> None:
        message = json.loads(body) if verb == b"POST" else {}
        if "id" not in message:
            status = b"202 Accepted" if verb == b"POST" else b"405 Method Not Allowed"
            writer.write(b"HTTP/1.1 %s\r\ncontent-length: 0\r\n\r\n" % status)
            return
        if (said := answer_of(self._folder, message)).startswith(b"HTTP/"):
            # A whole response, head and all, and the end of its connection.
            writer.write(said)
            writer.close()
            return
        raw = self._wrap.replace(b"@BODY@", said.rstrip(b"\n"))
        kind = b"content-type: %s\r\n" % self._type.encode() if self._type else b""
        writer.write(b"HTTP/1.1 200 OK\r\n%scontent-length: %d\r\n\r\n" % (kind, len(raw)) + raw)
        await writer.drain()

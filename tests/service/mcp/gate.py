"""The gate at which the tests' own tool server asks before it goes on."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.service.harness import LIMIT


@dataclass(frozen=True)
class Asked:
    """Who asked: a process, and the idempotency key of the call that it runs."""

    process: int
    key: str


class Gate:
    """Listens on a socket while its context is open."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "gate")
        self._asked: dict[str, list[Asked]] = {}
        self._waiting: list[asyncio.StreamWriter] = []
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def reached(self, what: str, times: int = 1) -> Asked:
        """Wait until somebody has asked so often, or has left, which is "left"; who did it last."""
        async with asyncio.timeout(LIMIT), self._changed:
            await self._changed.wait_for(lambda: len(self._asked.get(what, ())) >= times)
        return self._asked[what][-1]

    def times(self, what: str) -> int:
        """How often somebody has asked so far."""
        return len(self._asked.get(what, ()))

    def open(self) -> None:
        """Let go all who wait now."""
        for writer in self._waiting:
            writer.write(b"go\n")
        self._waiting.clear()

    async def _note(self, what: str, asked: Asked) -> None:
        async with self._changed:
            self._asked.setdefault(what, []).append(asked)
            self._changed.notify_all()

    async def __aenter__(self) -> Gate:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
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
        last: Asked | None = None
        try:
            self._waiting.append(writer)
            while line := await reader.readline():
                asked = json.loads(line)
                last = Asked(asked["process"], asked["key"])
                await self._note(asked["what"], last)
            if last is not None:
                await self._note("left", last)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            if writer in self._waiting:
                self._waiting.remove(writer)
            writer.close()

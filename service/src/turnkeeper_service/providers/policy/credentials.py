"""Keys that change while the server runs: read again, once, when the vendor no longer takes the old one."""

from __future__ import annotations

import asyncio
import logging
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

from turnkeeper_service.header_text import clean_key
from turnkeeper_service.providers.base import Clock, ModelEvent, ModelRequest, Provider, ProviderError
from turnkeeper_service.providers.options import KeySource, Secret

UNAUTHENTICATED = 401
COMMAND_SECONDS = 30.0
MAX_KEY_BYTES = 64 * 1024

_log = logging.getLogger(__name__)


def key_file(path: Path) -> KeySource:
    """The key is what a file says; see `clean_key`."""

    async def read() -> str:
        # Off the loop: such files lie on network and memory volumes alike.
        return clean_key(await asyncio.to_thread(path.read_text, encoding="utf-8"))

    return read


def key_command(arguments: Sequence[str], clock: Clock, seconds: float = COMMAND_SECONDS) -> KeySource:
    """The key is what a command prints; it has so many seconds. No shell is between."""

    async def read() -> str:
        process = await asyncio.create_subprocess_exec(*arguments, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
        printed = asyncio.create_task(_printed(process), name="key-command")
        timer = asyncio.create_task(clock.sleep(seconds), name="key-command-timer")
        try:
            await asyncio.wait({printed, timer}, return_when=asyncio.FIRST_COMPLETED)
            if not printed.done():
                raise ValueError(f"{arguments[0]} did not end within {seconds:g} s")
            return printed.result()
        finally:
            for task in (printed, timer):
                task.cancel()
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
            await asyncio.wait({printed, timer})
            await process.wait()

    return read


async def _printed(process: Process) -> str:
    assert process.stdout is not None
    printed = b""
    while piece := await process.stdout.read(MAX_KEY_BYTES):
        printed += piece
        if len(printed) > MAX_KEY_BYTES:
            raise ValueError("the command printed more than a key")
    status = await process.wait()
    if status:
        raise ValueError(f"the command ended with status {status}")
    return clean_key(printed.decode())


class Credential:
    """A key and where it comes from; shared by all calls of a provider."""

    def __init__(self, source: KeySource, key: str = "") -> None:
        self._source = source
        self._secret = Secret(key)
        self._lock = asyncio.Lock()

    @property
    def secret(self) -> Secret:
        """The key as it was last read."""
        return self._secret

    async def renew(self, refused: Secret) -> bool:
        """Read the key again unless another call has done so; whether it is now another one than was refused.

        What goes wrong with that is logged and says no: the vendor's refusal is the better error.
        """
        async with self._lock:
            return self._secret != refused or (await self._read() and self._secret != refused)

    async def reload(self) -> bool:
        """Read the key now; whether that succeeded. The old one stays in force where it did not."""
        async with self._lock:
            return await self._read()

    async def _read(self) -> bool:
        try:
            key = await self._source()
        except (OSError, ValueError) as error:
            # The error's kind alone: its text may hold what the command printed.
            _log.warning("the key could not be read again", extra={"error": type(error).__name__})
            return False
        if key:
            self._secret = Secret(key)
        return bool(key)


class RenewingProvider:
    """Makes a call once more with a key read anew where the vendor refused the old one before it gave any event."""

    def __init__(self, inner: Provider, credential: Credential) -> None:
        self._inner = inner
        self._credential = credential

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Open the call; see `turnkeeper_service.providers.base.Provider`."""
        async with aclosing(self._events(request)) as events:
            yield events

    async def close(self) -> None:
        """Release connections. Idempotent."""
        await self._inner.close()

    async def _events(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        used = self._credential.secret
        has_given = False
        try:
            async with self._inner.stream(request) as events:
                async for event in events:
                    has_given = True
                    yield event
            return
        except ProviderError as error:
            if error.status != UNAUTHENTICATED or has_given or not await self._credential.renew(used):
                raise
        async with self._inner.stream(request) as events:
            async for event in events:
                yield event

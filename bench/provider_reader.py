"""Reads model streams and says what that cost: ``python -m bench.provider_reader adapter|bare FORMAT URL MODEL …``.

A process of its own, so that its CPU is that of the reading alone. Prints seconds of CPU, seconds, and tokens.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Protocol

import uvloop

from bench.baselines import sse
from turnkeeper.v1 import content_pb2
from turnkeeper_service.clock import SystemClock
from turnkeeper_service.providers.base import ModelRequest, PartDelta
from turnkeeper_service.providers.options import ProviderOptions
from turnkeeper_service.providers.registry import ProviderRegistry


class Reader(Protocol):
    """Something that reads a model's answer."""

    async def text(self, model: str) -> list[str]:
        """The pieces of one answer."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class Adapter:
    """Streams of one vendor, by the service's own adapter."""

    def __init__(self, url: str, wire_format: str) -> None:
        self._registry = ProviderRegistry([ProviderOptions("up", wire_format, url)], SystemClock())
        self._message = content_pb2.Message(role=content_pb2.ROLE_USER)
        self._message.parts.add().text.text = "hello"

    async def text(self, model: str) -> list[str]:
        """The pieces of one answer."""
        provider, name = self._registry.resolve(f"up/{model}")
        pieces: list[str] = []
        async with provider.stream(ModelRequest(name, [self._message])) as events:
            async for event in events:
                if isinstance(event, PartDelta):
                    pieces.append(event.text)
        return pieces

    async def close(self) -> None:
        """Close the connections."""
        await self._registry.close()


async def measure(reader: Reader, model: str, num_streams: int, num_turns: int, spread: float) -> None:
    """Some turns on each of many streams, the streams begun over some time; a first turn of each is not counted."""
    num_tokens = int(model.split("-")[1])
    expected = "".join(f"t{number} " for number in range(num_tokens))

    async def stream(number: int) -> None:
        await asyncio.sleep(spread * number / num_streams)
        for _ in range(num_turns):
            if "".join(await reader.text(model)) != expected:
                raise RuntimeError("an answer is not what was sent")

    await asyncio.gather(*(reader.text("block-1") for _ in range(num_streams)))
    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(stream(number) for number in range(num_streams)))
    used, elapsed = time.process_time() - cpu, time.perf_counter() - start
    print(used, elapsed, num_tokens * num_streams * num_turns, flush=True)


async def main() -> None:
    """Read as the command line says."""
    kind, wire_format, url, model, num_streams, num_turns, spread = sys.argv[1:]
    reader: Reader = (Adapter if kind == "adapter" else sse.Reader)(url, wire_format)
    try:
        await measure(reader, model, int(num_streams), int(num_turns), float(spread))
    finally:
        await reader.close()


if __name__ == "__main__":
    uvloop.run(main())

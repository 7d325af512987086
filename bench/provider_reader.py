"""Reads model streams when it is told to: ``python -m bench.provider_reader adapter|bare FORMAT URL``.

A process of its own, so that its CPU is that of the reading alone. Each line that it gets says what: the name of the
model, how many streams, how many turns on each, over how many seconds the streams begin. It answers once that is read.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Protocol

import uvloop

from bench.baselines import sse
from turnkeeper.v1 import content_pb2
from turnkeeper_service.process.clock import SystemClock
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


async def read(reader: Reader, model: str, num_streams: int, num_turns: int, spread: float) -> int:
    """Some turns on each of many streams; how many tokens that were."""
    num_tokens = int(model.split("-")[1])
    expected = "".join(f"t{number} " for number in range(num_tokens))

    async def stream(number: int) -> None:
        await asyncio.sleep(spread * number / num_streams)
        for _ in range(num_turns):
            if "".join(await reader.text(model)) != expected:
                raise RuntimeError("an answer is not what was sent")

    await asyncio.gather(*(stream(number) for number in range(num_streams)))
    return num_tokens * num_streams * num_turns


async def main() -> None:
    """Read as the lines of standard input say, until its end."""
    kind, wire_format, url = sys.argv[1:]
    reader: Reader = (Adapter if kind == "adapter" else sse.Reader)(url, wire_format)
    print("ready", flush=True)
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            model, num_streams, num_turns, spread = line.split()
            print("read", await read(reader, model, int(num_streams), int(num_turns), float(spread)), flush=True)
    finally:
        await reader.close()


if __name__ == "__main__":
    uvloop.run(main())

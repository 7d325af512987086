"""Keys that change while the server runs, through the service and over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from examples.upstream import Answer, Request, Upstream, token_stream
from tests.service.harness import Harness, load_settings, serving
from tests.service.providers.test_formats import KEY_HEADERS, WIRE_FORMATS
from turnkeeper.v1 import event_pb2

OLD, NEW = "old-key-of-ours", "new-key-of-ours"
FILE, COMMAND = "file", "command"


class Vendor:
    """Takes one key alone, in the place that the format has for it."""

    def __init__(self, wire_format: str) -> None:
        self._wire_format = wire_format
        self._header, value = KEY_HEADERS[wire_format]
        self._prefix = "Bearer " if value.startswith("Bearer ") else ""
        self.key = OLD
        self.upstream = Upstream(self._answer)

    def _answer(self, request: Request) -> Answer:
        if self._key(request) != self.key:
            return Answer.error(401, f'{{"error":{{"message":"no such key: {self._key(request)}"}}}}')
        return Answer(token_stream(2, self._wire_format))

    def _key(self, request: Request) -> str:
        return request.headers.get(self._header, "").removeprefix(self._prefix)

    @property
    def keys(self) -> list[str]:
        """The keys that it was shown."""
        return [self._key(request) for request in self.upstream.requests]


@asynccontextmanager
async def served(data_dir: Path, vendor: Vendor, wire_format: str, way: str) -> AsyncIterator[Harness]:
    """A server whose key is in a file, which it reads itself or has printed; one call at a time."""
    key = data_dir / "key"
    key.write_text(OLD)
    settings = {
        "providers.up.format": wire_format,
        "providers.up.base_url": vendor.upstream.base_url,
        "providers.up.max_concurrent_calls": "1",
    }
    if way == FILE:
        settings["providers.up.api_key_file"] = str(key)
    else:
        settings["providers.up.api_key_command"] = f'["cat", "{key}"]'
    async with serving(data_dir, settings=load_settings(data_dir, **settings)) as server:
        await server.session("s", model="up/m")
        yield server


async def run(server: Harness, run_id: str) -> event_pb2.Outcome:
    await server.submit("s", "hello", run_id)
    return (await server.terminals("s", [run_id]))[run_id]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("wire_format", "way"), [*((wire_format, FILE) for wire_format in WIRE_FORMATS), ("openai-chat", COMMAND)]
)
async def test_a_key_that_is_refused_is_read_again_and_kept(tmp_path: Path, wire_format: str, way: str) -> None:
    vendor = Vendor(wire_format)
    async with vendor.upstream, served(tmp_path, vendor, wire_format, way) as server:
        assert (await run(server, "r1")).text == "t0 t1 "
        vendor.key = NEW
        (tmp_path / "key").write_text(f"{NEW}\n")
        for run_id in ("r2", "r3"):
            outcome = await run(server, run_id)
            assert (outcome.status, outcome.text) == (event_pb2.OUTCOME_STATUS_COMPLETED, "t0 t1 ")
            assert outcome.usage.own.num_calls == 1
        assert vendor.keys == [OLD, OLD, NEW, NEW]


@pytest.mark.asyncio
@pytest.mark.parametrize("way", [FILE, COMMAND])
async def test_without_a_new_key_the_refusal_is_the_outcome(tmp_path: Path, way: str) -> None:
    vendor = Vendor("openai-chat")
    async with vendor.upstream, served(tmp_path, vendor, "openai-chat", way) as server:
        vendor.key = NEW
        outcome = await run(server, "r1")
        assert outcome.reason == event_pb2.OUTCOME_REASON_PROVIDER_UNAUTHENTICATED
        (error,) = outcome.errors
        assert (error.http_status, error.detail) == (401, "HTTP 401: no such key: ***")
        (tmp_path / "key").unlink()
        assert (await run(server, "r2")).reason == event_pb2.OUTCOME_REASON_PROVIDER_UNAUTHENTICATED
        assert vendor.keys == [OLD, OLD]
        (tmp_path / "key").write_text(NEW)
        assert (await run(server, "r3")).text == "t0 t1 "

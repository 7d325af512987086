"""What `/metrics` tells of models, of the process and of the build."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from tests.service.harness import serving
from turnkeeper_service.providers.facts.catalog import ModelCatalog, OwnFacts
from turnkeeper_service.providers.facts.public_list import PublicList


@pytest.mark.asyncio
async def test_a_model_is_counted_under_a_name_that_callers_cannot_make_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await server.submit("s", "hello", "a", model="scripted/echo")
        for number in range(3):
            await server.submit("s", "hello", f"b{number}", model=f"scripted/lorem-{number + 2}")
        await server.terminals("s", ["a", "b0", "b1", "b2"])
        async with aiohttp.ClientSession() as session:
            text = await (await session.get(f"http://{server.server.http_address}/metrics")).text()
    lines = text.splitlines()
    models = {line.split('model="')[1].split('"')[0] for line in lines if line.startswith("turnkeeper_tokens_total")}
    assert models == {"scripted/echo", "other"}
    (other,) = [line for line in lines if line.startswith('turnkeeper_tokens_total{model="other",type="output"')]
    assert float(other.split()[1]) == 2 + 3 + 4
    names = {line.split("{")[0].split()[0] for line in lines}
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"} <= names
    (build,) = [line for line in lines if line.startswith("turnkeeper_build_info")]
    assert 'python="3.' in build
    assert f'version="{server.server.version}"' in build


@pytest.mark.asyncio
async def test_a_listed_model_has_the_name_of_the_list() -> None:
    public = PublicList()
    own = {"openai/mine": OwnFacts(fallbacks=("openai/second",))}
    catalog = ModelCatalog(own, {"openai": "https://api.openai.com/v1"}, public, 1.0, ["openai/default"])
    assert catalog.label("openai/gpt-4o") == "other", "nobody has read the list"
    await public.load()
    assert catalog.label("openai/gpt-4o") == "openai/gpt-4o"
    dated = {catalog.label(f"openai/gpt-4o-2024-{number:02}-06") for number in range(1, 12)}
    assert len(dated) <= 2
    assert [catalog.label(f"openai/{name}") for name in ("mine", "second", "default")] == [
        "openai/mine",
        "openai/second",
        "openai/default",
    ]
    for name in ("openai/made-up", "elsewhere/gpt-4o", "openai/", ""):
        assert catalog.label(name) == "other"
    await public.close()

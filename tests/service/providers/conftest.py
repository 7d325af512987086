"""An upstream, a clock that stands still, and providers between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from examples.upstream import Upstream
from tests.service.providers.held_clock import HeldClock
from turnkeeper_service.providers.base import Provider
from turnkeeper_service.providers.options import ProviderOptions
from turnkeeper_service.providers.registry import ProviderRegistry

MakeProvider = Callable[..., Provider]


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as running:
        yield running


@pytest_asyncio.fixture
async def make_provider(upstream: Upstream, clock: HeldClock) -> AsyncIterator[MakeProvider]:
    """Makes a provider for the upstream on the held clock; closes all of them at the end."""
    registries: list[ProviderRegistry] = []

    def make(wire_format: str = "openai-chat", **options: Any) -> Provider:
        options.setdefault("base_url", upstream.base_url)
        registries.append(ProviderRegistry([ProviderOptions("p", wire_format, **options)], clock))
        return registries[-1].resolve("p/m")[0]

    yield make
    for registry in registries:
        await registry.close()

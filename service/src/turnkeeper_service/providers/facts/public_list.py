"""The public list of models in `genai-prices`: what their calls cost, and how much they hold.

It is large and slow to read: it is read once, off the event loop, and only if a model needs it. Its updater is never
used: prices change with the version of the package.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from turnkeeper.v1 import content_pb2

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, Provider

MAX_ENTRIES = 1024

log = structlog.get_logger(__name__)


class PublicList:
    """Asked by the vendor's own name of a model and its address; a vendor that is not known is passed over."""

    def __init__(self) -> None:
        self._snapshot: DataSnapshot | None = None
        self._loading: asyncio.Task[DataSnapshot] | None = None
        self._is_unusable = False
        self._entries: dict[tuple[str, str], tuple[Provider, ModelInfo] | None] = {}
        """What was looked up, since every call asks; a miss takes longest."""

    @property
    def is_read(self) -> bool:
        """Whether nobody has to wait for it."""
        return self._snapshot is not None or self._is_unusable

    async def load(self) -> None:
        """Read the list if nobody has."""
        if self._snapshot is not None or self._is_unusable:
            return
        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(asyncio.to_thread(_read), name="public list")
        try:
            self._snapshot = await asyncio.shield(self._loading)
        except Exception as error:
            # A call whose price nobody knows is still a call.
            log.warning("the public list of models is not readable", detail=str(error))
            self._is_unusable = True

    def price(self, usage: content_pb2.Usage, model: str, base_url: str) -> float | None:
        """US dollars; None where the list was not read or does not know the model."""
        found = self._found(model, base_url)
        if found is None:
            return None
        import genai_prices

        counted = genai_prices.Usage(
            # The list counts cached tokens among the input tokens.
            input_tokens=usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            output_tokens=usage.output_tokens,
        )
        provider, info = found
        try:
            return float(info.calc_price(counted, provider).total_price)
        except (ArithmeticError, LookupError, ValueError):
            return None

    def context_window(self, model: str, base_url: str) -> int | None:
        """Tokens; None where the list was not read or does not say."""
        found = self._found(model, base_url)
        return found[1].context_window if found is not None else None

    def name(self, model: str, base_url: str) -> str | None:
        """The list's own name of a model; None where the list was not read or does not know it."""
        found = self._found(model, base_url)
        return found[1].id if found is not None else None

    def _found(self, model: str, base_url: str) -> tuple[Provider, ModelInfo] | None:
        """The list's entry of a model; None where the list was not read or does not know it."""
        if self._snapshot is None:
            return None
        key = (model, base_url)
        if key not in self._entries:
            if len(self._entries) >= MAX_ENTRIES:
                # Names are the callers': they must not fill the memory.
                self._entries.clear()
            self._entries[key] = _find(self._snapshot, model, base_url)
        return self._entries[key]

    async def close(self) -> None:
        """Wait for a read that is under way. Idempotent."""
        if self._loading is not None:
            await asyncio.wait({self._loading})


def _read() -> DataSnapshot:
    import genai_prices
    from genai_prices.data_snapshot import get_snapshot

    # The first look-up parses the list: here, not on the event loop.
    genai_prices.calc_price(genai_prices.Usage(input_tokens=1), "gpt-4o")
    return get_snapshot()


def _find(snapshot: DataSnapshot, model: str, base_url: str) -> tuple[Provider, ModelInfo] | None:
    """By the vendor at this address, else by the name alone."""
    for url in (base_url, None):
        try:
            return snapshot.find_provider_model(model, None, None, url)
        except (LookupError, ValueError):
            continue
    return None

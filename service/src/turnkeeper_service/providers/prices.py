"""What model calls cost: the configuration's own prices, else the public price list of `genai-prices`.

The list is large and slow to read: it is read once, off the event loop, and only if a model needs it. Its updater is
never used: prices change with the version of the package.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from turnkeeper.v1 import content_pb2

log = structlog.get_logger(__name__)

ListPrice = Callable[[content_pb2.Usage, str, str], float | None]
"""(usage, vendor's model name, base URL) to US dollars; None where the list does not know the model."""


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Prices of one model in US dollars per million tokens; None falls back to the price list."""

    input_usd: float | None = None
    output_usd: float | None = None
    cache_read_usd: float | None = None
    cache_write_usd: float | None = None
    is_flat_rate: bool = False
    """Whether it is paid for otherwise: every call costs 0."""

    def cost(self, usage: content_pb2.Usage) -> float | None:
        """The cost by these prices; None where they do not say enough."""
        if self.input_usd is None or self.output_usd is None:
            return None
        cached = self.input_usd if self.cache_read_usd is None else self.cache_read_usd
        written = self.input_usd if self.cache_write_usd is None else self.cache_write_usd
        total = usage.input_tokens * self.input_usd + usage.output_tokens * self.output_usd
        return (total + usage.cache_read_tokens * cached + usage.cache_write_tokens * written) / 1e6


class PriceList:
    """Prices by ``provider/model``. ``base_urls`` tells the list which vendor a provider's name means."""

    def __init__(self, own: Mapping[str, ModelPrice], base_urls: Mapping[str, str]) -> None:
        self._own = dict(own)
        self._base_urls = dict(base_urls)
        self._list: ListPrice | None = None
        self._loading: asyncio.Task[ListPrice] | None = None

    def _needs_list(self, model: str) -> bool:
        own = self._own.get(model)
        is_priced = own is not None and (own.is_flat_rate or (own.input_usd is not None and own.output_usd is not None))
        return not is_priced and bool(self._base_urls.get(model.partition("/")[0]))

    async def prepare(self, model: str) -> None:
        """Read the list, if this model needs it and nobody has."""
        if self._list is None and self._needs_list(model):
            if self._loading is None:
                self._loading = asyncio.get_running_loop().create_task(asyncio.to_thread(_read_list), name="price list")
            try:
                self._list = await asyncio.shield(self._loading)
            except Exception as error:
                # A call whose price nobody knows is still a call.
                log.warning("the price list is not readable", detail=str(error))
                self._list = _no_price

    def settle(self, model: str, usage: content_pb2.Usage, reported_usd: float | None) -> None:
        """Write the cost of one call into its usage.

        A flat rate beats what the provider reports, which beats the prices; estimated usage costs 0. Unset where nobody
        knows.
        """
        own = self._own.get(model)
        if (own is not None and own.is_flat_rate) or usage.is_estimated:
            usage.cost_usd = 0.0
            return
        cost = reported_usd
        if cost is None and own is not None:
            cost = own.cost(usage)
        if cost is None and self._list is not None:
            provider, _, name = model.partition("/")
            cost = self._list(usage, name, self._base_urls.get(provider, ""))
        if cost is not None:
            usage.cost_usd = cost

    async def close(self) -> None:
        """Wait for a read that is under way. Idempotent."""
        if self._loading is not None:
            await asyncio.wait({self._loading})


def _no_price(usage: content_pb2.Usage, model: str, base_url: str) -> float | None:
    return None


def _read_list() -> ListPrice:
    import genai_prices

    def price(usage: content_pb2.Usage, model: str, base_url: str) -> float | None:
        counted = genai_prices.Usage(
            # The list counts cached tokens among the input tokens.
            input_tokens=usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            output_tokens=usage.output_tokens,
        )
        for url in (base_url, None):
            try:
                return float(genai_prices.calc_price(counted, model, provider_api_url=url).total_price)
            except (LookupError, ValueError):
                continue
        return None

    # The first look-up parses the list: here, not on the event loop.
    price(content_pb2.Usage(input_tokens=1), "gpt-4o", "")
    return price

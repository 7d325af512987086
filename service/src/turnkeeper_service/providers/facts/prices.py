"""What model calls cost: the configuration's own prices, else those of the public list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from turnkeeper.v1 import content_pb2

from .public_list import PublicList


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

    def __init__(self, own: Mapping[str, ModelPrice], base_urls: Mapping[str, str], public: PublicList) -> None:
        self._own = dict(own)
        self._base_urls = dict(base_urls)
        self._public = public

    def _needs_list(self, model: str) -> bool:
        own = self._own.get(model)
        is_priced = own is not None and (own.is_flat_rate or (own.input_usd is not None and own.output_usd is not None))
        return not is_priced and bool(self._base_urls.get(model.partition("/")[0]))

    def is_ready(self, model: str) -> bool:
        """Whether `prepare` has nothing to wait for."""
        return self._public.is_read or not self._needs_list(model)

    async def prepare(self, model: str) -> None:
        """Read the public list, if this model needs it and nobody has."""
        if self._needs_list(model):
            await self._public.load()

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
        provider, _, name = model.partition("/")
        if cost is None and (base_url := self._base_urls.get(provider)):
            cost = self._public.price(usage, name, base_url)
        if cost is not None:
            usage.cost_usd = cost

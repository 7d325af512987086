"""What a call costs, by whose word."""

from __future__ import annotations

import pytest

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.facts.prices import ModelPrice, PriceList
from turnkeeper_service.providers.facts.public_list import PublicList

USAGE = content_pb2.Usage(input_tokens=1000, output_tokens=2000, num_calls=1)
OWN = ModelPrice(input_usd=10, output_usd=20)


def settled(prices: PriceList, model: str, reported: float | None = None, **fields: object) -> float | None:
    usage = content_pb2.Usage()
    usage.CopyFrom(USAGE)
    usage.MergeFrom(content_pb2.Usage(**fields))  # type: ignore[arg-type]
    prices.settle(model, usage, reported)
    return usage.cost_usd if usage.HasField("cost_usd") else None


def test_own_prices_count_every_kind_of_token() -> None:
    prices = PriceList({"p/m": ModelPrice(10, 20, cache_read_usd=1, cache_write_usd=12.5)}, {}, PublicList())
    assert settled(prices, "p/m") == pytest.approx(0.05)
    assert settled(prices, "p/m", cache_read_tokens=1000, cache_write_tokens=1000) == pytest.approx(0.0635)


def test_without_a_price_of_its_own_cached_input_costs_what_input_does() -> None:
    assert settled(PriceList({"p/m": OWN}, {}, PublicList()), "p/m", cache_read_tokens=1000) == pytest.approx(0.06)


def test_a_flat_rate_beats_what_the_provider_says_which_beats_the_prices() -> None:
    prices = PriceList({"p/flat": ModelPrice(10, 20, is_flat_rate=True), "p/m": OWN}, {}, PublicList())
    assert settled(prices, "p/flat", reported=0.7) == 0
    assert settled(prices, "p/m", reported=0.7) == pytest.approx(0.7)


def test_what_was_only_estimated_costs_nothing() -> None:
    assert settled(PriceList({"p/m": OWN}, {}, PublicList()), "p/m", is_estimated=True) == 0


@pytest.mark.asyncio
async def test_the_public_list_knows_a_vendor_by_its_address_and_is_read_only_where_it_is_needed() -> None:
    public = PublicList()
    prices = PriceList({"p/own": OWN}, {"p": "https://api.openai.com/v1"}, public)
    await prices.prepare("p/own")
    assert settled(prices, "p/gpt-4o") is None
    await prices.prepare("p/gpt-4o")
    cost = settled(prices, "p/gpt-4o")
    cached = settled(prices, "p/gpt-4o", cache_read_tokens=1000)
    assert cost is not None
    assert cached is not None
    assert 0 < cost < cached
    assert settled(prices, "p/nobody-has-this") is None
    await public.close()

"""What is known of a model, and from where."""

from __future__ import annotations

import pytest

from turnkeeper_service.providers.base import ModelCapabilities
from turnkeeper_service.providers.facts.catalog import ModelCatalog, OwnFacts
from turnkeeper_service.providers.facts.public_list import PublicList

VENDORS = {"claude": "https://api.anthropic.com/v1", "local": "http://127.0.0.1:8080/v1", "script": ""}


@pytest.mark.asyncio
async def test_the_configuration_then_the_public_list_then_nothing() -> None:
    public = PublicList()
    own = {"claude/claude-sonnet-4-5": OwnFacts(max_output_tokens=7), "claude/mine": OwnFacts(context_window=5)}
    catalog = ModelCatalog(own, VENDORS, public, cool_down=3)
    await catalog.prepare("claude/mine")
    assert catalog.facts("claude/mine").context_window == 5
    assert catalog.facts("claude/claude-sonnet-4-5").context_window is None, "nobody needed the list yet"
    await catalog.prepare("claude/claude-sonnet-4-5")
    facts = catalog.facts("claude/claude-sonnet-4-5")
    assert (facts.context_window, facts.max_output_tokens) == (200_000, 7)
    assert facts.capabilities == ModelCapabilities()
    assert catalog.chain("claude/claude-sonnet-4-5").models == ("claude/claude-sonnet-4-5",)
    assert catalog.facts("claude/nobody-has-this").context_window is None
    await public.close()


@pytest.mark.asyncio
async def test_a_model_of_a_vendor_that_the_list_does_not_know_is_known_by_its_name() -> None:
    public = PublicList()
    catalog = ModelCatalog({}, VENDORS, public, cool_down=3)
    await catalog.prepare("local/gpt-4o")
    assert catalog.facts("local/gpt-4o").context_window == 128_000
    assert catalog.facts("script/gpt-4o").context_window is None, "there is no vendor behind a script"
    await public.close()


@pytest.mark.asyncio
async def test_the_list_is_not_read_for_a_model_without_a_vendor() -> None:
    public = PublicList()
    catalog = ModelCatalog({}, VENDORS, public, cool_down=3)
    await catalog.prepare("script/gpt-4o")
    assert catalog.facts("claude/claude-sonnet-4-5").context_window is None
    await public.close()

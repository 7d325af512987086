"""The models of a run, from what is configured and what is known of them."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from turnkeeper_service.engine.models import Model
from turnkeeper_service.providers.base import ProviderError, ToolDefinition
from turnkeeper_service.providers.facts.catalog import ModelCatalog
from turnkeeper_service.providers.facts.prices import PriceList
from turnkeeper_service.providers.policy.fallback import CoolDowns, FallbackChain
from turnkeeper_service.providers.registry import ProviderRegistry

from .missing import provider_of

MAX_NAMED = 20
"""Most models that a refusal lists."""


class ModelDesk:
    """Finds models by name."""

    def __init__(
        self, providers: ProviderRegistry, prices: PriceList, catalog: ModelCatalog, cool_downs: CoolDowns
    ) -> None:
        self._providers = providers
        self._prices = prices
        self._catalog = catalog
        self.cool_downs = cool_downs

    def chain(self, name: str) -> FallbackChain:
        """The model and those that stand in for it."""
        return self._catalog.chain(name)

    def why_none(self, name: str) -> str:
        """Why no provider answers for ``provider/model``, and which models there are; empty where one does."""
        try:
            self._providers.resolve(name)
        except LookupError as error:
            there = list(dict.fromkeys([*self._catalog.names, *self._providers.offers]))
            near = [one for one in there if one.endswith(f"/{name}")] or difflib.get_close_matches(name, there, 1, 0.8)
            meant = f"; did you mean {near[0]!r}?" if near and "did you mean" not in str(error) else ""
            more = f" and {len(there) - MAX_NAMED} more" if len(there) > MAX_NAMED else ""
            return f"{error}{meant}; there are {', '.join(there[:MAX_NAMED])}{more}"
        return ""

    def why_untold(self, name: str, tool: ToolDefinition) -> str:
        """Why a model is not told of a tool, "" where it is."""
        return self._providers.why_untold(name, tool)

    def is_scripted(self, name: str) -> bool:
        """Whether a model is one of the server's own that play a script."""
        return self._providers.is_scripted(name)

    def is_ready(self, name: str) -> bool:
        """Whether `prepare` has nothing to wait for."""
        return all(self._prices.is_ready(one) and self._catalog.is_ready(one) for one in self.chain(name).models)

    async def prepare(self, name: str) -> None:
        """Read what is needed to know a model, its price and its stand-ins."""
        for one in self.chain(name).models:
            await self._prices.prepare(one)
            await self._catalog.prepare(one)

    def model(self, name: str) -> Model:
        """A model as it is known now. One whose provider is gone refuses every call."""
        provider, own_name = provider_of(self._providers, name)
        facts = self._catalog.facts(name)
        return Model(
            name=name,
            own_name=own_name,
            provider=provider,
            capabilities=facts.capabilities,
            context_window=facts.context_window,
            settle=lambda usage, reported: self._prices.settle(name, usage, reported),
        )


class RunModels:
    """The models of one run. Implements the engine's Models."""

    def __init__(self, desk: ModelDesk, name: str) -> None:
        self._desk = desk
        self._chain = desk.chain(name)

    def choose(self, tried: Collection[str] = ()) -> Model | None:
        """The first that does not cool down, else the one that is done with it soonest."""
        name = self._desk.cool_downs.choose(self._chain, tried)
        return self._desk.model(name) if name is not None else None

    def stands_in(self, failed: Model, error: ProviderError, tried: Collection[str]) -> Model | None:
        """Another one that does not cool down."""
        if not self._chain.covers(error):
            return None
        cool_downs = self._desk.cool_downs
        cool_downs.failed(self._chain, failed.name, error)
        name = cool_downs.choose(self._chain, tried)
        return self._desk.model(name) if name is not None and not cool_downs.left(name) else None

    def answered(self, model: Model) -> None:
        """It is well again."""
        self._desk.cool_downs.answered(model.name)

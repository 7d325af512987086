"""What is known of the models: their limits, what they take, and who stands in for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from turnkeeper_service.providers.base import ModelCapabilities
from turnkeeper_service.providers.policy.fallback import FallbackChain

from .public_list import PublicList

OTHER = "other"


@dataclass(frozen=True, slots=True)
class OwnFacts:
    """What the configuration says of one model."""

    context_window: int | None = None
    max_output_tokens: int | None = None
    capabilities: ModelCapabilities = field(default_factory=ModelCapabilities)
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of one model; tokens are None where nobody knows."""

    context_window: int | None
    """Tokens that fit, prompt and answer."""
    max_output_tokens: int | None
    capabilities: ModelCapabilities


class ModelCatalog:
    """Facts by ``provider/model``: by the configuration first, else by the public list."""

    def __init__(
        self,
        own: Mapping[str, OwnFacts],
        base_urls: Mapping[str, str],
        public: PublicList,
        cool_down: float,
        named: Collection[str] = (),
    ) -> None:
        """``named`` are models that the configuration names without facts."""
        self._own = dict(own)
        self._labels = frozenset((*own, *named, *(name for facts in own.values() for name in facts.fallbacks)))
        self._base_urls = dict(base_urls)
        self._public = public
        self._cool_down = cool_down

    @property
    def names(self) -> list[str]:
        """The models that are configured, sorted."""
        return sorted(self._own)

    def label(self, model: str) -> str:
        """The name that ``provider/model`` has for others: of its own only if it is configured or publicly listed.

        Names are the callers' and may hold anything. One that the list knows by a pattern has the list's name.
        """
        if model in self._labels:
            return model
        base_url = self._base_url(model)
        provider, _, name = model.partition("/")
        listed = self._public.name(name, base_url) if base_url else None
        return f"{provider}/{listed}" if listed else OTHER

    def is_ready(self, model: str) -> bool:
        """Whether `prepare` has nothing to wait for."""
        return self._public.is_read or not self._needs_list(model)

    def _needs_list(self, model: str) -> bool:
        return self._own.get(model, _UNKNOWN).context_window is None and bool(self._base_url(model))

    async def prepare(self, model: str) -> None:
        """Read the public list, if this model needs it and nobody has."""
        if self._needs_list(model):
            await self._public.load()

    def facts(self, model: str) -> ModelFacts:
        """What is known, after `prepare`."""
        own = self._own.get(model, _UNKNOWN)
        window, base_url = own.context_window, self._base_url(model)
        if window is None and base_url:
            window = self._public.context_window(model.partition("/")[2], base_url)
        return ModelFacts(window, own.max_output_tokens, own.capabilities)

    def chain(self, model: str) -> FallbackChain:
        """The model itself, then those that stand in for it."""
        return FallbackChain((model, *self._own.get(model, _UNKNOWN).fallbacks), self._cool_down)

    def _base_url(self, model: str) -> str:
        """The provider's address; none where there is no vendor behind it that the list could know."""
        return self._base_urls.get(model.partition("/")[0], "")


_UNKNOWN = OwnFacts()

"""A model whose provider is gone: the run ends as any other failed call does, with its reason on record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from turnkeeper_service.providers.base import FailureReason, ModelEvent, ModelRequest, Provider, ProviderError
from turnkeeper_service.providers.registry import ProviderRegistry, UnknownModelError


class MissingProvider:
    """Refuses every call."""

    def __init__(self, detail: str) -> None:
        self._detail = detail

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Raise ProviderError."""
        raise ProviderError(FailureReason.PROVIDER_REFUSED, "Unknown model", self._detail)
        yield

    async def close(self) -> None:
        """Nothing to release."""


def provider_of(providers: ProviderRegistry, model: str) -> tuple[Provider, str]:
    """The provider of a model and the vendor's name of it; one that refuses where there is none any more."""
    try:
        return providers.resolve(model)
    except UnknownModelError as error:
        return MissingProvider(str(error)), model

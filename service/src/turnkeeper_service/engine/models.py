"""The models that a turn may ask, without knowing where they come from."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import ModelCapabilities, Provider, ProviderError


@dataclass(frozen=True, slots=True)
class Model:
    """One model. ``name`` is ``provider/model``, ``own_name`` the vendor's own name of it."""

    name: str
    own_name: str
    provider: Provider
    capabilities: ModelCapabilities
    context_window: int | None
    """Tokens that fit, prompt and answer; None where nobody knows."""
    settle: Callable[[content_pb2.Usage, float | None], None]
    """Writes the cost of a call into its usage, given what the provider reported."""


class Models(Protocol):
    """The models of one run: the one it is for, and those that stand in for it."""

    def choose(self, tried: Collection[str] = ()) -> Model | None:
        """The model to ask now, None where all have been tried."""
        ...

    def stands_in(self, failed: Model, error: ProviderError, tried: Collection[str]) -> Model | None:
        """Note a failure; the model that may be asked at once instead, if there is one."""
        ...

    def answered(self, model: Model) -> None:
        """Note that a model is well."""
        ...

"""Builds providers from options and finds the one that a model names."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterable

from turnkeeper_service.providers.base import Clock, Provider, ToolDefinition
from turnkeeper_service.providers.formats.anthropic_messages.provider import AnthropicMessagesProvider
from turnkeeper_service.providers.formats.gemini.provider import GeminiProvider
from turnkeeper_service.providers.formats.openai_chat.provider import OpenAIChatProvider
from turnkeeper_service.providers.formats.openai_responses.provider import OpenAIResponsesProvider
from turnkeeper_service.providers.formats.streaming import HttpProvider
from turnkeeper_service.providers.formats.tool_schemas import SchemaRule, fit
from turnkeeper_service.providers.gates import Gates
from turnkeeper_service.providers.options import CallLimits, ProviderOptions
from turnkeeper_service.providers.policy.credentials import Credential, RenewingProvider
from turnkeeper_service.providers.scripted import ScriptedProvider

SCRIPTED = "scripted"
SCRIPTED_MODELS = ("echo", "lorem")
"""Those that need no file."""
_HTTP_FORMATS: dict[str, type[HttpProvider]] = {
    "openai-chat": OpenAIChatProvider,
    "openai-responses": OpenAIResponsesProvider,
    "anthropic-messages": AnthropicMessagesProvider,
    "gemini": GeminiProvider,
}
FORMATS = (*_HTTP_FORMATS, SCRIPTED)


class UnknownModelError(LookupError):
    """A model that no provider answers for."""

    def __init__(self, model: str, detail: str) -> None:
        super().__init__(detail)
        self.model = model


class ProviderRegistry:
    """All providers of a server, by name. ``scripted`` is always there unless its name is taken."""

    def __init__(self, options: Iterable[ProviderOptions], clock: Clock, gates: Gates | None = None) -> None:
        self._gates = gates
        self._clock = clock
        self._providers: dict[str, Provider] = {}
        self._scripted: set[str] = set()
        self._credentials: dict[str, Credential] = {}
        self.bounds: dict[str, CallLimits] = {}
        """On the calls to providers, by name; whoever makes calls keeps to them."""
        self._schemas: dict[str, SchemaRule] = {}
        for item in options:
            if item.name in self._providers or "/" in item.name or not item.name:
                raise ValueError(f"the provider name {item.name!r} is taken, empty or holds a slash")
            self._providers[item.name] = self._build(item)
            if item.limits is not None:
                self.bounds[item.name] = item.limits
        if SCRIPTED not in self._providers:
            self._providers[SCRIPTED] = self._build(ProviderOptions(name=SCRIPTED, format=SCRIPTED))

    @property
    def names(self) -> list[str]:
        """The names of all providers, sorted."""
        return sorted(self._providers)

    @property
    def offers(self) -> list[str]:
        """What models may be called: the scripted ones by their names, those of a vendor, who knows them, by ``*``."""
        own = {name: SCRIPTED_MODELS if name in self._scripted else ("*",) for name in self.names}
        return [f"{name}/{model}" for name, models in own.items() for model in models]

    def resolve(self, model: str) -> tuple[Provider, str]:
        """The provider of ``provider/model`` and the vendor's own name of the model.

        Raises `UnknownModelError` where the name has no slash or nobody answers to it.
        """
        name, slash, own_name = model.partition("/")
        if not slash or not name or not own_name:
            raise UnknownModelError(model, f"{model[:200]!r} is not of the form provider/model")
        provider = self._providers.get(name)
        if provider is None:
            near = difflib.get_close_matches(name, self._providers, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UnknownModelError(model, f"there is no provider {name[:80]!r}{hint}")
        return provider, own_name

    def why_untold(self, model: str, tool: ToolDefinition) -> str:
        """Why the vendor of ``provider/model`` is not told of a tool, "" where it is.

        Without a model, which of the providers are not told of it, each with why.
        """
        if model:
            rule = self._schemas.get(model.partition("/")[0])
            return fit(tool.input_schema_json, rule)[1] if rule is not None else ""
        reasons = {name: fit(tool.input_schema_json, rule)[1] for name, rule in self._schemas.items()}
        return "; ".join(f"{name}: {why}" for name, why in reasons.items() if why)

    def is_scripted(self, model: str) -> bool:
        """Whether no vendor answers for ``provider/model``."""
        return model.partition("/")[0] in self._scripted

    async def reload_keys(self) -> list[str]:
        """Read all keys again that come from files or commands; the providers whose key could not be read."""
        read = await asyncio.gather(*(credential.reload() for credential in self._credentials.values()))
        return [name for name, is_read in zip(self._credentials, read, strict=True) if not is_read]

    async def close(self) -> None:
        """Close every provider. Idempotent."""
        for provider in self._providers.values():
            await provider.close()

    def _build(self, options: ProviderOptions) -> Provider:
        """The format's provider in what its options ask for."""
        if options.format == SCRIPTED:
            self._scripted.add(options.name)
            return ScriptedProvider(self._clock, self._gates, options.script_root)
        http = self._build_http(options)
        self._schemas[options.name] = http.schemas
        if http.credential is None:
            return http
        self._credentials[options.name] = http.credential
        return RenewingProvider(http, http.credential)

    def _build_http(self, options: ProviderOptions) -> HttpProvider:
        kind = _HTTP_FORMATS.get(options.format)
        if kind is not None:
            return kind(options, self._clock)
        near = difflib.get_close_matches(options.format, FORMATS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"provider {options.name!r} has the unknown format {options.format!r}{hint}")

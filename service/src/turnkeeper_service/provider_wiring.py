"""What providers and models take from the settings. Apart from the rest, for `turnkeeper config check` uses it too."""

from __future__ import annotations

from pathlib import Path

from turnkeeper_service.process.clock import Clock
from turnkeeper_service.providers.base import ModelCapabilities
from turnkeeper_service.providers.facts.catalog import ModelCatalog, OwnFacts
from turnkeeper_service.providers.facts.prices import ModelPrice, PriceList
from turnkeeper_service.providers.facts.public_list import PublicList
from turnkeeper_service.providers.options import CallLimits, KeySource, ProviderOptions, Timeouts
from turnkeeper_service.providers.policy.credentials import key_command, key_file
from turnkeeper_service.providers.registry import SCRIPTED, SCRIPTED_MODELS
from turnkeeper_service.settings.layers import SettingsError, reason
from turnkeeper_service.settings.settings import Settings
from turnkeeper_service.settings.tables import ProviderSettings


async def provider_options(settings: Settings, clock: Clock) -> list[ProviderOptions]:
    """What the providers live by, their keys included. Raises SettingsError with what is wrong with any of them."""
    options, problems = list[ProviderOptions](), list[str]()
    for name in settings.providers:
        try:
            provider = settings.provider(name)
            source = _key_source(provider, clock)
            key = provider.api_key.get_secret_value()
            if not key and source is not None:
                key = await _first_key(name, source)
            options.append(_provider_options(name, provider, key, source))
        except SettingsError as error:
            problems += error.problems
    if problems:
        raise SettingsError(problems)
    return options


def _key_source(settings: ProviderSettings, clock: Clock) -> KeySource | None:
    """Where the key is read again once it is refused; None where it stays what it is."""
    if settings.api_key_file is not None:
        return key_file(settings.api_key_file)
    return key_command(settings.api_key_command, clock) if settings.api_key_command else None


async def _first_key(name: str, source: KeySource) -> str:
    """The key that a command prints. Raises SettingsError."""
    try:
        key = await source()
    except (OSError, ValueError) as error:
        said = reason(error) if isinstance(error, OSError | UnicodeError) else str(error)
        if isinstance(error, OSError) and error.filename is not None:
            said = f"cannot run {error.filename}: {said}"
        raise SettingsError([f"providers.{name}.api_key_command: {said}"]) from None
    if not key:
        raise SettingsError([f"providers.{name}.api_key_command: the command printed nothing"])
    return key


def _limits(settings: ProviderSettings) -> CallLimits | None:
    if settings.max_concurrent_calls is None and settings.max_calls_per_minute is None:
        return None
    return CallLimits(
        max_concurrent=settings.max_concurrent_calls,
        max_starts=settings.max_calls_per_minute,
        per_seconds=60.0,
        max_wait=settings.max_wait_seconds,
        max_waiting=settings.max_waiting_calls,
    )


def _provider_options(name: str, settings: ProviderSettings, key: str, source: KeySource | None) -> ProviderOptions:
    return ProviderOptions(
        name=name,
        format=settings.format,
        base_url=settings.base_url,
        api_key=key,
        key_source=source,
        limits=_limits(settings),
        ca_file=settings.ca_file,
        headers={key: value.get_secret_value() for key, value in settings.headers.items()},
        timeouts=Timeouts(
            connect=settings.connect_timeout_seconds,
            first_token=settings.first_token_timeout_seconds,
            idle=settings.idle_timeout_seconds,
            total=settings.total_timeout_seconds,
        ),
        max_tokens_field=settings.max_tokens_field,
        is_usage_requested=settings.is_usage_requested,
        default_max_output_tokens=settings.default_max_output_tokens,
        is_cache_marked=settings.is_cache_marked,
        script_root=settings.script_root or Path(),
    )


def model_catalog(settings: Settings, public: PublicList) -> ModelCatalog:
    """What is known of models, and who stands in for them."""
    own = {
        name: OwnFacts(
            context_window=model.context_window_tokens,
            max_output_tokens=model.max_output_tokens,
            capabilities=ModelCapabilities.of(model.capabilities),
            fallbacks=tuple(model.fallbacks),
        )
        for name, model in settings.models.items()
    }
    named = [f"{SCRIPTED}/{name}" for name in SCRIPTED_MODELS]
    named += [name for name in (settings.defaults.model, settings.defaults.small_model) if name]
    return ModelCatalog(own, _base_urls(settings), public, settings.retries.cool_down_seconds, named)


def _base_urls(settings: Settings) -> dict[str, str]:
    return {name: provider.base_url for name, provider in settings.providers.items()}


def price_list(settings: Settings, public: PublicList) -> PriceList:
    """What model calls cost."""
    own = {
        name: ModelPrice(
            input_usd=model.input_usd_per_million,
            output_usd=model.output_usd_per_million,
            cache_read_usd=model.cache_read_usd_per_million,
            cache_write_usd=model.cache_write_usd_per_million,
            is_flat_rate=model.flat_rate,
        )
        for name, model in settings.models.items()
    }
    return PriceList(own, _base_urls(settings), public)

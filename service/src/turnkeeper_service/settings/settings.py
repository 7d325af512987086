"""What an operator can set: flag over environment over file over default, checked once, then frozen.

`Settings.load` is the only place that looks at the environment, and it is handed in. Nothing here is global.
"""

from __future__ import annotations

import difflib
import shutil
import ssl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from turnkeeper_service.header_text import clean_key, is_header_name
from turnkeeper_service.providers.http.addresses import base_url_problem

from .layers import (
    OTHER_NAMES,
    PREFIX,
    SHORT_NAMES,
    Key,
    Layer,
    SettingsError,
    anchor,
    dotted,
    from_environment,
    from_file,
    from_flags,
    is_setting,
    merge,
    place_of,
    reason,
)
from .tables import (
    TABLES_BY_NAME,
    AuthSettings,
    DefaultSettings,
    LimitSettings,
    McpName,
    McpSettings,
    ModelName,
    ModelSettings,
    ProviderName,
    ProviderSettings,
    RetentionSettings,
    RetrySettings,
    ServerSettings,
    StoreSettings,
    Table,
    TlsSettings,
    ToolSettings,
    is_loopback,
)


class Settings(BaseSettings):
    """All settings, merged and checked."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    retention: RetentionSettings = RetentionSettings()
    limits: LimitSettings = LimitSettings()
    auth: AuthSettings = AuthSettings()
    tls: TlsSettings = TlsSettings()
    providers: dict[ProviderName, ProviderSettings] = {}
    models: dict[ModelName, ModelSettings] = {}
    retries: RetrySettings = RetrySettings()
    tools: ToolSettings = ToolSettings()
    mcp: dict[McpName, McpSettings] = {}
    defaults: DefaultSettings = DefaultSettings()
    _unusable: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: object, **__: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the constructor is given: a settings object never looks at the process by itself."""
        return (init_settings,)

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str],
        overrides: Mapping[str, str] | None = None,
        *,
        config: str | Path | None = None,
        cwd: Path | None = None,
    ) -> Settings:
        """Merge flags, environment, file and defaults.

        ``overrides`` are flags: a dotted key as the file would write it, and its value as text. ``config`` names the
        file; without it the environment does, else the usual places are looked at. Raises `SettingsError`.
        """
        cwd, home = cwd or Path.cwd(), Path(environ.get("HOME") or "/")
        layers = [from_flags(overrides or {}), from_environment(environ, cls.model_fields)]
        path = find_config(environ, config, cwd=cwd)
        if path is not None:
            layers.append(from_file(path))
        data_home = Path(environ.get("XDG_DATA_HOME") or home / ".local/share")
        layers.append(Layer({"server": {"data_dir": str(data_home / "turnkeeper")}}, lambda key: "the default"))
        merged: dict[str, Any] = {}
        for layer in reversed(layers):
            anchor(layer.values, cwd, home)
            merge(merged, layer.values)
        try:
            settings = cls(**merged)
        except ValidationError as error:
            raise SettingsError([_explain(layers, item) for item in error.errors(include_url=False)]) from None
        problems = [f"{place_of(layers, key)}: {dotted(key)}: {text}" for key, text in settings._contradictions()]
        if problems:
            raise SettingsError(problems)
        return settings._with_keys(environ)

    def provider(self, name: str) -> ProviderSettings:
        """A provider that is going to be used. Raises `SettingsError` if one of its files is not what it was to be."""
        if name in self._unusable:
            raise SettingsError([self._unusable[name]])
        if name in self.providers:
            return self.providers[name]
        if name == "scripted":
            return ProviderSettings(format="scripted")
        raise SettingsError([f"providers.{name}: no such provider is configured"])

    def missing_programs(self, path: str) -> list[str]:
        """What is wrong with the programs of tool servers; ``path`` has the folders where they are looked for."""
        problems = []
        for name, server in self.mcp.items():
            own = server.env.get("PATH")
            folders = path if own is None else own.get_secret_value()
            if server.command and shutil.which(server.command, path=folders) is None:
                problems.append(f"mcp.{name}.command: there is no program {server.command}")
        return problems

    def _contradictions(self) -> Iterator[tuple[Key, str]]:
        for name in ("grpc_address", "http_address"):
            address = getattr(self.server, name)
            if self.auth.mode == "none" and not is_loopback(address):
                yield (
                    ("server", name),
                    f'{address} is reached from other machines, and auth.mode "none" lets everybody in: '
                    'set auth.mode to "token", or listen on 127.0.0.1',
                )
        if self.auth.mode == "token" and self.auth.token_file is None:
            yield ("auth", "token_file"), 'auth.mode "token" needs it'
        tls = self.tls
        if (tls.cert_file is None) != (tls.key_file is None):
            yield ("tls", "cert_file" if tls.cert_file is None else "key_file"), "a certificate and a key come together"
        if tls.client_ca_file is not None and tls.cert_file is None:
            yield ("tls", "client_ca_file"), "tls.cert_file and tls.key_file are needed too"
        if tls.require_client_cert and tls.client_ca_file is None:
            yield ("tls", "require_client_cert"), "tls.client_ca_file is needed to check them"
        if tls.client_ca_file is not None and not tls.require_client_cert:
            # gRPC for Python cannot ask for a certificate without demanding one; half of it would be a surprise.
            yield ("tls", "client_ca_file"), "has no effect unless tls.require_client_cert is true"
        for name, provider in self.providers.items():
            if provider.format != "scripted" and (problem := base_url_problem(provider.base_url)):
                yield ("providers", name, "base_url"), problem
        yield from self._mcp_contradictions()
        yield from self._unknown(("defaults", "model"), [self.defaults.model])
        if self.defaults.small_model is not None:
            yield from self._unknown(("defaults", "small_model"), [self.defaults.small_model])
        for name, model in self.models.items():
            key = ("models", name, "fallbacks")
            yield from self._unknown(("models", name), [name])
            yield from self._unknown(key, model.fallbacks)
            if len({name, *model.fallbacks}) <= len(model.fallbacks):
                yield key, "a model stands in for others once, and never for itself"

    def _unknown(self, key: Key, models: Sequence[str]) -> Iterator[tuple[Key, str]]:
        for model in models:
            named = model.partition("/")[0]
            if named != "scripted" and named not in self.providers:
                yield key, f"{model} needs a table [providers.{named}]"

    def _mcp_contradictions(self) -> Iterator[tuple[Key, str]]:
        prefixes: dict[str, str] = {}
        for name, server in self.mcp.items():
            if bool(server.command) == bool(server.url):
                yield ("mcp", name), "needs either a command or a url"
            elif server.url and not server.url.startswith(("http://", "https://")):
                yield ("mcp", name, "url"), "must start with http:// or https://"
            prefix = f"{name}_" if server.prefix is None else server.prefix
            if prefix in prefixes:
                yield ("mcp", name), f"its tools have the prefix of mcp.{prefixes[prefix]}"
            prefixes.setdefault(prefix, name)

    def _with_keys(self, environ: Mapping[str, str]) -> Settings:
        """Fetch the keys. What is missing is kept for whoever wants to use that provider."""
        providers, missing = dict(self.providers), dict[str, str]()
        for name, provider in self.providers.items():
            if provider.ca_file is not None:
                try:
                    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(provider.ca_file)
                except OSError as error:
                    said = "no certificates, PEM" if isinstance(error, ssl.SSLError) else reason(error)
                    missing[name] = f"providers.{name}.ca_file: cannot use {provider.ca_file}: {said}"
            for header in provider.headers:
                if not is_header_name(header):
                    missing[name] = f"providers.{name}.headers: {header!r} is no name of a header"
            if provider.api_key.get_secret_value():
                # What it beats is forgotten, so that it is not read again when the key is refused.
                providers[name] = provider.model_copy(update={"api_key_file": None, "api_key_command": []})
                continue
            value, problem = _key_of(provider, environ)
            if problem:
                missing[name] = f"providers.{name}.{problem}"
            providers[name] = provider.model_copy(update={"api_key": SecretStr(value)})
        settings = self.model_copy(update={"providers": providers})
        settings._unusable = missing
        return settings


def _key_of(provider: ProviderSettings, environ: Mapping[str, str]) -> tuple[str, str]:
    """The key of a file or of a variable, and what is wrong with it."""
    if provider.api_key_file is not None:
        setting, place = "api_key_file", str(provider.api_key_file)
    elif provider.api_key_env is not None and not provider.api_key_command:
        setting, place = "api_key_env", f"the environment variable {provider.api_key_env}"
    else:
        return "", ""
    try:
        if provider.api_key_file is not None:
            value = clean_key(provider.api_key_file.read_text(encoding="utf-8"))
            return value, "" if value else f"{setting}: {place} is empty"
        value = clean_key(environ.get(provider.api_key_env or "", ""))
        return value, "" if value else f"{setting}: {place} is not set"
    except (OSError, UnicodeDecodeError) as error:
        return "", f"{setting}: cannot read {place}: {reason(error)}"
    except ValueError as error:
        return "", f"{setting}: {place} {error}"


def find_config(environ: Mapping[str, str], config: str | Path | None, *, cwd: Path) -> Path | None:
    """The file to read. One that is named has to be there; in the usual places it may be absent."""
    named = config or environ.get(PREFIX + "CONFIG")
    if named:
        return cwd / Path(named)
    config_home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "/") / ".config")
    usual = (cwd / "turnkeeper.toml", config_home / "turnkeeper" / "config.toml")
    return next((path for path in usual if path.is_file()), None)


def known_keys() -> Iterator[tuple[Key, FieldInfo]]:
    """Every key of the file in order. NAME and PROVIDER/MODEL stand for what an operator names."""
    for table, info in Settings.model_fields.items():
        if table in TABLES_BY_NAME:
            name, model = TABLES_BY_NAME[table]
            yield from (((table, name, key), field) for key, field in model.model_fields.items())
        elif isinstance(info.annotation, type) and issubclass(info.annotation, Table):
            yield from (((table, key), field) for key, field in info.annotation.model_fields.items())


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """What is wrong with variables that begin like ours and mean nothing, with the nearest that does."""
    known = {PREFIX + "CONFIG", *SHORT_NAMES, *OTHER_NAMES}
    known |= {PREFIX + "__".join(key).upper() for key, _ in known_keys() if key[0] not in TABLES_BY_NAME}
    # Compared without what all begin with; a key may have been named without its table.
    near_by = {name.rpartition("__")[2]: name for name in sorted(known)}
    near_by |= {name.removeprefix(PREFIX): name for name in known}
    problems = []
    for name, value in sorted(environ.items()):
        if value and name.startswith(PREFIX) and name not in known and not is_setting(name, Settings.model_fields):
            near = difflib.get_close_matches(name.removeprefix(PREFIX), near_by, 1)
            hint = f"; did you mean {near_by[near[0]]}?" if near else ""
            problems.append(f"environment variable {name}: nothing has this name{hint}")
    return problems


def _explain(layers: Sequence[Layer], item: ErrorDetails) -> str:
    key = tuple(str(part) for part in item["loc"] if part != "[key]")
    place, shown = place_of(layers, key), dotted(key)
    match item["type"]:
        case "extra_forbidden":
            # A name under [providers] or [models] is the operator's own and compares with itself.
            known = {".".join((k[0], *key[1:2], *k[2:]) if k[0] in TABLES_BY_NAME else k) for k, _ in known_keys()}
            known |= set(Settings.model_fields) if len(key) == 1 else set()
            near = difflib.get_close_matches(".".join(key), sorted(known), 1)
            return f"{place}: unknown key {shown}" + (f"; did you mean {near[0]}?" if near else "")
        case "missing":
            return f"{place}: {shown} is missing"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{place}: {shown} must be a table"
    problem = item["msg"].removeprefix("Value error, ")
    is_secret = key[-1] == "api_key" or "headers" in key or "env" in key
    return f"{place}: {shown}: {problem}" + ("" if is_secret else f" (it is {item['input']!r})")

"""What an operator can set: flag over environment over file over default, checked once, then frozen.

`Settings.load` is the only place that looks at the environment, and it is handed in. Nothing here is global.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX = "TURNKEEPER_"
Key = tuple[str, ...]
# The one setting with a short name in the environment; TURNKEEPER_CONFIG names the file and is no setting.
SHORT_NAMES: dict[str, Key] = {PREFIX + "DATA_DIR": ("server", "data_dir")}
# The client's variables that begin like a table of ours.
OTHER_NAMES = {PREFIX + "TLS_CA"}
# Keys whose values are paths.
PATHS = {"data_dir", "token_file", "cert_file", "key_file", "client_ca_file", "api_key_file", "script_root"}


class SettingsError(Exception):
    """The configuration cannot be used (exit code 2). Each problem names its place, its key and what is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def split_address(address: str) -> tuple[str, int]:
    """``HOST:PORT`` in two; IPv6 hosts stand in brackets. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be HOST:PORT with a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        return str(ipaddress.IPv6Address(host[1:-1])), int(port)
    if not host or ":" in host:
        raise ValueError("must be HOST:PORT; an IPv6 host stands in brackets, all interfaces are 0.0.0.0 or [::]")
    return host, int(port)


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches the address."""
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(value: str) -> str:
    split_address(value)
    return value


def _model(value: str) -> str:
    provider, slash, name = value.partition("/")
    if not (provider and slash and name):
        raise ValueError("must be PROVIDER/MODEL")
    return value


def _unlimited(value: object) -> object:
    return None if value == "none" else value


def _json(value: object) -> object:
    # Flags and variables bring text only.
    return json.loads(value) if isinstance(value, str) else value


Address = Annotated[str, AfterValidator(_address)]
ModelName = Annotated[str, AfterValidator(_model)]
Seconds = Annotated[float, Field(gt=0)]
MaybeSeconds = Annotated[Seconds | None, BeforeValidator(_unlimited)]
Grace = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
ProviderName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Usd = Annotated[float | None, Field(ge=0)]


def setting(default: Any, description: str) -> Any:
    """A key with its default and what `docs/configuration.md` says of it."""
    return Field(default, description=description)


class Table(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


class ServerSettings(Table):
    """Where the server listens and keeps its data, and how it talks."""

    grpc_address: Address = setting("127.0.0.1:7450", "Where gRPC is served; port 0 picks a free one.")
    http_address: Address = setting("127.0.0.1:7451", "Where /metrics, /livez and /readyz are served.")
    data_dir: Path = setting(
        Path("~/.local/share/turnkeeper"),
        "The data directory, by default `$XDG_DATA_HOME/turnkeeper`. Short name: `TURNKEEPER_DATA_DIR`.",
    )
    drain_timeout_seconds: Grace = setting(30.0, "How long running turns have when the server goes away.")
    reflection: bool = setting(True, "Whether gRPC server reflection is offered.")
    heartbeat_interval_seconds: Seconds = setting(15.0, "How often a quiet stream carries a heartbeat.")
    max_message_bytes: Positive = setting(16 << 20, "Longest gRPC message, both ways.")
    keepalive_time_seconds: Seconds = setting(30.0, "How long a connection is quiet before it is pinged.")
    keepalive_timeout_seconds: Seconds = setting(10.0, "How long a ping may stay unanswered.")
    keepalive_min_client_interval_seconds: Grace = setting(10.0, "How often a client may ping at most.")
    max_connection_age_seconds: MaybeSeconds = setting(None, 'When a connection is asked to reconnect; "none" never.')
    max_connection_age_grace_seconds: Seconds = setting(60.0, "How long its calls may go on after that.")
    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "The least level logged.")
    log_format: Literal["auto", "json", "text"] = setting("auto", "`auto` is text on a terminal, else JSON.")


class StoreSettings(Table):
    """Where durable things go."""

    backend: Literal["sqlite"] = setting("sqlite", "What kind of store.")


class LimitSettings(Table):
    """Bounds. What exceeds one is refused, never dropped; 0 allows none."""

    max_queued_runs_per_session: Count = setting(10_000, "Runs in line in one session.")
    max_open_runs: Count = setting(100_000, "Runs accepted and not over.")
    max_running_turns: Count = setting(256, "Turns that run at the same time.")
    max_running_turns_per_tenant: Count = setting(64, "Of these, of one tenant.")
    max_prompt_bytes: Count = setting(4 << 20, "Longest prompt.")
    max_system_prompt_bytes: Count = setting(1 << 20, "Longest system prompt.")
    max_step_answer_bytes: Count = setting(8 << 20, "Longest answer of one model step.")
    max_tool_result_bytes: Count = setting(1 << 20, "Longest result of a tool.")
    max_children_per_parent: Count = setting(5, "Child turns that one turn has at the same time.")
    max_depth: Count = setting(3, "How deep child turns nest.")
    child_slot_timeout_seconds: Grace = setting(30.0, "How long a child turn waits for its slot.")
    child_timeout_seconds: Grace = setting(300.0, "How long a child turn may take.")
    max_agent_stack: Count = setting(16, "Agents stacked in one session.")
    max_steered_steps: Count = setting(10, "Steps that steering may add beyond the step limit.")
    reader_buffer_items: Positive = setting(256, "Items buffered for one reader before they merge.")
    reader_buffer_bytes: Positive = setting(1 << 20, "Bytes buffered for one reader before they merge.")
    default_page_size: Positive = setting(50, "Items of a page where the caller names no size.")
    max_page_size: Positive = setting(500, "Most items of a page.")
    partial_flush_interval_seconds: Seconds = setting(0.5, "How often open text is made durable.")
    partial_flush_bytes: Positive = setting(16 << 10, "How much new open text makes it durable at once.")
    max_tombstones_per_tenant: Count = setting(10_000, "Cancels kept for runs that were not seen yet.")
    tombstone_lifetime_seconds: Seconds = setting(86_400.0, "How long these, and ids of the deleted, stay.")
    reservation_timeout_seconds: Seconds = setting(30.0, "How long an accepted run may stay undispatched.")


class AuthSettings(Table):
    """Who may call."""

    mode: Literal["none", "token"] = setting("none", "`none` serves this machine only, as tenant `default`.")
    token_file: Path | None = setting(None, "The file of token hashes and TLS names; read again on change.")


class TlsSettings(Table):
    """TLS from files, which are read again when they change."""

    cert_file: Path | None = setting(None, "The server's certificate chain, PEM.")
    key_file: Path | None = setting(None, "Its private key, PEM.")
    client_ca_file: Path | None = setting(None, "Who signs client certificates, PEM.")
    require_client_cert: bool = setting(False, "Whether a client must show a certificate.")


class ProviderSettings(Table):
    """One provider of models. Of the three ways to give the key the first that is set wins."""

    format: Literal["openai-chat", "anthropic-messages", "scripted"] = Field(description="The wire format.")
    base_url: str = setting("", "Where its paths start, for example `https://api.openai.com/v1`.")
    api_key: SecretStr = setting(SecretStr(""), "The key itself.")
    api_key_file: Path | None = setting(None, "A file that holds the key.")
    api_key_env: str | None = setting(None, "The environment variable that holds the key.")
    headers: Annotated[dict[str, SecretStr], BeforeValidator(_json)] = setting({}, "Extra headers.")
    connect_timeout_seconds: MaybeSeconds = setting(10.0, 'Until the connection stands; or "none".')
    first_token_timeout_seconds: MaybeSeconds = setting(120.0, 'Until the first byte after it; or "none".')
    idle_timeout_seconds: MaybeSeconds = setting(120.0, 'Between two arrivals; or "none".')
    total_timeout_seconds: MaybeSeconds = setting(3600.0, 'The whole call; or "none".')
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = setting(
        "max_tokens", "Where `openai-chat` puts the output limit."
    )
    is_usage_requested: bool = setting(True, "Whether `openai-chat` asks for usage in streams.")
    default_max_output_tokens: Positive = setting(8192, "The limit that `anthropic-messages` must send.")
    is_cache_marked: bool = setting(True, "Whether `anthropic-messages` marks stable parts as cacheable.")
    script_root: Path | None = setting(None, "The folder that `scripted/file:PATH` may read from.")


class ModelSettings(Table):
    """Facts about one model, where the built-in list has none or is wrong."""

    context_window_tokens: Positive | None = setting(None, "Tokens that fit, prompt and answer.")
    max_output_tokens: Positive | None = setting(None, "Most tokens of an answer.")
    input_usd_per_million: Usd = setting(None, "Price of a million input tokens.")
    output_usd_per_million: Usd = setting(None, "Price of a million output tokens.")
    cache_read_usd_per_million: Usd = setting(None, "Price of a million tokens read from the cache.")
    cache_write_usd_per_million: Usd = setting(None, "Price of a million tokens written to the cache.")
    flat_rate: bool = setting(False, "Whether it is paid for otherwise: every call costs 0.")
    capabilities: Annotated[
        frozenset[Literal["tools", "images", "reasoning", "structured_output"]] | None, BeforeValidator(_json)
    ] = setting(None, "What it can do; unset asks the built-in list.")


class DefaultSettings(Table):
    """What a session gets that does not say otherwise."""

    model: ModelName = setting("scripted/echo", "The model, as `provider/model`.")
    small_model: ModelName | None = setting(None, "The model for small work; unset takes `model`.")
    system_prompt: str = setting("", "The system prompt.")
    max_steps: Count = setting(50, "Most model steps of one turn.")
    cancel_grace_seconds: Grace = setting(2.0, "How long cancelled work has before it is detached.")
    stop_grace_seconds: Grace = setting(30.0, "How long a stop has before it becomes an abort.")
    run_timeout_seconds: MaybeSeconds = setting(None, 'Most time of one run from its start; or "none".')
    auto_summarize: bool = setting(True, "Whether a long context is summarised by itself.")


TABLES_BY_NAME: dict[str, tuple[str, type[Table]]] = {
    "providers": ("NAME", ProviderSettings),
    "models": ("PROVIDER/MODEL", ModelSettings),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """Values of one source, and where in it a key stands."""

    values: dict[str, Any]
    place: Callable[[Key], str]


class Settings(BaseSettings):
    """All settings, merged and checked."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    limits: LimitSettings = LimitSettings()
    auth: AuthSettings = AuthSettings()
    tls: TlsSettings = TlsSettings()
    providers: dict[ProviderName, ProviderSettings] = {}
    models: dict[ModelName, ModelSettings] = {}
    defaults: DefaultSettings = DefaultSettings()
    _missing_keys: dict[str, str] = PrivateAttr(default_factory=dict)

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
        layers = [_from_flags(overrides or {}), _from_environment(environ)]
        path = find_config(environ, config, cwd=cwd)
        if path is not None:
            layers.append(_from_file(path))
        data_home = Path(environ.get("XDG_DATA_HOME") or home / ".local/share")
        layers.append(Layer({"server": {"data_dir": str(data_home / "turnkeeper")}}, lambda key: "the default"))
        merged: dict[str, Any] = {}
        for layer in reversed(layers):
            _anchor(layer.values, cwd, home)
            _merge(merged, layer.values)
        try:
            settings = cls(**merged)
        except ValidationError as error:
            raise SettingsError([_explain(layers, item) for item in error.errors(include_url=False)]) from None
        problems = [f"{_place(layers, key)}: {_dotted(key)}: {text}" for key, text in settings._contradictions()]
        if problems:
            raise SettingsError(problems)
        return settings._with_keys(environ)

    def provider(self, name: str) -> ProviderSettings:
        """A provider that is going to be used. Raises `SettingsError` if its key is not where it was to be."""
        if name in self._missing_keys:
            raise SettingsError([self._missing_keys[name]])
        if name in self.providers:
            return self.providers[name]
        if name == "scripted":
            return ProviderSettings(format="scripted")
        raise SettingsError([f"providers.{name}: no such provider is configured"])

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
        if self.limits.default_page_size > self.limits.max_page_size:
            yield ("limits", "default_page_size"), "is more than limits.max_page_size"
        for name, provider in self.providers.items():
            if provider.format != "scripted" and not provider.base_url.startswith(("http://", "https://")):
                yield ("providers", name, "base_url"), "must start with http:// or https://"
        for name in ("model", "small_model"):
            model: str | None = getattr(self.defaults, name)
            named = model.partition("/")[0] if model is not None else "scripted"
            if named != "scripted" and named not in self.providers:
                yield ("defaults", name), f"{model} needs a table [providers.{named}]"

    def _with_keys(self, environ: Mapping[str, str]) -> Settings:
        """Fetch the keys. What is missing is kept for whoever wants to use that provider."""
        providers, missing = dict(self.providers), dict[str, str]()
        for name, provider in self.providers.items():
            key = f"providers.{name}.api_key"
            if provider.api_key.get_secret_value():
                continue
            value = ""
            if provider.api_key_file is not None:
                try:
                    value = provider.api_key_file.read_text(encoding="utf-8").strip()
                except (OSError, UnicodeDecodeError) as error:
                    missing[name] = f"{key}_file: cannot read {provider.api_key_file}: {_reason(error)}"
                else:
                    if not value:
                        missing[name] = f"{key}_file: {provider.api_key_file} is empty"
            elif provider.api_key_env is not None:
                value = environ.get(provider.api_key_env, "").strip()
                if not value:
                    missing[name] = f"{key}_env: the environment variable {provider.api_key_env} is not set"
            providers[name] = provider.model_copy(update={"api_key": SecretStr(value)})
        settings = self.model_copy(update={"providers": providers})
        settings._missing_keys = missing
        return settings


def find_config(environ: Mapping[str, str], config: str | Path | None, *, cwd: Path) -> Path | None:
    """The file to read. One that is named has to be there; in the usual places it may be absent."""
    named = config or environ.get(PREFIX + "CONFIG")
    if named:
        return cwd / Path(named)
    config_home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "/") / ".config")
    usual = (cwd / "turnkeeper.toml", config_home / "turnkeeper" / "config.toml")
    return next((path for path in usual if path.is_file()), None)


def known_keys() -> Iterator[tuple[Key, FieldInfo]]:
    """Every key of the file in order. NAME stands for a provider's name, PROVIDER/MODEL for a model's."""
    for table, info in Settings.model_fields.items():
        if table in TABLES_BY_NAME:
            name, model = TABLES_BY_NAME[table]
            yield from (((table, name, key), field) for key, field in model.model_fields.items())
        elif isinstance(info.annotation, type) and issubclass(info.annotation, Table):
            yield from (((table, key), field) for key, field in info.annotation.model_fields.items())


def _from_flags(overrides: Mapping[str, str]) -> Layer:
    values: dict[str, Any] = {}
    for text, value in overrides.items():
        try:
            node: Any = tomllib.loads(f"{text} = 0")
        except tomllib.TOMLDecodeError:
            raise SettingsError([f"flag {text}: not a dotted key"]) from None
        key: list[str] = []
        while isinstance(node, dict) and len(node) == 1:
            ((part, node),) = node.items()
            key.append(part)
        _put(values, tuple(key), value, f"flag {text}")
    return Layer(values, lambda key: f"flag {_dotted(key)}")


def _from_environment(environ: Mapping[str, str]) -> Layer:
    values: dict[str, Any] = {}
    names: dict[Key, str] = {}
    for name, value in sorted(environ.items()):
        rest = name.removeprefix(PREFIX)
        if rest == name or not value or name in OTHER_NAMES:
            continue
        if name in SHORT_NAMES:
            key = SHORT_NAMES[name]
        elif "__" in rest or rest.lower().partition("_")[0] in Settings.model_fields:
            parts = rest.split("__")
            # Only names of models tell upper from lower case.
            key = tuple(part if parts[0] == "MODELS" and i == 1 else part.lower() for i, part in enumerate(parts))
        else:
            continue
        names[key] = name
        _put(values, key, value, name)

    def place(key: Key) -> str:
        related = (name for known, name in names.items() if known[: len(key)] == key or key[: len(known)] == known)
        return f"environment variable {next(related, PREFIX + '*')}"

    return Layer(values, place)


def _from_file(path: Path) -> Layer:
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: cannot read it: {_reason(error)}"]) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{path}: not TOML: {error}"]) from None
    return Layer(values, lambda key: f"{path}:{_line(text, key)}")


def _line(text: str, key: Key) -> int:
    """Where a key of a valid TOML text begins: after the last beginning of the text that is TOML without it."""
    lines, start = text.splitlines(), 1
    for number in range(1, len(lines) + 1):
        try:
            values = tomllib.loads("\n".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue
        if _has(values, key):
            return start
        start = number + 1
    return start


def _has(values: object, key: Key) -> bool:
    for part in key:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def _put(values: dict[str, Any], key: Key, value: str, place: str) -> None:
    node = values
    for part in key[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise SettingsError([f"{place}: {part} is a value elsewhere and a table here"])
    if isinstance(node.get(key[-1]), dict):
        raise SettingsError([f"{place}: {key[-1]} is a table elsewhere and a value here"])
    node[key[-1]] = value


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            node = into.get(key)
            node = into[key] = dict(node) if isinstance(node, dict) else {}
            _merge(node, value)
        else:
            into[key] = value


def _anchor(values: dict[str, Any], cwd: Path, home: Path) -> None:
    """Make the paths absolute, so that a later change of the folder means nothing."""
    for key, value in values.items():
        if isinstance(value, dict):
            _anchor(value, cwd, home)
        elif key in PATHS and isinstance(value, str):
            values[key] = str(home / value[2:] if value.startswith("~/") else cwd / value)


def _place(layers: Sequence[Layer], key: Key) -> str:
    for length in range(len(key), 0, -1):
        for layer in layers:
            if _has(layer.values, key[:length]):
                return layer.place(key[:length])
    return "the defaults"


def _explain(layers: Sequence[Layer], item: ErrorDetails) -> str:
    key = tuple(str(part) for part in item["loc"] if part != "[key]")
    place, dotted = _place(layers, key), _dotted(key)
    match item["type"]:
        case "extra_forbidden":
            # A name under [providers] or [models] is the operator's own and compares with itself.
            known = {".".join((k[0], *key[1:2], *k[2:]) if k[0] in TABLES_BY_NAME else k) for k, _ in known_keys()}
            known |= set(Settings.model_fields) if len(key) == 1 else set()
            near = difflib.get_close_matches(".".join(key), sorted(known), 1)
            return f"{place}: unknown key {dotted}" + (f"; did you mean {near[0]}?" if near else "")
        case "missing":
            return f"{place}: {dotted} is missing"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{place}: {dotted} must be a table"
    problem = item["msg"].removeprefix("Value error, ")
    is_secret = key[-1] == "api_key" or "headers" in key
    return f"{place}: {dotted}: {problem}" + ("" if is_secret else f" (it is {item['input']!r})")


def _dotted(key: Key) -> str:
    return ".".join(part if part.replace("-", "").replace("_", "").isalnum() else json.dumps(part) for part in key)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "not UTF-8 text"

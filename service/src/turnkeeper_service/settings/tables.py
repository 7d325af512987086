"""The tables of the configuration: every key with its type, its bounds, its default and what it means."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from turnkeeper_service.header_text import AROUND, clean_headers, clean_key


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
    try:
        return json.loads(value) if isinstance(value, str) else value
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _key(value: SecretStr) -> SecretStr:
    return SecretStr(clean_key(value.get_secret_value()))


def _headers(values: dict[str, SecretStr]) -> dict[str, SecretStr]:
    plain = {name: value.get_secret_value() for name, value in values.items()}
    return {name: SecretStr(value) for name, value in clean_headers(plain).items()}


def _trimmed(value: object) -> object:
    return value.strip(AROUND) if isinstance(value, str) else value


Address = Annotated[str, AfterValidator(_address)]
ModelName = Annotated[str, AfterValidator(_model)]
Seconds = Annotated[float, Field(gt=0)]
MaybeSeconds = Annotated[Seconds | None, BeforeValidator(_unlimited)]
MaybeDays = Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_unlimited)]
Grace = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
ProviderName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
McpName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
Headers = Annotated[dict[str, SecretStr], BeforeValidator(_json), AfterValidator(_headers)]
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


class RetentionSettings(Table):
    """What is deleted by itself; nothing is, unless it is said here."""

    idle_session_days: MaybeDays = setting(
        None, "Sessions without a change for so long are deleted, looked for at the start and every hour."
    )


class LimitSettings(Table):
    """Bounds. What exceeds one is refused, never dropped; 0 allows none."""

    max_queued_runs_per_session: Count = setting(10_000, "Runs in line in one session.")
    max_open_runs: Count = setting(100_000, "Runs accepted and not over.")
    max_queued_bytes_per_session: Count = setting(64 << 20, "Bytes of the prompts in line in one session.")
    max_queued_bytes: Count = setting(512 << 20, "Bytes of the prompts in line in all sessions.")
    max_running_turns: Count = setting(256, "Turns that run at the same time.")
    max_running_turns_per_tenant: Count = setting(64, "Of these, of one tenant.")
    max_prompt_bytes: Count = setting(4 << 20, "Longest prompt, its attachments included.")
    max_prompt_parts: Count = setting(256, "Most texts and attachments of one prompt.")
    max_system_prompt_bytes: Count = setting(1 << 20, "Longest system prompt.")
    max_output_schema_bytes: Count = setting(32 << 10, "Longest JSON Schema that an output is to match.")
    max_step_answer_bytes: Count = setting(8 << 20, "Longest answer of one model step.")
    max_tool_result_bytes: Count = setting(1 << 20, "Longest result of a tool.")
    max_steered_steps: Count = setting(10, "Steps that steering may add beyond the step limit.")
    partial_flush_interval_seconds: Seconds = setting(0.5, "How often open text is made durable.")
    partial_flush_bytes: Positive = setting(16 << 10, "How much new open text makes it durable at once.")
    max_tombstones_per_tenant: Count = setting(10_000, "Cancels kept for runs that were not seen yet.")


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
    """One provider of models. Of the four ways to give the key the first that is set wins."""

    format: Literal["openai-chat", "openai-responses", "anthropic-messages", "gemini", "scripted"] = Field(
        description="The wire format."
    )
    base_url: Annotated[str, BeforeValidator(_trimmed)] = setting(
        "", "Where its paths start, for example `https://api.openai.com/v1`."
    )
    api_key: Annotated[SecretStr, AfterValidator(_key)] = setting(SecretStr(""), "The key itself.")
    api_key_file: Path | None = setting(None, "A file that holds the key; read again when the key is refused.")
    api_key_command: Annotated[list[str], BeforeValidator(_json)] = setting(
        [], "A program and its arguments that print the key; run again when the key is refused."
    )
    api_key_env: str | None = setting(None, "The environment variable that holds the key.")
    headers: Headers = setting({}, "Extra headers.")
    ca_file: Path | None = setting(None, "Certificates to trust instead of the usual ones, PEM.")
    max_concurrent_calls: Positive | None = setting(None, "Calls that may be open at the same time.")
    max_calls_per_minute: Positive | None = setting(None, "Calls that may begin within a minute.")
    max_wait_seconds: Grace = setting(60.0, "How long a call waits for its turn; it fails then.")
    max_waiting_calls: Count = setting(10_000, "Calls that may wait; one more fails at once.")
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
    ] = setting(None, "What it can do; unset leaves it to the vendor to refuse.")
    fallbacks: Annotated[list[ModelName], BeforeValidator(_json)] = setting(
        [], "Models that are asked, in this order, where this one fails."
    )


class RetrySettings(Table):
    """How often a model call that failed is made again, and when."""

    max_retries: Count = setting(3, "Most retries of one step; 0 makes none.")
    first_delay_seconds: Grace = setting(5.0, "How long the first retry waits; each later one waits twice as long.")
    max_delay_seconds: Grace = setting(60.0, "The longest wait; a vendor's own hint counts below it.")
    jitter: Annotated[float, Field(ge=0, le=1)] = setting(0.1, "Share by which a wait is stretched at random.")
    cool_down_seconds: Grace = setting(60.0, "How long a model that failed stands back behind its fallbacks.")


class ToolSettings(Table):
    """Tools that run in the server, and what all tools live by."""

    functions: Annotated[list[str], BeforeValidator(_json)] = setting([], "Python functions, as `package.module:name`.")
    todos: bool = setting(
        False, "Whether sessions get the tool `todos`, by which a model notes what it has to do; `Session` shows it."
    )
    timeout_seconds: Seconds = setting(120.0, "How long a call may take where its tool does not say.")
    approval_timeout_seconds: Seconds = setting(86_400.0, "How long an approval waits until its default applies.")
    approval_default: Literal["deny", "allow"] = setting("deny", "What applies then.")


class McpSettings(Table):
    """One tool server that speaks MCP: a command to run, or an address to call."""

    command: str = setting("", "The program of a server on standard input and output.")
    args: Annotated[list[str], BeforeValidator(_json)] = setting([], "Its arguments.")
    env: Annotated[dict[str, SecretStr], BeforeValidator(_json)] = setting(
        {}, "Its environment, beside `PATH`, `HOME`, `USER` and the like; it inherits nothing else."
    )
    url: str = setting("", "The address of a server over streamable HTTP.")
    headers: Headers = setting({}, "Extra headers.")
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,32}$")] | None = setting(
        None, "What the names of its tools begin with; unset for `NAME_`."
    )
    wait: bool = setting(False, "Whether runs wait for it while the server starts, at most `connect_timeout_seconds`.")
    connect_timeout_seconds: Seconds = setting(30.0, "How long it may take to connect, and to list its tools.")
    timeout_seconds: Seconds | None = setting(None, "How long a call may take; unset for `tools.timeout_seconds`.")
    replay: Literal["never", "safe", "hinted"] = setting(
        "never",
        "May a call be run again after a crash? `hinted`: where the tool says that it is idempotent or only reads.",
    )
    is_parallel: bool = setting(False, "Whether calls of it may run beside other calls of one step.")
    needs_approval: Annotated[bool | list[str], BeforeValidator(_json)] = setting(
        False, "Whether somebody has to allow each call first; or the tools, by its own names, that need it."
    )


class DefaultSettings(Table):
    """What a session gets that does not say otherwise."""

    model: ModelName = setting("scripted/echo", "The model, as `provider/model`.")
    small_model: ModelName | None = setting(None, "The model for titles and other small work; unset for the model.")
    generate_titles: bool = setting(
        True,
        "Whether a session without a title gets one, which costs a small model call; a scripted model has to be the "
        "small one to be asked.",
    )
    system_prompt: str = setting("", "The system prompt.")
    auto_summarize: bool = setting(True, "Whether a context that gets full is summarised.")
    max_steps: Count = setting(50, "Most model steps of one turn.")
    steering_mode: Literal["all", "one"] = setting(
        "all", "How many of the steers that wait a running turn takes in before a step."
    )
    cancel_grace_seconds: Grace = setting(2.0, "How long cancelled work has before it is detached.")
    stop_grace_seconds: Grace = setting(30.0, "How long a stop has before it becomes an abort.")
    run_timeout_seconds: MaybeSeconds = setting(None, 'Most time of one run from its start; or "none".')


TABLES_BY_NAME: dict[str, tuple[str, type[Table]]] = {
    "providers": ("NAME", ProviderSettings),
    "models": ("PROVIDER/MODEL", ModelSettings),
    "mcp": ("NAME", McpSettings),
}

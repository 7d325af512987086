"""What an operator says about one provider."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

KeySource = Callable[[], Awaitable[str]]
"""Reads a key anew. Raises OSError or ValueError where there is none."""


class Secret:
    """A string that never shows itself."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself, for the one place that sends it."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret('***')" if self._value else "Secret('')"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Four limits of one call, in seconds. None sets no limit."""

    connect: float | None = 10.0
    """From the start until the connection stands, TLS included."""
    first_token: float | None = 120.0
    """From the connection until the first byte of the body."""
    idle: float | None = 120.0
    """Between two arrivals, counted only while we wait for the vendor."""
    total: float | None = 3600.0
    """The whole call."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Bounds on the calls to one provider; None sets no bound."""

    max_concurrent: int | None = None
    """Calls that are open at the same time."""
    max_starts: int | None = None
    """Calls that begin within `per_seconds`."""
    per_seconds: float = 60.0
    max_wait: float = 60.0
    """Seconds for which a call waits for its turn; it fails then."""
    max_waiting: int = 10_000
    """Calls that wait; one more fails at once."""

    def __post_init__(self) -> None:
        if self.max_concurrent == 0 or self.max_starts == 0:
            raise ValueError("a limit of 0 calls lets none through")


@dataclass(frozen=True, slots=True)
class ProviderOptions:
    """One configured provider."""

    name: str
    """The name before the first slash of a model; also marks which reasoning may go back to this provider."""
    format: str
    """The wire format, one of those that `registry.FORMATS` lists."""
    base_url: str = ""
    """Where the format's paths start, for example ``https://api.openai.com/v1``."""
    api_key: Secret | str = field(default_factory=lambda: Secret(""))
    """Sent as the format wants it; empty sends none. A plain string is accepted and hidden."""
    key_source: KeySource | None = None
    """Where the key is read again when the vendor refuses it with 401; `credentials` has files and commands."""
    limits: CallLimits | None = None
    """Bounds on the calls to this provider."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Extra headers of every request; they win over our own. Values are kept out of ``repr``."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    ca_file: Path | None = None
    """Certificates to trust instead of the usual ones."""
    max_tokens_field: str = "max_tokens"
    """``openai-chat``: where the output limit goes; some vendors only take ``max_completion_tokens``."""
    is_usage_requested: bool = True
    """``openai-chat``: ask for usage by ``stream_options``; a few servers refuse the field."""
    default_max_output_tokens: int = 8192
    """``anthropic-messages``: the format demands a limit where the request sets none."""
    is_cache_marked: bool = True
    """``anthropic-messages``: mark the prompt's stable parts as cacheable."""
    script_root: Path = Path()
    """``scripted``: the folder that scripts must be in."""

    def __post_init__(self) -> None:
        if isinstance(self.api_key, str):
            object.__setattr__(self, "api_key", Secret(self.api_key))

    @property
    def key(self) -> str:
        """The key in plain, for the one place that sends it."""
        return self.api_key.reveal() if isinstance(self.api_key, Secret) else self.api_key

    def __repr__(self) -> str:
        return f"ProviderOptions(name={self.name!r}, format={self.format!r}, base_url={self.base_url!r})"

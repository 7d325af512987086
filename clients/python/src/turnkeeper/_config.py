"""Where the server is and how to reach it: arguments first, then the environment, then defaults."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from turnkeeper._options import named_options, span

if TYPE_CHECKING:
    from turnkeeper._errors import TurnkeeperError

OnConnection: TypeAlias = "Callable[[TurnkeeperError | None], None]"

DEFAULT_ADDRESS = "127.0.0.1:7450"
# A stream carries a sign of life every 15 s; a stream that is silent for three of them is taken for lost.
SILENCE_SECONDS = 45.0


@named_options
@dataclass(frozen=True)
class Backoff:
    """How long a lost stream waits before it connects again; each wait is random, up to three times the one before."""

    initial: float = 0.25
    """The shortest wait, in seconds."""
    maximum: float = 10.0
    """The longest wait, in seconds."""
    patience: float | None = 60.0
    """Seconds without a connection after which the stream gives up and raises; None never gives up."""

    def __post_init__(self) -> None:
        span("initial", self.initial)
        span("maximum", self.maximum)
        if self.patience is not None:
            span("patience", self.patience)

    def next(self, previous: float) -> float:
        """The wait after one of `previous` seconds; 0 before the first."""
        return min(self.maximum, random.uniform(self.initial, max(previous, self.initial) * 3))


@dataclass(frozen=True)
class Settings:
    """What a client was made with."""

    address: str = DEFAULT_ADDRESS
    token: str | None = field(default=None, repr=False)
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    backoff: Backoff = Backoff()
    silence: float = SILENCE_SECONDS
    on_connection: OnConnection | None = None

    @classmethod
    def load(
        cls,
        address: str | None,
        token: str | None,
        tls_ca: str | os.PathLike[str] | None,
        *,
        tls_certificate: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        backoff: Backoff | None = None,
        on_connection: OnConnection | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Settings:
        """Take what is given, and the rest from `TURNKEEPER_ADDRESS`, `TURNKEEPER_TOKEN` and `TURNKEEPER_TLS_CA`."""
        ca = tls_ca if tls_ca is not None else environ.get("TURNKEEPER_TLS_CA")
        if (tls_certificate is None) != (tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: give both or none")
        if tls_certificate is not None and not ca:
            raise ValueError("tls_certificate needs tls_ca: without it the connection is not encrypted")
        return cls(
            address=address or environ.get("TURNKEEPER_ADDRESS") or DEFAULT_ADDRESS,
            token=token or environ.get("TURNKEEPER_TOKEN") or None,
            tls_ca=Path(ca) if ca else None,
            tls_certificate=Path(tls_certificate) if tls_certificate is not None else None,
            tls_key=Path(tls_key) if tls_key is not None else None,
            backoff=backoff or Backoff(),
            on_connection=on_connection,
        )

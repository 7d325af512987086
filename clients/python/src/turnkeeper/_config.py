"""Where the server is and how to reach it: arguments first, then the environment, then defaults."""

from __future__ import annotations

import os
import random
import re
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
# What gRPC takes beside HOST:PORT.
_TARGETS = r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds|google-c2p):"


@named_options
@dataclass(frozen=True)
class Backoff:
    """How long a lost stream waits before it connects again; each wait is random, up to three times the one before."""

    initial: float = 0.25
    """The shortest wait, in seconds."""
    maximum: float = 10.0
    """The longest wait, in seconds."""
    patience: float | None = 60.0
    """Seconds without a connection after which the stream gives up and raises; None never gives up.

    The first connection of a client is given up within 5 s all the same, unless it is None."""

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
        """Take what is given, and the rest from `TURNKEEPER_ADDRESS`, `TURNKEEPER_TOKEN` and `TURNKEEPER_TLS_CA`.

        Raises:
            ValueError: The address is none, or the files of TLS do not belong together.
        """
        ca = tls_ca if tls_ca is not None else environ.get("TURNKEEPER_TLS_CA")
        if (tls_certificate is None) != (tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: give both or none")
        if tls_certificate is not None and not ca:
            raise ValueError("tls_certificate needs tls_ca: without it the connection is not encrypted")
        return cls(
            address=_checked(address or environ.get("TURNKEEPER_ADDRESS") or DEFAULT_ADDRESS),
            token=token or environ.get("TURNKEEPER_TOKEN") or None,
            tls_ca=Path(ca) if ca else None,
            tls_certificate=Path(tls_certificate) if tls_certificate is not None else None,
            tls_key=Path(tls_key) if tls_key is not None else None,
            backoff=backoff or Backoff(),
            on_connection=on_connection,
        )


def host_and_port(address: str) -> tuple[str, int] | None:
    """The parts of `host:port`, or of `[IPv6 address]:port`; None for anything else, such as gRPC's other targets."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/\[\]]+)):(\d{1,5})", address)
    if found is None or not 0 < int(found[3]) < 65536:
        return None
    return found[1] or found[2], int(found[3])


def _checked(address: str) -> str:
    """An address that gRPC can use."""
    if host_and_port(address) is not None or re.match(_TARGETS, address):
        return address
    bare = re.sub(r"^\w+://", "", address).split("/")[0]
    port = DEFAULT_ADDRESS.rpartition(":")[2]
    near = (bare, f"{bare}:{port}", f"[{bare}]:{port}")
    meant = next((f"; did you mean {found!r}?" for found in near if host_and_port(found) is not None), "")
    raise ValueError(f"the address must be HOST:PORT, not {address!r}{meant}")

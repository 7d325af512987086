"""Who calls: tokens and TLS client names, mapped to a tenant and to what it may do.

The token file is TOML, with tables ``[[tokens]]`` {sha256, tenant, name, roles} and ``[[tls_names]]`` {name, tenant,
roles}; docs/configuration.md shows one. It holds hashes, never tokens.

Roles: ``user`` may do everything with its own tenant's sessions, runs and agents; ``read`` may get, list and watch
there; ``worker`` may serve tools there; ``admin`` may call AdminService, which reaches all tenants. No role implies
another, but ``user`` covers ``read`` and ``worker``.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from turnkeeper_service.errors import Reason, Refused

Role = Literal["user", "read", "worker", "admin"]
ROLES: frozenset[str] = frozenset(get_args(Role))
COVERED: Mapping[str, frozenset[str]] = {"user": frozenset({"read", "worker"})}
ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
HASH = re.compile(r"[0-9a-f]{64}")
# A changed file is noticed at the first call after so many seconds.
RELOAD_SECONDS = 2.0
# Far above any token: a longer one is refused before it is hashed.
MAX_TOKEN_LENGTH = 4096


class TokenMissing(Refused):
    """The call brings neither a token nor a client certificate that is known."""

    def __init__(self) -> None:
        super().__init__(Reason.ERROR_REASON_TOKEN_MISSING, "send the metadata 'authorization: Bearer TOKEN'")


class TokenInvalid(Refused):
    """The token is not known. The message does not say more, and never shows it."""

    def __init__(self) -> None:
        super().__init__(Reason.ERROR_REASON_TOKEN_INVALID, "the token is not valid")


class NotAllowed(Refused):
    """The principal lacks a role."""

    def __init__(self, role: str) -> None:
        super().__init__(Reason.ERROR_REASON_NOT_ALLOWED, f"this needs the role {role!r}", metadata={"role": role})


class TokenFileError(Exception):
    """The token file cannot be used. The message names the file and the entry."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who calls. ``name`` is for people and logs; rights hang on ``tenant`` and ``roles``."""

    tenant: str
    name: str
    roles: frozenset[str]

    def has(self, role: Role) -> bool:
        """Whether it has the role, or one that covers it."""
        return role in self.roles or any(role in COVERED.get(own, ()) for own in self.roles)

    def require(self, role: Role) -> None:
        """Raise `NotAllowed` without the role."""
        if not self.has(role):
            raise NotAllowed(role)


EVERYBODY = Principal("default", "anonymous", ROLES)


@dataclass(frozen=True, slots=True)
class Known:
    """The content of a token file."""

    tokens: Sequence[tuple[bytes, Principal]]
    tls_names: Mapping[str, Principal]


def hash_token(token: str) -> str:
    """What the token file holds of a token. Tokens are minted with 256 random bits, so that a plain hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


def mint_token() -> str:
    """A new token."""
    return "tk_" + secrets.token_urlsafe(32)


def read_token_file(path: Path) -> Known:
    """Read a token file. Raises `TokenFileError`."""
    try:
        return parse_tokens(path.read_text(encoding="utf-8-sig"), str(path))
    except OSError as error:
        raise TokenFileError(f"{path}: cannot read it: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TokenFileError(f"{path}: not UTF-8 text") from None


def parse_tokens(text: str, path: str) -> Known:
    """Parse the text of a token file that ``path`` names. Raises `TokenFileError`."""
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise TokenFileError(f"{path}: not TOML: nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise TokenFileError(f"{path}: not TOML: {error}") from None
    for unknown in values.keys() - {"tokens", "tls_names"}:
        raise TokenFileError(f"{path}: unknown table {unknown}; it holds [[tokens]] and [[tls_names]]")
    tokens = [
        (
            bytes.fromhex(_text(place, entry, "sha256", HASH, "64 lower-case hexadecimal digits")),
            _principal(place, entry),
        )
        for place, entry in _entries(path, values, "tokens", {"sha256", "tenant", "name", "roles"})
    ]
    tls_names: dict[str, Principal] = {}
    for place, entry in _entries(path, values, "tls_names", {"name", "tenant", "roles"}):
        principal = _principal(place, entry)
        if principal.name in tls_names:
            raise TokenFileError(f"{place}: name {principal.name!r} is there twice")
        tls_names[principal.name] = principal
    if len({digest for digest, _ in tokens}) < len(tokens):
        raise TokenFileError(f"{path}: the same sha256 is there twice")
    return Known(tokens, tls_names)


def _entries(
    path: str, values: Mapping[str, Any], table: str, keys: set[str]
) -> Iterable[tuple[str, Mapping[str, Any]]]:
    entries = values.get(table, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise TokenFileError(f"{path}: {table} must be written as [[{table}]]")
    for number, entry in enumerate(entries, 1):
        place = f"{path}: [[{table}]] number {number}"
        for unknown in sorted(entry.keys() - keys):
            raise TokenFileError(f"{place}: unknown key {unknown}; it has {', '.join(sorted(keys))}")
        yield place, entry


def _text(place: str, entry: Mapping[str, Any], key: str, pattern: re.Pattern[str], wanted: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise TokenFileError(f"{place}: {key} must be {wanted}")
    return value


def _principal(place: str, entry: Mapping[str, Any]) -> Principal:
    roles = entry.get("roles")
    if not isinstance(roles, list) or not roles or not all(isinstance(role, str) and role in ROLES for role in roles):
        raise TokenFileError(f"{place}: roles must be a list of some of {', '.join(sorted(ROLES))}")
    tenant = _text(place, entry, "tenant", ID, "1 to 128 of the characters A-Z a-z 0-9 . _ : -")
    name = _text(place, entry, "name", re.compile(r"\S(?:[^\x00-\x1f\x7f]{0,198}\S)?"), "a name of 1 to 200 characters")
    return Principal(tenant, name, frozenset(roles))


class Authenticator:
    """Tells who calls. Without a token file everybody is the one tenant ``default``, with every right."""

    def __init__(
        self,
        token_file: Path | None,
        *,
        monotonic: Callable[[], float],
        on_bad_file: Callable[[str], object] = lambda message: None,
    ) -> None:
        """Read the file at once, so that a bad one stops the start.

        A file that is bad later changes nothing: the last good one stays in force, and ``on_bad_file`` is told once.
        """
        self.on_change: Callable[[], object] = lambda: None
        """Told when other principals are known than before."""
        self._path = token_file
        self._monotonic = monotonic
        self._on_bad_file = on_bad_file
        self._looked = monotonic()
        # Taken before the file is read: a change in between is then read again, not missed.
        self._version = self._look()
        self._known = Known((), {}) if token_file is None else read_token_file(token_file)

    def authenticate(
        self, metadata: Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]], peer_names: Iterable[str] = ()
    ) -> Principal:
        """Who sent these metadata over a connection whose verified client certificate carries these names.

        A token goes before a certificate, and a wrong token is refused whatever the certificate. Raises `TokenMissing`
        and `TokenInvalid`.
        """
        if self._path is None:
            return EVERYBODY
        self._reload()
        pairs = metadata.items() if isinstance(metadata, Mapping) else metadata
        values = [value for key, value in pairs if key.lower() == "authorization"]
        if values:
            return self._by_token(values)
        for name in peer_names:
            if (principal := self._known.tls_names.get(name)) is not None:
                return principal
        raise TokenMissing

    def _by_token(self, values: Sequence[str | bytes]) -> Principal:
        value = values[0]
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        scheme, _, token = text.partition(" ")
        token = token.strip()
        if len(values) > 1 or scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN_LENGTH:
            raise TokenInvalid
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        found: Principal | None = None
        # All of them, so that the time does not tell which one matched.
        for known, principal in self._known.tokens:
            if hmac.compare_digest(known, digest):
                found = principal
        if found is None:
            raise TokenInvalid
        return found

    def _look(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _reload(self) -> None:
        now = self._monotonic()
        if now - self._looked < RELOAD_SECONDS or self._path is None:
            return
        self._looked = now
        if self._look() == self._version:
            return
        self.reload()

    def reload(self) -> None:
        """Read the file now, whether or not it seems to have changed."""
        if self._path is None:
            return
        self._looked, self._version = self._monotonic(), self._look()
        try:
            known = read_token_file(self._path)
        except TokenFileError as error:
            self._on_bad_file(str(error))
            return
        if known != self._known:
            self._known = known
            self.on_change()

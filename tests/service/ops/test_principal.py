"""Who calls: tokens, TLS names, roles, and a token file that changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from turnkeeper_service import principal as module
from turnkeeper_service.errors import Reason
from turnkeeper_service.principal import (
    EVERYBODY,
    RELOAD_SECONDS,
    ROLES,
    Authenticator,
    NotAllowed,
    Principal,
    TokenFileError,
    TokenInvalid,
    TokenMissing,
    hash_token,
    mint_token,
    read_token_file,
)


class Watch:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def stanza(token: str, tenant: str = "acme", name: str = "billing", roles: str = '["user"]') -> str:
    return f'[[tokens]]\nsha256 = "{hash_token(token)}"\ntenant = "{tenant}"\nname = "{name}"\nroles = {roles}\n'


NAMES = '[[tls_names]]\nname = "billing.internal"\ntenant = "acme"\nroles = ["read"]\n'


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_without_a_file_everybody_is_the_default_tenant() -> None:
    authenticator = Authenticator(None, monotonic=Watch())
    assert authenticator.authenticate({}) == EVERYBODY == Principal("default", "anonymous", ROLES)
    assert authenticator.authenticate(bearer("anything")) == EVERYBODY


def test_a_token_names_its_principal(tmp_path: Path) -> None:
    file = write(tmp_path / "t", stanza("one") + stanza("two", "other", "ops", '["admin", "read"]'))
    authenticator = Authenticator(file, monotonic=Watch())
    assert authenticator.authenticate(bearer("one")) == Principal("acme", "billing", frozenset({"user"}))
    pairs: list[tuple[str, str | bytes]] = [("x", "y"), ("Authorization", b"bearer  two ")]
    assert authenticator.authenticate(pairs) == Principal("other", "ops", frozenset({"admin", "read"}))


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ", "Bearer one1", "Basic one", "one", "Bearer ONE", "Bearer " + "a" * 5000, "Bearer ü"],
)
def test_any_other_token_is_refused_and_not_shown(tmp_path: Path, value: str) -> None:
    authenticator = Authenticator(write(tmp_path / "t", stanza("one") + NAMES), monotonic=Watch())
    with pytest.raises(TokenInvalid) as caught:
        authenticator.authenticate({"authorization": value}, ["billing.internal"])
    assert caught.value.reason == Reason.ERROR_REASON_TOKEN_INVALID
    assert str(caught.value) == "the token is not valid"


def test_two_tokens_are_none(tmp_path: Path) -> None:
    authenticator = Authenticator(write(tmp_path / "t", stanza("one")), monotonic=Watch())
    with pytest.raises(TokenInvalid):
        authenticator.authenticate([("authorization", "Bearer one"), ("authorization", "Bearer one")])


def test_without_a_token_a_known_certificate_counts(tmp_path: Path) -> None:
    authenticator = Authenticator(write(tmp_path / "t", stanza("one") + NAMES), monotonic=Watch())
    found = authenticator.authenticate([], ["localhost", "billing.internal"])
    assert found == Principal("acme", "billing.internal", frozenset({"read"}))
    assert authenticator.authenticate(bearer("one"), ["billing.internal"]).name == "billing"
    with pytest.raises(TokenMissing) as caught:
        authenticator.authenticate([], ["localhost"])
    assert caught.value.reason == Reason.ERROR_REASON_TOKEN_MISSING


def test_all_hashes_are_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(known: bytes, given: bytes) -> bool:
        compared.append(known)
        return known == given

    authenticator = Authenticator(write(tmp_path / "t", stanza("one") + stanza("two")), monotonic=Watch())
    monkeypatch.setattr("hmac.compare_digest", compare)
    authenticator.authenticate(bearer("one"))
    assert len(compared) == 2


@pytest.mark.parametrize(
    ("roles", "role", "is_allowed"),
    [
        ({"user"}, "user", True),
        ({"user"}, "read", True),
        ({"user"}, "worker", True),
        ({"user"}, "admin", False),
        ({"read"}, "user", False),
        ({"worker"}, "read", False),
        ({"admin"}, "admin", True),
        ({"admin"}, "read", False),
    ],
)
def test_what_roles_allow(roles: set[str], role: module.Role, is_allowed: bool) -> None:
    principal = Principal("t", "n", frozenset(roles))
    assert principal.has(role) is is_allowed
    if is_allowed:
        principal.require(role)
    else:
        with pytest.raises(NotAllowed, match=f"needs the role '{role}'") as caught:
            principal.require(role)
        assert caught.value.reason == Reason.ERROR_REASON_NOT_ALLOWED


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f'\ufeff[[tokens]]\nsha256 = "{hash_token("t")}"\ntenant = "acme"\nname = "a"\nroles = ["user"]\n')
    assert isinstance(read_token_file(path), module.Known)


def test_a_changed_file_is_read_at_the_next_look(tmp_path: Path) -> None:
    watch, file = Watch(), write(tmp_path / "t", stanza("one"))
    authenticator = Authenticator(file, monotonic=watch)
    write(file, stanza("two"))
    os.utime(file, ns=(1, 1))
    watch.now += RELOAD_SECONDS / 2
    assert authenticator.authenticate(bearer("one")).name == "billing"
    watch.now += RELOAD_SECONDS
    assert authenticator.authenticate(bearer("two")).name == "billing"
    with pytest.raises(TokenInvalid):
        authenticator.authenticate(bearer("one"))


@pytest.mark.parametrize("damage", ["missing", "bad"])
def test_a_file_that_goes_bad_leaves_the_last_good_one_in_force(tmp_path: Path, damage: str) -> None:
    watch, file, told = Watch(), write(tmp_path / "t", stanza("one")), list[str]()
    authenticator = Authenticator(file, monotonic=watch, on_bad_file=told.append)
    if damage == "missing":
        file.unlink()
    else:
        write(file, "[[tokens]]\nshaa = 1\n")
    for _ in range(3):
        watch.now += RELOAD_SECONDS
        assert authenticator.authenticate(bearer("one")).name == "billing"
    assert len(told) == 1
    assert told[0].startswith(str(file))
    write(file, stanza("two"))
    watch.now += RELOAD_SECONDS
    assert authenticator.authenticate(bearer("two")).name == "billing"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[[tokens]]\ntoken = 'x'\n",
            r"\[\[tokens\]\] number 1: unknown key token; it has name, roles, sha256, tenant",
        ),
        (
            stanza("a") + stanza("b", roles='["boss"]'),
            r"number 2: roles must be a list of some of admin, read, user, worker",
        ),
        (stanza("a", roles="[]"), "roles must be"),
        (stanza("a", roles='"user"'), "roles must be"),
        (stanza("a", tenant="a b"), "tenant must be 1 to 128"),
        (stanza("a", name=""), "name must be"),
        (stanza("a").replace(hash_token("a"), "A" * 64), "sha256 must be 64 lower-case"),
        (stanza("a") + stanza("a"), "the same sha256 is there twice"),
        (NAMES + NAMES, "name 'billing.internal' is there twice"),
        ("[tokens]\n", r"tokens must be written as \[\[tokens\]\]"),
        ("[[users]]\n", "unknown table users"),
        ("[[", "not TOML"),
        (f"a = {'[' * 3000}", "not TOML: nested too deeply"),
    ],
)
def test_a_bad_file_stops_the_start_and_says_why(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(TokenFileError, match=problem):
        Authenticator(write(tmp_path / "t", text), monotonic=Watch())


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="cannot read it: No such file"):
        read_token_file(tmp_path / "none")
    (tmp_path / "t").write_bytes(b"\xff")
    with pytest.raises(TokenFileError, match="not UTF-8"):
        read_token_file(tmp_path / "t")


def test_minted_tokens_are_long_and_differ() -> None:
    tokens = {mint_token() for _ in range(50)}
    assert len(tokens) == 50
    assert all(token.startswith("tk_") and len(token) >= 46 for token in tokens)

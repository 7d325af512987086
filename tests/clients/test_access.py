"""Tokens and certificates: who may call, and over what."""

from __future__ import annotations

import hashlib
from pathlib import Path

import grpc
import pytest

from tests.clients.real import RealServer
from tests.service.ops.authority import Authority
from turnkeeper import Client, TurnkeeperError

pytestmark = pytest.mark.asyncio


async def test_a_token_over_tls(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, "ours")
    certificate, key = authority.sign("server", "localhost")
    tokens = tmp_path / "tokens.toml"
    digest = hashlib.sha256(b"the-token").hexdigest()
    tokens.write_text(f'[[tokens]]\nsha256 = "{digest}"\ntenant = "acme"\nname = "test"\nroles = ["user"]\n')
    files = ["--tls-cert", str(certificate), "--tls-key", str(key), "--token-file", str(tokens)]
    server = RealServer(tmp_path / "data", *files)
    try:
        await server.start()
        address = server.address.replace("127.0.0.1", "localhost")
        async with Client(address, "the-token", authority.cert) as client:
            await client.create_session("s1")
            assert await client.run("s1", "hello").text() == "hello"
        for token, reason in ((None, "TOKEN_MISSING"), ("another", "TOKEN_INVALID")):
            async with Client(address, token, authority.cert) as client:
                for call in (client.get_session("s1"), anext(client.watch("s1", after_seq=0))):
                    with pytest.raises(TurnkeeperError) as caught:
                        await call
                    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)
        other = Authority.make(tmp_path, "other")
        async with Client(address, "the-token", other.cert) as client:
            with pytest.raises(TurnkeeperError) as caught:
                await client.get_session("s1")
            assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    finally:
        await server.kill()

"""TLS on a real grpc.aio server: certificates that change, clients that must show one."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.service.ops.authority import Authority
from turnkeeper_service.process.tls import Certificates, TlsError, check_files, peer_names

pytestmark = pytest.mark.asyncio


async def _say_names(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return ",".join(peer_names(context.auth_context())).encode()


@asynccontextmanager
async def serving(credentials: grpc.ServerCredentials) -> AsyncIterator[str]:
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_say_names)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"Names": handler}),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"localhost:{port}"
    finally:
        await server.stop(None)


def client_credentials(authority: Path, pair: tuple[Path, Path] | None) -> grpc.ChannelCredentials:
    chain, key = (pair[0].read_bytes(), pair[1].read_bytes()) if pair else (None, None)
    return grpc.ssl_channel_credentials(authority.read_bytes(), key, chain)


async def call(address: str, authority: Path, pair: tuple[Path, Path] | None = None) -> str:
    """The names that the server saw on a new connection."""
    # A pool of its own: else a second channel would use the connection of the first.
    options = [("grpc.use_local_subchannel_pool", 1)]
    credentials = client_credentials(authority, pair)
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/t.T/Names")
        return (await method(b"", timeout=10)).decode()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("first"), "first")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("second"), "second")


Install = Callable[[tuple[Path, Path]], tuple[Path, Path]]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    def copy(pair: tuple[Path, Path]) -> tuple[Path, Path]:
        files = tmp_path / "cert.pem", tmp_path / "key.pem"
        for source, target in zip(pair, files, strict=True):
            shutil.copy(source, target)
        return files

    return copy


async def test_changed_certificates_are_used_at_the_next_handshake(
    first: Authority, second: Authority, install: Install
) -> None:
    cert, key = install(first.sign("server", "localhost"))
    async with serving(Certificates(cert_file=cert, key_file=key).credentials) as address:
        assert await call(address, first.cert) == ""
        install(second.sign("server", "localhost"))
        assert await call(address, second.cert) == ""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(address, first.cert)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_bad_files_leave_the_last_good_ones_in_force(first: Authority, install: Install) -> None:
    told: list[str] = []
    cert, key = install(first.sign("server", "localhost"))
    async with serving(Certificates(cert_file=cert, key_file=key, on_bad_file=told.append).credentials) as address:
        cert.write_text("half a certifi")
        for _ in range(2):
            assert await call(address, first.cert) == ""
    assert len(told) == 1
    assert str(cert) in told[0]


async def test_a_client_must_show_a_certificate_that_is_signed(
    first: Authority, second: Authority, install: Install
) -> None:
    cert, key = install(first.sign("server", "localhost"))
    certificates = Certificates(cert_file=cert, key_file=key, client_ca_file=second.cert, require_client_cert=True)
    async with serving(certificates.credentials) as address:
        with_names = second.sign("client", "billing.internal", "billing.example")
        assert await call(address, first.cert, with_names) == "billing.internal,billing.example"
        assert await call(address, first.cert, second.sign("plain")) == "plain"
        for pair in (None, first.sign("stranger")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(address, first.cert, pair)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_bad_files_stop_the_start(first: Authority, tmp_path: Path) -> None:
    cert, key = first.sign("server", "localhost")
    other = first.sign("other")[1]
    (tmp_path / "empty").write_text("")
    (tmp_path / "garbage").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    cases = [
        ((tmp_path / "none", key, None), "none: cannot read it: No such file"),
        ((cert, tmp_path / "empty", None), "empty: holds no PEM block that ends in PRIVATE KEY"),
        ((cert, other, None), "not a certificate and its key"),
        ((cert, key, tmp_path / "garbage"), "garbage: not a certificate"),
    ]
    for paths, problem in cases:
        with pytest.raises(TlsError, match=problem):
            check_files(*paths)

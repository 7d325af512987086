"""A server that cannot be reached: the whole cause and what to do, within seconds, from every kind of call."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from tests.clients.fake import SESSION, FakeLog, FakeServer
from tests.service.ops.authority import Authority
from turnkeeper import Backoff, Client, SessionSettings, TurnkeeperError

LIMIT_SECONDS = 5.0
Call = Callable[[Client], Awaitable[object]]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def converse(client: Client) -> None:
    async with client.converse(SESSION, create_with=SessionSettings()):
        pass


async def serve_tools(client: Client) -> None:
    async with client.serve_tools("w", []):
        pass


CALLS: dict[str, Call] = {
    "run": lambda client: client.run(SESSION, "hello").text(),
    "submit": lambda client: client.submit(SESSION, "hello"),
    "watch": lambda client: anext(client.watch(SESSION, 0)),
    "watch_tenant": lambda client: anext(client.watch_tenant()),
    "converse": converse,
    "serve_tools": serve_tools,
}


async def cause(client: Client, call: Call = CALLS["run"]) -> str:
    """What a call says, which has to come in time."""
    started = time.monotonic()
    async with client:
        with pytest.raises(TurnkeeperError) as raised:
            await call(client)
    assert time.monotonic() - started < LIMIT_SECONDS
    assert raised.value.code is grpc.StatusCode.UNAVAILABLE
    return raised.value.message


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    """Something that is no server of the contract; its address."""
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await handler(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        for writer in writers:
            writer.close()
        server.close()
        await server.wait_closed()


@pytest_asyncio.fixture
async def free() -> str:
    """An address where nothing listens."""
    server = FakeServer(FakeLog())  # type: ignore[abstract]
    await server.start()
    await server.stop()
    return server.address


@asynccontextmanager
async def over_tls(authority: Authority, *, wants_certificate: bool = False) -> AsyncIterator[int]:
    """A server with a certificate for `localhost`; its port."""
    certificate, key = authority.sign("server", "localhost")
    pair = [(key.read_bytes(), certificate.read_bytes())]
    trusted = authority.cert.read_bytes() if wants_certificate else None
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair, trusted, wants_certificate))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", CALLS)
async def test_every_kind_of_call_says_that_it_was_refused(free: str, kind: str) -> None:
    said = await cause(Client(free), CALLS[kind])
    assert said.startswith(f"no connection to {free}: the connection is refused, so nothing listens there: start one")
    assert "TURNKEEPER_ADDRESS" in said


@pytest.mark.asyncio
async def test_a_host_that_is_none_is_named() -> None:
    said = await cause(Client("nowhere.invalid:7450"))
    assert said.startswith("no connection to nowhere.invalid:7450: the host 'nowhere.invalid' is not found (")


@pytest.mark.asyncio
async def test_an_http_port_is_recognised() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with listening(http) as address:
        assert "that is an HTTP port, perhaps the server's own for metrics" in await cause(Client(address))


@pytest.mark.asyncio
async def test_what_says_nothing_and_what_says_something_else_are_told_apart() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await reader.read(64)
        writer.close()

    async with listening(silent) as address:
        assert "no answer comes" in await cause(Client(address))
    async with listening(ssh) as address:
        assert "something else than a Turnkeeper server listens there" in await cause(Client(address))


@pytest.mark.asyncio
async def test_tls_on_one_side_only_is_said(tmp_path: Path, server: FakeServer) -> None:
    authority = Authority.make(tmp_path, "ours")
    async with over_tls(authority) as port:
        said = await cause(Client(f"localhost:{port}"))
        assert "it wants TLS, and this connection is not encrypted: give the authority" in said
        assert "TURNKEEPER_TLS_CA" in said
    said = await cause(Client(server.address, tls_ca=authority.cert))
    assert "it does not speak TLS: leave out the authority (tls_ca, --tls-ca, TURNKEEPER_TLS_CA)" in said


@pytest.mark.asyncio
async def test_certificates_that_do_not_fit_are_said(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, "ours")
    other = Authority.make(tmp_path, "other")
    async with over_tls(authority) as port:
        assert "its certificate cannot be trusted (" in await cause(Client(f"localhost:{port}", tls_ca=other.cert))
        assert "its certificate is not for '127.0.0.1'" in await cause(
            Client(f"127.0.0.1:{port}", tls_ca=authority.cert)
        )
    async with over_tls(authority, wants_certificate=True) as port:
        said = await cause(Client(f"localhost:{port}", tls_ca=authority.cert))
        assert "it may want a certificate of this client (tls_certificate and tls_key)" in said


@pytest.mark.asyncio
async def test_another_grpc_server_is_not_taken_for_an_old_one(server: FakeServer) -> None:
    async with Client(server.address) as client:
        with pytest.raises(TurnkeeperError, match=f"no such method at {server.address}: another gRPC server"):
            async with client.serve_tools("w", []):
                pass


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("http://127.0.0.1:7450", "127.0.0.1:7450"),
        ("https://turns.example.com/", "turns.example.com:7450"),
        ("localhost", "localhost:7450"),
        ("::1", "[::1]:7450"),
    ],
)
async def test_an_address_that_is_none_is_refused_at_once(address: str, meant: str) -> None:
    with pytest.raises(ValueError, match="the address must be HOST:PORT") as raised:
        Client(address)
    assert str(raised.value).endswith(f"did you mean {meant!r}?")


@pytest.mark.asyncio
async def test_a_client_that_never_gives_up_waits_for_its_server(free: str) -> None:
    tells: list[TurnkeeperError | None] = []
    server = FakeServer(FakeLog())  # type: ignore[abstract]
    server.port = int(free.rpartition(":")[2])
    server.on_accept = lambda run_id: server.log.answer(run_id, "m1", "hello")
    told = asyncio.Event()

    def tell(lost: TurnkeeperError | None) -> None:
        tells.append(lost)
        told.set()

    backoff = Backoff(initial=0.01, maximum=0.05, patience=None)
    async with Client(free, backoff=backoff, on_connection=tell) as client:
        run = asyncio.create_task(client.run(SESSION, "hello").text())
        await asyncio.wait_for(told.wait(), 30)
        assert isinstance(tells[0], TurnkeeperError)
        await server.start()
        assert await asyncio.wait_for(run, 30) == "hello"
    await server.stop()


def test_grpc_writes_nothing_of_its_own(tmp_path: Path) -> None:
    """In a process of its own: what is written is decided when gRPC is imported."""
    authority = Authority.make(tmp_path, "ours")
    program = (
        "import asyncio, sys\n"
        "from turnkeeper import Client, TurnkeeperError\n"
        "async def main():\n"
        "    async def close(reader, writer):\n"
        "        writer.write(b'HTTP/1.1 400 Bad Request\\r\\n\\r\\n')\n"
        "        await reader.read(64)\n"
        "        writer.close()\n"
        "    server = await asyncio.start_server(close, '127.0.0.1', 0)\n"
        "    address = '127.0.0.1:%d' % server.sockets[0].getsockname()[1]\n"
        "    async with Client(address, tls_ca=sys.argv[1]) as client:\n"
        "        try:\n"
        "            await client.get_session('s')\n"
        "        except TurnkeeperError as error:\n"
        "            print(error.message)\n"
        "    server.close()\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(authority.cert)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "it does not speak TLS" in done.stdout

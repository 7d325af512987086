"""Tokens, keys and certificates that are read again while the server runs, and the streams of those who lost theirs."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest

from tests.service.failure.process import ServerProcess
from tests.service.harness import LIMIT, Harness, reason, serving
from tests.service.manual_clock import ManualClock
from tests.service.ops.authority import Authority
from tests.service.wire.tokens import Caller, write_token_file
from turnkeeper.v1 import run_service_pb2 as runs
from turnkeeper.v1 import session_service_pb2 as sessions
from turnkeeper.v1 import tool_service_pb2 as tools
from turnkeeper_service.settings.settings import Settings
from turnkeeper_service.wire.call import Call

pytestmark = pytest.mark.asyncio


def rewrite(path: Path, **change: str | None) -> None:
    """Write the token file again with other roles of some callers, or without them."""
    kept = []
    for entry in path.read_text().split("[[tokens]]")[1:]:
        name = entry.split('name = "')[1].split('"')[0]
        if name not in change:
            kept.append("[[tokens]]" + entry)
        elif (role := change[name]) is not None:
            kept.append("[[tokens]]" + entry.split("roles =")[0] + f'roles = ["{role}"]\n')
    path.write_text("\n".join(kept))


async def ended(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a stream ends: its code and reason."""
    try:
        async with asyncio.timeout(LIMIT):
            while await call.read() is not grpc.aio.EOF:
                pass
    except grpc.aio.AioRpcError as error:
        return error.code(), reason(error)
    return await call.code(), ""


async def opened(caller: Caller, method: str, request: Any) -> Any:
    """A stream that stands."""
    service, _, name = method.partition(".")
    stub = getattr(caller.stubs[service], name)
    async with asyncio.timeout(LIMIT):
        if name in ("Converse", "ServeTools"):
            call = stub(metadata=caller.metadata)
            await call.write(request)
            await call.read()
        else:
            call = stub(request, metadata=caller.metadata)
            await call.initial_metadata()
    return call


WATCH = runs.WatchSessionRequest(session_id="s")


async def test_streams_of_revoked_tokens_end_and_others_go_on(tmp_path: Path) -> None:
    async with serving(tmp_path, clock=ManualClock(), **write_token_file(tmp_path)) as server:
        alice, adam, anna, walt = (Caller(server.channel, name) for name in ("alice", "adam", "anna", "walt"))
        await alice.call("SessionService.CreateSession", sessions.CreateSessionRequest(session_id="s"))
        watching = await opened(alice, "RunService.WatchSession", WATCH)
        tenant = await opened(alice, "RunService.WatchTenant", runs.WatchTenantRequest())
        talking = await opened(alice, "RunService.Converse", runs.ConverseRequest(open=runs.OpenFrame(session_id="s")))
        working = await opened(
            walt, "ToolService.ServeTools", tools.ServeToolsRequest(open=tools.OpenWorker(worker_id="w"))
        )
        demoted = await opened(adam, "RunService.Converse", runs.ConverseRequest(open=runs.OpenFrame(session_id="s")))
        other = await opened(anna, "RunService.WatchSession", WATCH)
        rewrite(tmp_path / "tokens.toml", alice=None, walt=None, adam="read")
        server.server.reload()
        for call in (watching, tenant, talking, working):
            assert await ended(call) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
        assert await ended(demoted) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await alice.call("SessionService.GetSession", sessions.GetSessionRequest(session_id="s"))
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        # Who is still known reads on.
        rewrite(tmp_path / "tokens.toml", root=None)
        server.server.reload()
        bare = runs.WatchSessionRequest(session_id="s", after_seq=0, is_history_only=True)
        assert await anna.first("RunService.WatchSession", bare) is not None
        assert not other.done()
        other.cancel()


async def test_a_stream_that_is_just_being_opened_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path, clock=ManualClock(), **write_token_file(tmp_path)) as server:
        begin = Call.begin

        async def reload_meanwhile(call: Call) -> None:
            asyncio.get_running_loop().call_soon(server.server.reload)
            await begin(call)

        monkeypatch.setattr(Call, "begin", reload_meanwhile)
        alice = Caller(server.channel, "alice")
        await alice.call("SessionService.CreateSession", sessions.CreateSessionRequest(session_id="s"))
        rewrite(tmp_path / "tokens.toml", alice=None)
        call = alice.stubs["RunService"].WatchSession(WATCH, metadata=alice.metadata)
        assert await ended(call) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def failed_rereads(server: Harness, what: str) -> float:
    """How often something could not be read again."""
    async with aiohttp.ClientSession() as session:
        text = await (await session.get(f"http://{server.server.http_address}/metrics")).text()
    (line,) = [line for line in text.splitlines() if line.startswith(f'turnkeeper_failed_rereads_total{{what="{what}"')]
    return float(line.split()[1])


async def test_a_broken_token_file_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    async with serving(tmp_path, clock=ManualClock(), **write_token_file(tmp_path)) as server:
        alice = Caller(server.channel, "alice")
        await alice.call("SessionService.CreateSession", sessions.CreateSessionRequest(session_id="s"))
        watching = await opened(alice, "RunService.WatchSession", WATCH)
        (tmp_path / "tokens.toml").write_text("[[tokens]]\nhalf")
        server.server.reload()
        assert await failed_rereads(server, "tokens") == 1
        await alice.call("SessionService.GetSession", sessions.GetSessionRequest(session_id="s"))
        assert not watching.done()
        watching.cancel()


async def test_a_key_is_read_again_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("first")
    config = tmp_path / "turnkeeper.toml"
    config.write_text(f'[providers.vendor]\nformat = "openai-chat"\nbase_url = "http://x"\napi_key_file = "{key}"\n')
    overrides = {
        "server.data_dir": str(tmp_path / "data"),
        "server.grpc_address": "127.0.0.1:0",
        "server.http_address": "127.0.0.1:0",
    }
    settings = Settings.load({"HOME": str(tmp_path)}, overrides, config=config)
    async with serving(tmp_path, settings=settings) as server:
        providers = server.server._providers
        assert providers is not None
        credential = providers._credentials["vendor"]
        key.write_text("second")
        assert await providers.reload_keys() == []
        assert credential.secret.reveal() == "second"
        key.unlink()
        assert await providers.reload_keys() == ["vendor"]
        assert credential.secret.reveal() == "second"


async def test_streams_of_a_certificate_whose_name_is_gone_end(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, "authority")
    cert, key = authority.sign("server", "localhost")
    own_cert, own_key = authority.sign("client", "billing.internal")
    names = tmp_path / "names.toml"
    names.write_text('[[tls_names]]\nname = "billing.internal"\ntenant = "acme"\nroles = ["user"]\n')
    options: dict[str, Any] = {
        "auth__mode": "token",
        "auth__token_file": str(names),
        "tls__cert_file": str(cert),
        "tls__key_file": str(key),
        "tls__client_ca_file": str(authority.cert),
        "tls__require_client_cert": "true",
    }
    async with serving(tmp_path, clock=ManualClock(), **options) as server:
        credentials = grpc.ssl_channel_credentials(
            authority.cert.read_bytes(), own_key.read_bytes(), own_cert.read_bytes()
        )
        address = server.server.grpc_address.replace("127.0.0.1", "localhost")
        async with grpc.aio.secure_channel(address, credentials) as channel:
            caller = Caller(channel, None)
            await caller.call("SessionService.CreateSession", sessions.CreateSessionRequest(session_id="s"))
            watching = await opened(caller, "RunService.WatchSession", WATCH)
            names.write_text("")
            server.server.reload()
            assert await ended(watching) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")


async def test_a_hangup_reads_tokens_and_certificates_again(tmp_path: Path) -> None:
    authority, later = Authority.make(tmp_path, "first"), Authority.make(tmp_path, "second")
    cert, key = tmp_path / "cert", tmp_path / "certkey"

    def install(pair: tuple[Path, Path]) -> None:
        for source, target in zip(pair, (cert, key), strict=True):
            shutil.copy(source, target)

    install(authority.sign("server", "localhost"))
    write_token_file(tmp_path)
    flags = {
        "auth.mode": "token",
        "auth.token_file": tmp_path / "tokens.toml",
        "tls.cert_file": cert,
        "tls.key_file": key,
    }
    sets = [part for name, value in flags.items() for part in ("--set", f"{name}={value}")]
    with ServerProcess(tmp_path / "data", *sets) as process:
        process.serving()

        def channel(trusted: Authority) -> grpc.aio.Channel:
            options = [("grpc.use_local_subchannel_pool", 1)]
            credentials = grpc.ssl_channel_credentials(trusted.cert.read_bytes())
            return grpc.aio.secure_channel(process.grpc_address.replace("127.0.0.1", "localhost"), credentials, options)

        async with channel(authority) as old:
            alice = Caller(old, "alice")
            await alice.call("SessionService.CreateSession", sessions.CreateSessionRequest(session_id="s"))
            watching = await opened(alice, "RunService.WatchSession", WATCH)
            cert.write_text("half a certifi")
            rewrite(tmp_path / "tokens.toml", alice=None)
            process.signal(signal.SIGHUP)
            assert await ended(watching) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
            async with channel(authority) as again:
                bob = Caller(again, "bob")
                await bob.call("SessionService.CreateSession", sessions.CreateSessionRequest(session_id="t"))
            async with aiohttp.ClientSession() as session:
                text = await (await session.get(f"http://{process.http_address}/metrics")).text()
            assert 'turnkeeper_failed_rereads_total{what="certificates"} 1.0' in text
            assert str(cert) in process.log
            install(later.sign("server", "localhost"))
            process.signal(signal.SIGHUP)
            async with channel(later) as renewed:
                bob = Caller(renewed, "bob")
                await bob.call("SessionService.GetSession", sessions.GetSessionRequest(session_id="t"))

"""Connections: TLS both ways, health, reflection, keepalive, and methods of the contract that come later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.service.harness import LIMIT, Harness, serving, submission
from tests.service.ops.authority import Authority
from tests.service.ops.test_tls import client_credentials
from tests.service.wire.refusals import refusal, refused
from tests.service.wire.rows import dump
from tests.service.wire.talk import Talk
from tests.service.wire.test_tenants import ISOLATION, LATER
from turnkeeper import Client, TurnkeeperError
from turnkeeper.v1 import event_pb2, run_service_pb2, session_service_pb2
from turnkeeper_service.wire.server import SERVICES

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("stranger"), "stranger")


@asynccontextmanager
async def connected(
    server: Harness, authority: Authority, pair: tuple[Path, Path] | None = None
) -> AsyncIterator[Harness]:
    """The server over TLS. Its certificate is for the name localhost."""
    port = server.server.grpc_address.rpartition(":")[2]
    credentials = client_credentials(authority.cert, pair)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials, options) as channel:
        yield Harness(server.server, channel, server.gates, server.places)


@pytest.mark.asyncio
async def test_the_service_is_whole_over_tls_and_refuses_plain_text(
    tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    cert, key = authority.sign("server", "localhost")
    async with serving(tmp_path, tls__cert_file=str(cert), tls__key_file=str(key)) as server:
        async with connected(server, authority) as secure:
            await secure.session("s")
            talk = await Talk.open(secure, "s")
            await talk.ask("f", submit=submission("", "over TLS", run_id="r"))
            assert (await talk.terminal("r")).text == "over TLS"
            talk.cancel()
        # By plain text, and by a client that does not trust the authority.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.session("t")
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        async with connected(server, stranger) as suspicious:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await suspicious.session("t")
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        address = "localhost:" + server.server.grpc_address.rpartition(":")[2]
        async with Client(address, tls_ca=authority.cert) as client:
            assert await client.run("s", "by the client").text() == "by the client"


@pytest.mark.asyncio
async def test_a_client_certificate_says_who_calls(tmp_path: Path, authority: Authority, stranger: Authority) -> None:
    cert, key = authority.sign("server", "localhost")
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(
        "".join(
            f'[[tls_names]]\nname = "{name}"\ntenant = "{tenant}"\nroles = ["user"]\n'
            for name, tenant in (("billing.internal", "acme"), ("robot", "bolt"))
        )
    )
    tls: dict[str, Any] = {
        "tls__cert_file": str(cert),
        "tls__key_file": str(key),
        "tls__client_ca_file": str(authority.cert),
        "tls__require_client_cert": "true",
        "auth__mode": "token",
        "auth__token_file": str(tokens),
    }
    async with serving(tmp_path, **tls) as server:
        async with connected(server, authority, authority.sign("billing", "billing.internal")) as billing:
            await billing.session("s")
            await billing.submit("s", "hello", run_id="r")
        async with connected(server, authority, authority.sign("robot")) as robot:
            # Another tenant: it sees nothing of the first.
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await robot.run_view("r")
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
            await robot.session("s")
            assert await robot.messages("s") == []
        async with connected(server, authority, authority.sign("unknown")) as unknown:
            request = session_service_pb2.GetSessionRequest(session_id="s")
            found = await refused(unknown.sessions.GetSession(request))
            assert found == refusal(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
        for pair in (None, stranger.sign("billing", "billing.internal")):
            async with connected(server, authority, pair) as nobody:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await nobody.session("t")
                assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert {row[1] for row in dump(tmp_path)["sessions"]} == {"acme", "bolt"}
        address = "localhost:" + server.server.grpc_address.rpartition(":")[2]
        mine = authority.sign("billing", "billing.internal")
        async with Client(address, tls_ca=authority.cert, tls_certificate=mine[0], tls_key=mine[1]) as client:
            assert (await client.get_run("r")).session_id == "s"
        async with Client(address, tls_ca=authority.cert) as client:
            with pytest.raises(TurnkeeperError) as refused_:
                await asyncio.wait_for(client.get_run("r"), LIMIT)
            assert refused_.value.code == grpc.StatusCode.UNAVAILABLE


@pytest.mark.asyncio
async def test_health_says_of_every_service_that_it_serves_until_the_drain(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        health: Any = health_pb2_grpc.HealthStub(server.channel)
        names = ["", *(service.full_name for service in SERVICES)]
        watches = [health.Watch(health_pb2.HealthCheckRequest(service=name)) for name in names]
        for name, watch in zip(names, watches, strict=True):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
            assert (await watch.read()).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="turnkeeper.v1.NoService"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        await server.session("s")
        await server.submit("s", '{"text": "x", "gate": "g"}', run_id="r")
        await server.gates.reached("g")
        draining = asyncio.ensure_future(server.server.drain())
        for name, watch in zip(names, watches, strict=True):
            async with asyncio.timeout(LIMIT):
                assert (await watch.read()).status == NOT_SERVING
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == NOT_SERVING
            watch.cancel()
        # It still answers: what runs may end, and is told.
        request = run_service_pb2.SubmitRunRequest(submission=submission("s"))
        found = await refused(server.runs.SubmitRun(request))
        assert found == refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING", kinds=("RetryInfo",))
        server.gates.open("g")
        await asyncio.wait_for(draining, LIMIT)
        assert (await server.run_view("r")).outcome.status == event_pb2.OUTCOME_STATUS_COMPLETED


@pytest.mark.asyncio
async def test_health_needs_no_token(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[[tokens]]\nsha256 = "{"0" * 64}"\ntenant = "t"\nname = "n"\nroles = ["user"]\n')
    async with serving(tmp_path, auth__mode="token", auth__token_file=str(tokens)) as server:
        health: Any = health_pb2_grpc.HealthStub(server.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        request = session_service_pb2.ListSessionsRequest()
        assert (await refused(server.sessions.ListSessions(request))).reason == "TOKEN_MISSING"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.asyncio
async def test_reflection_lists_the_services_and_gives_their_files(tmp_path: Path, version: str) -> None:
    requests = reflection_pb2.ServerReflectionRequest
    async with serving(tmp_path) as server:
        reflect: Any = server.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=requests.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        call = reflect()
        await call.write(requests(list_services="*"))
        listed = {service.name for service in (await call.read()).list_services_response.service}
        assert listed >= {service.full_name for service in SERVICES} | {"grpc.health.v1.Health"}
        for service in SERVICES:
            await call.write(requests(file_containing_symbol=service.full_name))
            files = (await call.read()).file_descriptor_response.file_descriptor_proto
            parsed = [descriptor_pb2.FileDescriptorProto.FromString(content) for content in files]
            assert service.file.name in {file.name for file in parsed}
            names = [method.name for file in parsed for one in file.service for method in one.method]
            assert set(names) >= {method.name for method in service.methods}
        await call.write(requests(file_by_filename="turnkeeper/v1/event.proto"))
        assert (await call.read()).file_descriptor_response.file_descriptor_proto
        await call.write(requests(file_containing_symbol="turnkeeper.v1.Nothing"))
        assert (await call.read()).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    async with serving(tmp_path, server__reflection="false") as server:
        call = server.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")()
        assert await call.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.asyncio
async def test_methods_that_come_later_say_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        later = [
            (service, method)
            for service in SERVICES
            for method in service.methods
            if ISOLATION[f"{service.name}.{method.name}"][0] == LATER
        ]
        assert later
        for service, method in later:
            path = f"/{service.full_name}/{method.name}"
            content = GetMessageClass(method.input_type)().SerializeToString()
            assert not method.server_streaming
            call: Any = server.channel.unary_unary(path)
            found = await refused(call(content))
            assert found == LATER, path
            assert found.found["ErrorInfo"].metadata["method"] == f"{service.name}.{method.name}"
        # What no version of the contract has, gRPC itself refuses.
        unknown: Any = server.channel.unary_unary("/turnkeeper.v1.RunService/Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unknown(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.asyncio
async def test_a_client_that_pings_as_often_as_it_may_keeps_its_stream(tmp_path: Path) -> None:
    options = [
        ("grpc.keepalive_time_ms", 100),
        ("grpc.keepalive_timeout_ms", 5000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with serving(
        tmp_path,
        server__keepalive_min_client_interval_seconds="0.05",
        server__keepalive_time_seconds="0.1",
        server__keepalive_timeout_seconds="5",
        server__heartbeat_interval_seconds="0.3",
    ) as server:
        await server.session("s")
        async with grpc.aio.insecure_channel(server.server.grpc_address, options) as channel:
            talk = await Talk.open(Harness(server.server, channel, server.gates, server.places), "s")
            # Three heartbeats are several pings both ways; none of them is too many.
            for _ in range(3):
                await talk.until(lambda item: item.HasField("heartbeat"))
            await talk.ask("f", submit=submission("", "still here", run_id="r"))
            assert (await talk.terminal("r")).text == "still here"
            talk.cancel()

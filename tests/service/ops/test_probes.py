"""What watches a server from outside needs no token, whoever else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.service.harness import reason, serving
from turnkeeper.v1 import session_service_pb2
from turnkeeper_service.principal import hash_token

TOKENS = f'[[tokens]]\nsha256 = "{hash_token("secret")}"\ntenant = "acme"\nname = "billing"\nroles = ["user"]\n'


@pytest.mark.asyncio
async def test_probes_are_answered_without_a_token(tmp_path: Path) -> None:
    (tmp_path / "tokens.toml").write_text(TOKENS)
    settings: dict[str, Any] = {"auth__mode": "token", "auth__token_file": str(tmp_path / "tokens.toml")}
    async with serving(tmp_path / "data", **settings) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.sessions.ListSessions(session_service_pb2.ListSessionsRequest())
        assert reason(caught.value) == "TOKEN_MISSING"

        health: Any = health_pb2_grpc.HealthStub(server.channel)
        for service in ("", "turnkeeper.v1.RunService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        async with aiohttp.ClientSession(f"http://{server.server.http_address}") as http:
            for path in ("/livez", "/readyz", "/metrics"):
                async with http.get(path) as response:
                    assert response.status == 200

"""A token file with several callers, and stubs that call as one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc.aio

from tests.service.harness import FlatRuns
from turnkeeper.v1 import (
    admin_service_pb2_grpc,
    agent_service_pb2_grpc,
    session_service_pb2_grpc,
    tool_service_pb2_grpc,
)
from turnkeeper_service.principal import hash_token

CALLERS = {
    "alice": ("acme", "user"),
    "adam": ("acme", "user"),
    "anna": ("acme", "read"),
    "bob": ("bolt", "user"),
    "walt": ("acme", "worker"),
    "root": ("operators", "admin"),
}
"""By name: the tenant, and the one role."""


def write_token_file(folder: Path) -> dict[str, Any]:
    """Write the file of all callers; returns the settings that name it."""
    entries = [
        f'[[tokens]]\nsha256 = "{hash_token(token_of(name))}"\n'
        f'tenant = "{tenant}"\nname = "{name}"\nroles = ["{role}"]\n'
        for name, (tenant, role) in CALLERS.items()
    ]
    path = folder / "tokens.toml"
    path.write_text("\n".join(entries))
    return {"auth__mode": "token", "auth__token_file": str(path)}


def token_of(name: str) -> str:
    """The token of a caller."""
    return f"token-of-{name}"


class Caller:
    """The services as one caller sees them."""

    def __init__(self, channel: grpc.aio.Channel, name: str | None) -> None:
        self.metadata = (("authorization", f"Bearer {token_of(name)}"),) if name is not None else ()
        self.stubs: dict[str, Any] = {
            "SessionService": session_service_pb2_grpc.SessionServiceStub(channel),
            "RunService": FlatRuns(channel),
            "AgentService": agent_service_pb2_grpc.AgentServiceStub(channel),
            "ToolService": tool_service_pb2_grpc.ToolServiceStub(channel),
            "AdminService": admin_service_pb2_grpc.AdminServiceStub(channel),
        }

    def call(self, method: str, request: Any) -> Any:
        """Begin a call of ``Service.Method``; a bidirectional one is given its first frame."""
        service, _, name = method.partition(".")
        stub = getattr(self.stubs[service], name)
        if name in ("Converse", "ServeTools"):
            return stub(iter([request]), metadata=self.metadata)
        return stub(request, metadata=self.metadata)

    async def first(self, method: str, request: Any) -> Any:
        """What a call answers: the response, or the first of a stream."""
        call = self.call(method, request)
        if not hasattr(call, "read"):
            return await call
        try:
            async for response in call:
                return response
            return None
        finally:
            call.cancel()

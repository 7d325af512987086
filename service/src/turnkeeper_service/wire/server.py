"""The gRPC server: its services, health, reflection and options."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from turnkeeper.v1 import admin_service_pb2, agent_service_pb2, run_service_pb2, session_service_pb2, tool_service_pb2
from turnkeeper_service.errors import Refused
from turnkeeper_service.principal import Role
from turnkeeper_service.process.clock import Clock
from turnkeeper_service.runs.runs import Runs

from . import admin, reflection, run_service, sessions, tools
from .call import Gatekeeper
from .streams import Streams
from .validate import Validator

_AGENT_ROLES: dict[str, Role] = {
    "CreateAgent": "user",
    "GetAgent": "read",
    "ListAgents": "read",
    "UpdateAgent": "user",
    "DeleteAgent": "user",
}
SERVICES = [
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (session_service_pb2, "SessionService"),
        (run_service_pb2, "RunService"),
        (agent_service_pb2, "AgentService"),
        (tool_service_pb2, "ToolService"),
        (admin_service_pb2, "AdminService"),
    )
]


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options of the gRPC server; milliseconds and bytes."""

    max_message_bytes: int = 16 << 20
    keepalive_time_ms: int = 30_000
    keepalive_timeout_ms: int = 10_000
    min_ping_interval_ms: int = 10_000
    max_connection_age_ms: int | None = None
    max_connection_age_grace_ms: int = 60_000
    has_reflection: bool = True

    def arguments(self) -> list[tuple[str, Any]]:
        """The options as gRPC takes them."""
        found: list[tuple[str, Any]] = [
            # gRPC ends the whole stream at its bound and says no reason: ours is below it and does both better.
            ("grpc.max_receive_message_length", 2 * self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.keepalive_time_ms", self.keepalive_time_ms),
            ("grpc.keepalive_timeout_ms", self.keepalive_timeout_ms),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", self.min_ping_interval_ms),
            ("grpc.http2.min_ping_interval_without_data_ms", self.min_ping_interval_ms),
            # A second server on the same port would split the sessions: taken is taken.
            ("grpc.so_reuseport", 0),
        ]
        if self.max_connection_age_ms is not None:
            found.append(("grpc.max_connection_age_ms", self.max_connection_age_ms))
            found.append(("grpc.max_connection_age_grace_ms", self.max_connection_age_grace_ms))
        return found


class WireServer:
    """The server and its health."""

    def __init__(
        self,
        options: ServerOptions,
        gatekeeper: Gatekeeper,
        runs: Runs,
        validator: Validator,
        streams: Streams,
        process: admin.Process,
        clock: Clock,
    ) -> None:
        self._server = grpc.aio.server(options=options.arguments())
        self._gatekeeper = gatekeeper
        self._health = health.aio.HealthServicer()
        handlers: Sequence[grpc.GenericRpcHandler] = [
            gatekeeper.handlers(SERVICES[0], sessions.SessionServicer(runs, validator).methods(), sessions.ROLES),
            gatekeeper.handlers(
                SERVICES[1], run_service.RunServicer(runs, validator, streams, clock).methods(), run_service.ROLES
            ),
            gatekeeper.handlers(SERVICES[2], {}, _AGENT_ROLES),
            gatekeeper.handlers(SERVICES[3], tools.ToolServicer(runs, streams).methods(), tools.ROLES),
            gatekeeper.handlers(SERVICES[4], admin.AdminServicer(runs, streams, process, clock).methods(), admin.ROLES),
        ]
        self._server.add_generic_rpc_handlers(tuple(handlers))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if options.has_reflection:
            reflection.add_to(self._server, [*(service.full_name for service in SERVICES), health.SERVICE_NAME])

    async def start(self, address: str, credentials: grpc.ServerCredentials | None) -> str:
        """Listen and serve; returns the address with its port. Raises OSError where the port is taken."""
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: the port is taken or the address is not ours") from error
        if not port:
            raise OSError(f"cannot listen on {address}")
        await self._server.start()
        await self.set_serving(True)
        return f"{address.rpartition(':')[0]}:{port}"

    async def set_serving(self, is_serving: bool) -> None:
        """Say by health whether the server serves: "" for the process, and each service by name."""
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if is_serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ["", *(service.full_name for service in SERVICES)]:
            await self._health.set(name, status)

    def part(self) -> None:
        """Begin to go away: calls that come from now on wait until `stop`. Idempotent."""
        self._gatekeeper.calls.part()

    async def stop(self, reason: Refused, grace: float, *, is_busy: bool) -> None:
        """Take no more calls, and end those under way after ``grace`` seconds; those that came late hear the reason.

        ``is_busy`` says that callers may be at it. What has reached a port that closes and no handler yet, gRPC ends as
        cancelled, so the port closes while nobody calls: those who would are being kept.
        """
        if is_busy:
            await self._gatekeeper.calls.quiet(grace)
        stopping = asyncio.create_task(self._server.stop(2 * grace), name="stop gRPC")
        # It has said that it goes away once this task has had its first turn; so calls that are ended now are not made
        # again on the same connection.
        await asyncio.sleep(0)
        await self._gatekeeper.calls.end(reason, grace)
        await stopping

"""A bare gRPC server of some methods of ``RunService``, with the service's own options where they cost something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio

Handlers = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]


async def serve(handlers: Handlers) -> None:
    """Serve until killed."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("turnkeeper.v1.RunService", dict(handlers)),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening grpc=127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()

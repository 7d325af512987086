"""The harness's calls, to a server that is a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc.aio

from tests.service.failure.process import ServerProcess
from tests.service.failure.stories import NOT_SERVING, health
from tests.service.harness import LIMIT, Harness, Places, submission
from turnkeeper.v1 import run_service_pb2
from turnkeeper_service.app import Server
from turnkeeper_service.providers.gates import Gates

BIG: list[tuple[str, int]] = [("grpc.max_receive_message_length", -1)]
NARROW: list[tuple[str, int]] = [
    # A connection of its own, whose windows stay as small as they begin: who does not read here makes the server wait.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.bdp_probe", 0),
]


class Remote(Harness):
    """Talks to a server over its port; there is nothing of it to look into."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__(cast("Server", None), channel, Gates(), Places())

    @staticmethod
    def run_request(session_id: str, text: str, run_id: str = "", **fields: Any) -> run_service_pb2.RunRequest:
        """A request of the method Run."""
        return run_service_pb2.RunRequest(submission=submission(session_id, text, run_id, **fields))

    async def until_draining(self) -> None:
        """Wait until it says that it goes away."""
        async with asyncio.timeout(LIMIT):
            while await health(self) != NOT_SERVING:
                pass


@asynccontextmanager
async def connected(process: ServerProcess, *options: tuple[str, int]) -> AsyncIterator[Remote]:
    """A channel to a server that serves."""
    async with grpc.aio.insecure_channel(process.grpc_address, options=[*BIG, *options]) as channel:
        yield Remote(channel)

"""Runs `turnkeeper serve` with a server that is made of nothing; its story is told by the first argument."""

from __future__ import annotations

import asyncio
import sys

from turnkeeper_service import commands
from turnkeeper_service.settings.settings import Settings
from turnkeeper_service.store.errors import StoreLockedError, StoreUnreadableError, StoreUnwritableError
from turnkeeper_service.tools.loading import ToolLoadError

STARTS = {
    "locked": StoreLockedError("/data is in use by process 7", path="/data"),
    "unreadable": StoreUnreadableError("/data/turnkeeper.db is not a database of ours", path="/data/turnkeeper.db"),
    "unwritable": StoreUnwritableError("/data cannot be written", path="/data"),
    "no tool": ToolLoadError("tools.functions: 'f' is not a function"),
    "taken": OSError(98, "cannot listen for gRPC on 127.0.0.1:7450"),
}


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class FakeServer:
    grpc_address = "127.0.0.1:1"
    http_address = "127.0.0.1:2"

    def __init__(self, settings: Settings) -> None:
        self.story = sys.argv[1]
        if self.story == "bad":
            raise RuntimeError("it cannot be built")
        self.failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.drained = asyncio.Event()
        say(f"loop {type(asyncio.get_running_loop()).__module__}")

    async def start(self) -> None:
        if self.story in STARTS:
            raise STARTS[self.story]
        if self.story == "fails":
            self.failure.set_result(StoreUnwritableError("the disk is full"))
        if self.story == "drained":
            self.drained.set()

    def reload(self) -> None:
        say("reloaded")

    async def drain(self, timeout: float | None = None) -> None:
        say(f"draining {timeout}")
        if self.story == "slow":
            await asyncio.Event().wait()
        if self.story == "fails while draining":
            self.failure.set_result(StoreUnwritableError("the disk is full"))
            await asyncio.Event().wait()
        if self.story == "cannot drain":
            raise RuntimeError("no drain")

    async def close(self) -> None:
        say("closed")


if __name__ == "__main__":
    sys.exit(commands.run_server(Settings.load({}, {"server.drain_timeout_seconds": "7"}), FakeServer))

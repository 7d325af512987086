"""Callers that never pause while the server goes away: each call that reached it ends with a reason."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.service.failure.process import ServerProcess
from tests.service.harness import LIMIT, details, reason, serving, submission
from turnkeeper.v1 import run_service_pb2, run_service_pb2_grpc, session_service_pb2, session_service_pb2_grpc
from turnkeeper_service.store.faults import Faults, disk_full
from turnkeeper_service.store.sqlite import SqliteStore

pytestmark = pytest.mark.asyncio

CALLERS = 64
SESSIONS = 8
WARM = 200
"""Calls that are answered before the server is told to go."""


class Storm:
    """Callers, each of which makes its next call when the last one has ended, until there is nobody to connect to."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._runs: Any = run_service_pb2_grpc.RunServiceStub(channel)
        self._sessions: Any = session_service_pb2_grpc.SessionServiceStub(channel)
        self.errors: Counter[tuple[str, str, bool]] = Counter()
        self.num_ok = 0
        self._is_warm = asyncio.Event()

    async def rage(self, end: Callable[[], Awaitable[object]]) -> None:
        """Call; once it is warm, let the server end."""
        for number in range(SESSIONS):
            await self._sessions.CreateSession(session_service_pb2.CreateSessionRequest(session_id=f"s{number}"))
        async with asyncio.timeout(6 * LIMIT), asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(self._call(f"s{number % SESSIONS}"))
            await self._is_warm.wait()
            await end()

    async def _call(self, session_id: str) -> None:
        while True:
            try:
                await self._runs.SubmitRun(run_service_pb2.SubmitRunRequest(submission=submission(session_id, "x")))
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.UNAVAILABLE and "connect" in (error.details() or ""):
                    return
                self.errors[error.code().name, reason(error), "RetryInfo" in details(error)] += 1
            else:
                self.num_ok += 1
                if self.num_ok == WARM:
                    self._is_warm.set()


async def test_a_signal_cuts_no_call_off_without_a_reason(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", "--set", "defaults.generate_titles=false") as process:
        process.serving()

        async def end() -> None:
            process.signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.ended) == 0

        async with grpc.aio.insecure_channel(process.grpc_address) as channel:
            storm = Storm(channel)
            await storm.rage(end)
    known = {("UNAVAILABLE", "DRAINING", True), ("UNAVAILABLE", "STORE_UNAVAILABLE", True)}
    assert storm.errors.keys() <= known
    assert storm.errors["UNAVAILABLE", "DRAINING", True] >= 1


async def test_a_store_that_fails_cuts_no_call_off_without_a_reason(tmp_path: Path) -> None:
    faults = Faults()
    async with serving(tmp_path, store=SqliteStore(tmp_path, faults=faults)) as server:

        async def end() -> None:
            faults.fail("inside", error=disk_full)
            await asyncio.shield(server.server.failure)
            await server.server.close()

        storm = Storm(server.channel)
        await storm.rage(end)
    assert storm.errors.keys() == {("UNAVAILABLE", "STORE_UNAVAILABLE", True)}

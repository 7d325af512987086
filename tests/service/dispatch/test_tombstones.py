"""Cancels of runs that were not seen yet: each one that was acknowledged holds, in whatever order, over restarts."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.service.failure.process import ServerProcess
from tests.service.failure.remote import connected
from tests.service.harness import LIMIT, Harness, reason, serving
from tests.service.manual_clock import ManualClock
from turnkeeper.v1 import event_pb2, run_service_pb2, session_service_pb2
from turnkeeper_service.store.faults import Faults
from turnkeeper_service.store.sqlite import SqliteStore

TOMBSTONED = run_service_pb2.CANCEL_DISPOSITION_TOMBSTONED
CANCELLED, COMPLETED = event_pb2.OUTCOME_STATUS_CANCELLED, event_pb2.OUTCOME_STATUS_COMPLETED
HOUR = 3600.0
DAY = 24 * HOUR
SESSIONS = ("a", "b")


async def tombstoned(server: Harness, run_id: str, session_id: str = "") -> None:
    """Cancel a run that is not there."""
    receipt = await server.cancel(run_id=run_id, session_id=session_id)
    assert [run.disposition for run in receipt.runs] == [TOMBSTONED]


async def outcome_of(server: Harness, session_id: str, run_id: str) -> event_pb2.OutcomeStatus.ValueType:
    """How a run ends that is submitted now."""
    await server.submit(session_id, "hello", run_id)
    return (await server.terminals(session_id, [run_id]))[run_id].status


async def two_sessions(server: Harness) -> None:
    for session_id in SESSIONS:
        await server.session(session_id)


@pytest.mark.asyncio
@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize(
    ("cancels", "submitted", "expected"),
    [
        (("a", ""), "b", CANCELLED),
        (("", "a"), "b", CANCELLED),
        (("a", "b"), "a", CANCELLED),
        (("a", "b"), "b", CANCELLED),
        (("a", "a"), "b", COMPLETED),
        (("b", "", "a"), "a", CANCELLED),
    ],
)
async def test_a_second_cancel_widens_the_first(
    tmp_path: Path,
    cancels: tuple[str, ...],
    submitted: str,
    expected: event_pb2.OutcomeStatus.ValueType,
    is_restarted: bool,
) -> None:
    async with serving(tmp_path) as server:
        await two_sessions(server)
        for session_id in cancels:
            await tombstoned(server, "r", session_id)
        if not is_restarted:
            assert await outcome_of(server, submitted, "r") == expected
    if is_restarted:
        async with serving(tmp_path) as server:
            assert await outcome_of(server, submitted, "r") == expected


@pytest.mark.asyncio
async def test_a_second_cancel_renews_the_age_of_the_first(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await two_sessions(server)
        for run_id in "renewed", "old":
            await tombstoned(server, run_id)
        clock.advance(23 * HOUR)
        await tombstoned(server, "renewed")
        clock.advance(2 * HOUR)
        await server.server.runs.sweep()
        assert await outcome_of(server, "a", "renewed") == CANCELLED
        assert await outcome_of(server, "a", "old") == COMPLETED


@pytest.mark.asyncio
async def test_a_second_cancel_is_acknowledged_when_it_is_durable_itself(tmp_path: Path) -> None:
    faults = Faults()
    async with serving(tmp_path, store=SqliteStore(tmp_path, faults=faults)) as server:
        await two_sessions(server)
        faults.pause()
        cancels = [asyncio.ensure_future(tombstoned(server, "r")) for _ in range(2)]
        # What was asked behind them is answered, they are not.
        for _ in range(3):
            await server.sessions.GetSession(session_service_pb2.GetSessionRequest(session_id="a"))
        assert not any(cancel.done() for cancel in cancels)
        faults.resume()
        await asyncio.gather(*cancels)


@pytest.mark.asyncio
async def test_the_bound_counts_what_waits_and_nothing_else(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock, limits__max_tombstones_per_tenant="2") as server:
        await two_sessions(server)

        async def refused(run_id: str) -> str:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await tombstoned(server, run_id)
            return reason(caught.value)

        await asyncio.gather(*(tombstoned(server, run_id) for run_id in ("one", "two")))
        assert await refused("three") == "TENANT_LIMIT"
        # One that waits already is renewed, and those that have met their run wait no more.
        await tombstoned(server, "two")
        assert await outcome_of(server, "a", "one") == CANCELLED
        await tombstoned(server, "three")
        assert await refused("four") == "TENANT_LIMIT"
        clock.advance(DAY + HOUR)
        await server.server.runs.sweep()
        await asyncio.gather(*(tombstoned(server, run_id) for run_id in ("four", "five")))
        assert await refused("six") == "TENANT_LIMIT"


@dataclass
class Told:
    """What the clients of a storm know."""

    cancelled: dict[str, set[str]] = field(default_factory=dict)
    """Sessions that acknowledged cancels named, "" for any, by run."""


async def storm(server: Harness, told: Told, chance: random.Random, process: ServerProcess) -> None:
    """Cancel and submit in random order, several at a time, until the server is killed in the middle of it."""
    left = chance.randrange(10, 60)

    async def one() -> None:
        nonlocal left
        run_id, session_id = f"r{chance.randrange(120)}", chance.choice(("a", "b", ""))
        if chance.random() < 0.75:
            receipt = await server.cancel(run_id=run_id, session_id=session_id)
            if receipt.runs[0].disposition == TOMBSTONED:
                told.cancelled.setdefault(run_id, set()).add(session_id)
        else:
            await server.submit(session_id or "a", "hello", run_id)
        left -= 1
        if left == 0:
            process.kill()

    async def client() -> None:
        while left > 0:
            try:
                await one()
            except grpc.aio.AioRpcError as error:
                # Another session's run, or the end of the process.
                if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS):
                    if left > 0:
                        raise
                    return

    async with asyncio.timeout(6 * LIMIT):
        await asyncio.gather(*(client() for _ in range(6)))


@pytest.mark.asyncio
async def test_a_storm_of_cancels_and_kills(tmp_path: Path) -> None:
    data_dir, told, chance = tmp_path / "data", Told(), random.Random(5)
    data_dir.mkdir()
    flags = ["--log-level", "warning", "--set", "server.reflection=false"]
    for life in range(4):
        with ServerProcess(data_dir, *flags) as process:
            process.serving()
            async with connected(process) as server:
                if life == 0:
                    await two_sessions(server)
                await storm(server, told, chance, process)
    with ServerProcess(data_dir, *flags) as process:
        process.serving()
        async with connected(process) as server:
            wanted: dict[str, list[str]] = {session_id: [] for session_id in SESSIONS}
            for number in range(120):
                for session_id in SESSIONS:
                    try:
                        await server.submit(session_id, "hello", f"r{number}")
                    except grpc.aio.AioRpcError as error:
                        if reason(error) != "RUN_ID_REUSED":
                            raise
                    else:
                        wanted[session_id].append(f"r{number}")
            met = 0
            for session_id, run_ids in wanted.items():
                outcomes = await server.terminals(session_id, run_ids)
                for run_id, outcome in outcomes.items():
                    if told.cancelled.get(run_id, set()) & {"", session_id}:
                        assert outcome.status == CANCELLED, (run_id, session_id, told.cancelled[run_id])
                        met += 1
            assert met > 20

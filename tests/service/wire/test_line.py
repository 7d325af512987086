"""The line of a session as callers meet it: what it has room for, who is busy, and what may be asked about it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.service.dispatch.stage import held
from tests.service.harness import LIMIT, Harness, details, reason, serving
from tests.service.wire.held_store import HeldStore
from turnkeeper.v1 import admin_service_pb2, event_pb2, run_service_pb2, session_service_pb2
from turnkeeper_service.runs.scheduler import CoreScheduler
from turnkeeper_service.store import patience

pytestmark = pytest.mark.asyncio

GATED = '{"text": ["one ", "two"], "gate": "g"}'
CANCELLED = event_pb2.OUTCOME_STATUS_CANCELLED
COMPLETED = event_pb2.OUTCOME_STATUS_COMPLETED


async def refused(call: Any) -> grpc.aio.AioRpcError:
    """The error of a call that has to be refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def behind_a_gate(server: Harness, session_id: str) -> None:
    """A session whose open run waits."""
    await server.session(session_id)
    await server.submit(session_id, GATED, f"open-{session_id}")
    await server.gates.reached("g")


async def test_prompts_in_line_are_bounded_by_their_bytes(tmp_path: Path) -> None:
    bounds: dict[str, Any] = {"limits__max_queued_bytes_per_session": "100000", "limits__max_queued_bytes": "150000"}
    text = "x" * 39_990
    async with serving(tmp_path, **bounds) as server:
        await behind_a_gate(server, "s")
        await behind_a_gate(server, "t")
        before = await server.cancel(run_id="tombstoned")
        assert before.runs[0].disposition == run_service_pb2.CANCEL_DISPOSITION_TOMBSTONED
        results = await asyncio.gather(*(server.submit("s", text, f"r{n}") for n in range(30)), return_exceptions=True)
        accepted = [one.run_id for one in results if isinstance(one, run_service_pb2.RunReceipt)]
        assert len(accepted) == 2
        errors = [one for one in results if isinstance(one, grpc.aio.AioRpcError)]
        assert len(errors) == 28
        for error in errors:
            assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
            found = details(error)
            assert found["RetryInfo"].retry_delay.seconds == 1
            assert found["QuotaFailure"].violations[0].subject == "max_queued_bytes_per_session"
            assert found["ErrorInfo"].metadata["limit"] == "100000"
        await server.submit("s", "short", "short")
        await server.submit("t", text, "t0")
        error = await refused(server.submit("t", text, "t1"))
        assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED")
        assert details(error)["QuotaFailure"].violations[0].subject == "max_queued_bytes"
        assert "RetryInfo" in details(error)
        # One that a cancel met before it came ends at once, and is exempt.
        await server.submit("s", text, "tombstoned")
        assert (await server.terminals("s", ["tombstoned"]))["tombstoned"].status == CANCELLED
        # What leaves the line makes room again, by a cancel and by its turn.
        await server.cancel(run_id=accepted[0], wait=True)
        await server.submit("s", text, "again")
        server.gates.open("g")
        outcomes = await server.terminals("s", [accepted[1], "short", "again"])
        assert {outcome.status for outcome in outcomes.values()} == {COMPLETED}
        assert server.server.runs.stats().open_bytes == 0


class Patient(HeldStore):
    """Tells when somebody waits for a commit who has waited before."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.num_waits = 0
        self.waits_on = asyncio.Event()

    async def patiently(self, future: asyncio.Future[Any]) -> Any:
        """Count, and wait."""
        self.num_waits += 1
        if self.num_waits == 2:
            self.waits_on.set()
        return await super().patiently(future)


async def test_a_store_that_gets_on_slowly_refuses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen long prompts take a slow disk some seconds."""
    monkeypatch.setattr(patience, "SECONDS", 0.02)
    store = Patient(tmp_path)
    async with serving(tmp_path, store=store) as server:
        await server.session("s")
        store.hold()
        store.num_waits = 0
        submitting = asyncio.ensure_future(server.submit("s", "hello", "slow"))
        async with asyncio.timeout(LIMIT):
            await store.waits_on.wait()
        store.release()
        assert (await submitting).run_id == "slow"
        assert (await server.terminals("s", ["slow"]))["slow"].status == COMPLETED


async def test_recovered_runs_count_for_their_bytes_and_are_never_refused(tmp_path: Path) -> None:
    text = "x" * 39_990
    async with serving(tmp_path) as server:
        await behind_a_gate(server, "s")
        for number in range(3):
            await server.submit("s", text, f"r{number}")
    async with serving(tmp_path, limits__max_queued_bytes_per_session="100000") as server:
        await server.gates.reached("g")
        assert server.server.runs.stats().open_bytes > 119_000
        assert reason(await refused(server.submit("s", "one more"))) == "QUEUE_FULL"
        server.gates.open("g")
        await server.terminals("s", [f"r{number}" for number in range(3)])


async def test_a_cancelled_reservation_still_makes_its_session_busy(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await held(server, "first")
        await server.cancel(run_id="first")
        idle = run_service_pb2.Preconditions(require_idle=True)
        assert reason(await refused(server.submit("s", "x", "a", delivery=event_pb2.DELIVERY_REJECT))) == "SESSION_BUSY"
        assert reason(await refused(server.submit("s", "x", "b", preconditions=idle))) == "SESSION_BUSY"
        server.places.release("dispatch", "first")
        assert (await server.terminals("s", ["first"]))["first"].status == CANCELLED
        await server.submit("s", "x", "b", preconditions=idle)
        assert (await server.terminals("s", ["b"]))["b"].status == COMPLETED


async def test_nobody_who_looks_walks_along_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(*_: object) -> None:
        raise AssertionError("a snapshot is as long as the line")

    async with serving(tmp_path) as server:
        await behind_a_gate(server, "s")
        await asyncio.gather(*(server.submit("s", "x", f"r{number}") for number in range(120)))
        monkeypatch.setattr(CoreScheduler, "snapshot", walk)
        request = run_service_pb2.ListRunsRequest(session_id="s", page_size=500)
        runs = list((await server.runs.ListRuns(request)).runs)
        assert [run.position for run in runs] == [0, *range(1, 121)]
        assert [run.state for run in runs[:2]] == [
            run_service_pb2.RUN_STATE_RUNNING,
            run_service_pb2.RUN_STATE_QUEUED,
        ]
        assert {hold.detail for run in runs[1:] for hold in run.holds} == {"open-s"}
        assert (await server.run_view(runs[-1].run_id)).position == 120
        view = (await server.sessions.GetSession(session_service_pb2.GetSessionRequest(session_id="s"))).session
        assert (view.open_run_id, view.queued_runs) == ("open-s", 120)
        replayed = await server.submit("s", "x", runs[60].run_id)
        assert (replayed.is_replay, replayed.position) == (True, 60)
        active = await server.admin.ListActiveTurns(admin_service_pb2.ListActiveTurnsRequest())
        assert [turn.run_id for turn in active.turns] == ["open-s"]
        await server.sessions.ListSessions(session_service_pb2.ListSessionsRequest())
        server.gates.open("g")
        await server.terminals("s", [run.run_id for run in runs])


class Counted(asyncio.Future[Any]):
    """A future that counts how often it is compared with another one."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return self is other

    __hash__ = asyncio.Future.__hash__


async def test_a_cancel_of_a_tenant_compares_nothing_with_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 60
    async with serving(tmp_path, limits__max_running_turns="0") as server:
        for one in range(number):
            await server.session(f"s{one}")
        await asyncio.gather(*(server.submit(f"s{one}", "x", f"r{one}") for one in range(number)))
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "create_future", lambda: Counted(loop=loop))
        Counted.compared = 0
        scope = run_service_pb2.CancelScope(tenant=run_service_pb2.TenantScope())
        response = await server.runs.CancelRuns(run_service_pb2.CancelRunsRequest(scope=scope))
        assert len({run.run_id for run in response.receipt.runs}) == number
        assert Counted.compared < number

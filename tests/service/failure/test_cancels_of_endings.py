"""A cancel that meets a run whose terminal is not durable yet is answered when it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service.failure.stories import CANCELLED, COMPLETED
from tests.service.harness import LIMIT, Harness, serving
from turnkeeper.v1 import event_pb2, run_service_pb2
from turnkeeper_service.store.faults import Faults
from turnkeeper_service.store.sqlite import SqliteStore

pytestmark = pytest.mark.asyncio
ALREADY_FINISHED = run_service_pb2.CANCEL_DISPOSITION_ALREADY_FINISHED
Found = list[tuple[str, run_service_pb2.CancelDisposition.ValueType, event_pb2.OutcomeStatus.ValueType]]


async def cancelled(server: Harness, scope: run_service_pb2.CancelScope) -> Found:
    """What a cancel says that it met."""
    response = await server.runs.CancelRuns(run_service_pb2.CancelRunsRequest(scope=scope))
    return [(run.run_id, run.disposition, run.outcome.status) for run in response.receipt.runs]


async def clear(server: Harness) -> list[str]:
    """What a cleared queue says that it met."""
    response = await server.runs.ClearQueue(run_service_pb2.ClearQueueRequest(session_id="s"))
    return [run.run_id for run in response.receipt.runs]


async def arrived(server: Harness) -> None:
    """Wait until the calls of other tasks have come: the first of these lets them begin, the second comes behind."""
    await server.admin_stats()
    await server.admin_stats()


async def ending(server: Harness, run_id: str) -> None:
    """Wait until the terminal of a run is on its way."""
    async with asyncio.timeout(LIMIT):
        while ("default", run_id) not in server.server.runs.parts.ending:
            await server.admin_stats()


@contextmanager
def paused(faults: Faults) -> Iterator[None]:
    """Nothing becomes durable meanwhile."""
    faults.pause()
    try:
        yield
    finally:
        faults.resume()


def scopes(sequence: int) -> list[run_service_pb2.CancelScope]:
    """All that cover the runs of a session, whatever else."""
    session = run_service_pb2.CancelScope(session_id="s")
    tenant, up_to = run_service_pb2.CancelScope(), run_service_pb2.CancelScope()
    tenant.tenant.SetInParent()
    up_to.up_to.session_id, up_to.up_to.accept_sequence = "s", sequence
    return [session, tenant, up_to]


async def test_a_cancel_of_a_run_that_was_cancelled_in_line_waits_for_the_first(tmp_path: Path) -> None:
    faults = Faults()
    store = SqliteStore(tmp_path, faults=faults)
    # Nothing gets a permit: there is no open run whose commit would have to be waited for anyway.
    async with serving(tmp_path, store=store, limits__max_running_turns="0") as server:
        await server.session("s")
        receipt = await server.submit("s", "hello", "r")
        with paused(faults):
            first = server.start_cancel("s")
            await ending(server, "r")
            others = [asyncio.create_task(cancelled(server, scope)) for scope in scopes(receipt.accept_sequence)]
            before = run_service_pb2.CancelScope()
            before.up_to.session_id, before.up_to.accept_sequence = "s", receipt.accept_sequence - 1
            assert await cancelled(server, before) == []
            cleared = asyncio.create_task(clear(server))
            await arrived(server)
            assert not any(one.done() for one in (*others, cleared))
        assert await asyncio.gather(*others) == [[("r", ALREADY_FINISHED, CANCELLED)]] * 3
        assert await cleared == ["r"]
        assert [run.run_id for run in (await first).runs] == ["r"]


async def test_a_cancel_of_a_run_that_has_concluded_waits_for_its_terminal(tmp_path: Path) -> None:
    faults = Faults()
    async with serving(tmp_path, store=SqliteStore(tmp_path, faults=faults)) as server:
        await server.session("s")
        receipt = await server.submit("s", '{"gate": "g", "text": ["done"]}', "r")
        await server.gates.reached("g")
        with paused(faults):
            server.gates.open("g")
            await ending(server, "r")
            others = [asyncio.create_task(cancelled(server, scope)) for scope in scopes(receipt.accept_sequence)]
            # It was open, so a cleared queue leaves it alone.
            assert await clear(server) == []
            await arrived(server)
            assert not any(one.done() for one in others)
        assert await asyncio.gather(*others) == [[("r", ALREADY_FINISHED, COMPLETED)]] * 3

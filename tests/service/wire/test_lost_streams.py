"""A lost stream ends its call and never its run, unless the submission says so."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from structlog.testing import capture_logs

from tests.service.harness import LIMIT, Harness, serving, submission
from tests.service.manual_clock import ManualClock
from tests.service.wire.held_store import HeldStore
from tests.service.wire.talk import Talk, streams_left
from tests.service.wire.tokens import Caller, write_token_file
from turnkeeper.v1 import event_pb2, run_service_pb2, run_service_pb2_grpc, session_service_pb2
from turnkeeper_service.principal import Authenticator
from turnkeeper_service.process.clock import SystemClock
from turnkeeper_service.wire.call import Call, Gatekeeper

AFTER = 77
"""Seconds after which a run is cancelled whose submitter is lost; a length that nothing else waits for."""
GATED = '{"text": "done", "gate": "g"}'
POLICY = run_service_pb2.DisconnectPolicy(cancel_after=Duration(seconds=AFTER))
COMPLETED = event_pb2.OUTCOME_STATUS_COMPLETED
CANCELLED = event_pb2.OUTCOME_STATUS_CANCELLED


async def submitted(server: Harness, method: str) -> Any:
    """A call that has submitted "r" with the policy; the run is at its gate."""
    given = submission("s", GATED, run_id="r", on_disconnect=POLICY)
    if method == "Converse":
        talk = await Talk.open(server, "s")
        await talk.ask("f", submit=given)
        call = talk.call
    else:
        call = server.runs.Run(run_service_pb2.RunRequest(submission=given))
        assert (await call.read()).item.receipt.run.run_id == "r"
    await server.gates.reached("g")
    return call


async def lose(call: Any, clock: ManualClock, times: int = 1) -> None:
    """Lose the stream, and wait until the server counts the time from it."""
    call.cancel()
    await clock.armed(AFTER, times)


@pytest.mark.parametrize("method", ["Run", "Converse"])
@pytest.mark.asyncio
async def test_a_run_may_end_some_time_after_its_submitter_is_lost(tmp_path: Path, method: str) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await server.session("s")
        call = await submitted(server, method)
        clock.advance(10 * AFTER)
        assert clock.num_begun(AFTER) == 0
        await lose(call, clock)
        clock.advance(AFTER - 1)
        view = await server.run_view("r")
        assert (view.state, view.HasField("cancel")) == (run_service_pb2.RUN_STATE_RUNNING, False)
        clock.advance(1)
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (outcome.status, outcome.reason) == (CANCELLED, event_pb2.OUTCOME_REASON_USER)
        assert "disconnected" in outcome.actor


@pytest.mark.parametrize("method", ["WatchSession", "Converse"])
@pytest.mark.asyncio
async def test_a_watcher_of_the_same_principal_stops_the_count(tmp_path: Path, method: str) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await server.session("s")
        await lose(await submitted(server, "Run"), clock)
        clock.advance(AFTER - 1)
        if method == "Converse":
            watcher = (await Talk.open(server, "s")).call
        else:
            watcher = server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="s"))
            await watcher.initial_metadata()
        clock.advance(10 * AFTER)
        server.gates.open("g")
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (outcome.status, outcome.text) == (COMPLETED, "done")
        watcher.cancel()


@pytest.mark.parametrize("method", ["WatchSession", "Converse", "Run"])
@pytest.mark.asyncio
async def test_a_watcher_that_is_there_before_the_submitter_is_lost_stops_the_count(
    tmp_path: Path, method: str
) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await server.session("s")
        watcher: Any = None
        if method == "Converse":
            watcher = (await Talk.open(server, "s")).call
        elif method == "WatchSession":
            watcher = server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="s"))
            await watcher.initial_metadata()
        call = await submitted(server, "Run")
        if method == "Run":
            given = submission("s", GATED, run_id="r", on_disconnect=POLICY)
            watcher = server.runs.Run(run_service_pb2.RunRequest(submission=given))
            assert (await watcher.read()).item.receipt.run.is_replay
        call.cancel()
        await streams_left(server, 1)
        clock.advance(10 * AFTER)
        server.gates.open("g")
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (outcome.status, outcome.text) == (COMPLETED, "done")
        assert clock.num_begun(AFTER) == 0
        watcher.cancel()


@pytest.mark.asyncio
async def test_who_only_reads_what_was_stops_no_count(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await server.session("s")
        await lose(await submitted(server, "Run"), clock)
        assert await server.history("s")
        clock.advance(AFTER)
        assert (await server.terminals("s", ["r"]))["r"].status == CANCELLED


@pytest.mark.asyncio
async def test_a_watcher_that_has_gone_stops_no_later_count(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await server.session("s")
        watcher = await Talk.open(server, "s")
        watcher.cancel()
        await streams_left(server, 0)
        await lose(await submitted(server, "Run"), clock)
        clock.advance(AFTER)
        assert (await server.terminals("s", ["r"]))["r"].status == CANCELLED


@pytest.mark.parametrize(("watcher", "wanted"), [("alice", COMPLETED), ("adam", CANCELLED), ("anna", CANCELLED)])
@pytest.mark.asyncio
async def test_a_watcher_of_another_principal_does_not(tmp_path: Path, watcher: str, wanted: int) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock, **write_token_file(tmp_path)) as server:
        alice, other = Caller(server.channel, "alice"), Caller(server.channel, watcher)
        create = session_service_pb2.CreateSessionRequest(session_id="s")
        await alice.first("SessionService.CreateSession", create)
        given = submission("s", GATED, run_id="r", on_disconnect=POLICY)
        call = alice.call("RunService.Run", run_service_pb2.RunRequest(submission=given))
        await call.read()
        await server.gates.reached("g")
        await lose(call, clock)
        watch = run_service_pb2.WatchSessionRequest(session_id="s", after_seq=0)
        stream = other.call("RunService.WatchSession", watch)
        await stream.initial_metadata()
        clock.advance(AFTER)
        server.gates.open("g")
        async with asyncio.timeout(LIMIT):
            while not (event := (await stream.read()).item.event).HasField("run_finished"):
                pass
        assert event.run_finished.outcome.status == wanted
        stream.cancel()


@pytest.mark.asyncio
async def test_a_submitter_lost_in_the_middle_of_the_accept_is_lost_too(tmp_path: Path) -> None:
    clock, store = ManualClock(), HeldStore(tmp_path)
    async with serving(tmp_path, clock=clock, store=store) as server:
        await server.session("s")
        store.hold()
        given = submission("s", GATED, run_id="r", on_disconnect=POLICY)
        call = server.runs.Run(run_service_pb2.RunRequest(submission=given))
        await store.came(1)
        await lose(call, clock)
        store.release()
        await server.gates.reached("g")
        clock.advance(AFTER)
        assert (await server.terminals("s", ["r"]))["r"].status == CANCELLED


@pytest.mark.asyncio
async def test_after_a_restart_the_count_begins_with_the_server(tmp_path: Path) -> None:
    async with serving(tmp_path, clock=ManualClock()) as server:
        await server.session("s")
        await submitted(server, "Run")
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await clock.armed(AFTER)
        await server.gates.reached("g")
        clock.advance(AFTER)
        assert (await server.terminals("s", ["r"]))["r"].status == CANCELLED


@pytest.mark.asyncio
async def test_a_stream_that_ends_in_order_is_not_lost(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await server.session("s")
        talk = await Talk.open(server, "s")
        given = submission("", "hello", run_id="r", on_disconnect=POLICY)
        await talk.ask("f", submit=given)
        await talk.call.done_writing()
        assert (await talk.rest())[-1].event.run_finished.outcome.status == COMPLETED
        assert await talk.call.code() == grpc.StatusCode.OK
        assert clock.num_begun(AFTER) == 0
        # A lost watcher is no lost submitter.
        await server.submit("s", GATED, run_id="other", on_disconnect=POLICY)
        await server.gates.reached("g")
        watcher = await Talk.open(server, "s")
        watcher.cancel()
        await server.cancel("s", wait=True)
        assert clock.num_begun(AFTER) == 0


@pytest.mark.asyncio
async def test_a_reader_that_vanishes_while_it_is_written_to_is_no_fault() -> None:
    reached, ended = asyncio.Event(), asyncio.Event()

    async def watch(request: Any, call: Call) -> None:
        reached.set()
        try:
            # gRPC may tell of the end by a write that fails before it cancels the call; here for certain.
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await call.write(b"")
        finally:
            ended.set()

    gatekeeper = Gatekeeper(Authenticator(None, monotonic=SystemClock().monotonic, on_bad_file=pytest.fail))
    service = run_service_pb2.DESCRIPTOR.services_by_name["RunService"]
    server = grpc.aio.server()
    roles = dict.fromkeys((method.name for method in service.methods), "user")
    server.add_generic_rpc_handlers((gatekeeper.handlers(service, {"WatchSession": watch}, roles),))  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with capture_logs() as logs:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                runs = run_service_pb2_grpc.RunServiceStub(channel)
                call = runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="s"))
                async with asyncio.timeout(LIMIT):
                    await reached.wait()
                    call.cancel()
                    await ended.wait()
    finally:
        await server.stop(None)
    assert [(one["event"], one["log_level"]) for one in logs] == [("a caller is gone", "debug")]

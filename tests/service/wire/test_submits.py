"""Submits over the wire, and what becomes of their runs when a caller leaves, another one cancels, or nothing works."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.service.harness import LIMIT, Harness, reason, serving, submission
from tests.service.manual_clock import ManualClock
from tests.service.wire.held_store import HeldStore
from tests.service.wire.rows import dump
from tests.service.wire.talk import Talk, streams_left
from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2, session_service_pb2

GATED = '{"text": ["one ", "two ", "three"], "gate": "g", "gate_after": 1}'
COMPLETED = event_pb2.OUTCOME_STATUS_COMPLETED
CANCELLED = event_pb2.OUTCOME_STATUS_CANCELLED
FAILED = event_pb2.OUTCOME_STATUS_FAILED


async def refused(call: Any) -> grpc.aio.AioRpcError:
    """The error of a call that has to be refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def num_terminals(server: Harness, session_id: str, run_id: str) -> int:
    """How many terminals a run has once one more run of its session is over."""
    await server.submit(session_id, "sentinel", run_id=f"after-{run_id}")
    await server.terminals(session_id, [f"after-{run_id}"])
    events = await server.history(session_id)
    return sum(event.HasField("run_finished") and event.run_id == run_id for event in events)


@pytest.mark.spec("dispatch:X-1", "dispatch:G-16")
@pytest.mark.asyncio
async def test_a_submit_that_cannot_be_is_refused_with_its_reason_and_starts_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await server.session("going")
        server.places.hold("turn", "last")
        await server.submit("going", run_id="last")
        await server.places.reached("turn", "last")
        deletion = asyncio.ensure_future(
            server.sessions.DeleteSession(session_service_pb2.DeleteSessionRequest(session_id="going", force=True))
        )
        deleting = run_service_pb2.WatchSessionRequest(session_id="going", after_seq=0)
        async for response in server.runs.WatchSession(deleting):
            if response.item.event.HasField("run_cancel_requested"):
                break
        before = dump(tmp_path)
        invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
        for wanted, code, given in [
            ("SESSION_NOT_FOUND", missing, submission("nobody")),
            ("UNKNOWN_MODEL", invalid, submission("s", model="nobody/model")),
            ("EMPTY_PROMPT", invalid, submission("s", " \n")),
            ("EMPTY_PROMPT", invalid, run_service_pb2.Submission(session_id="s")),
            ("INVALID_ID", invalid, submission("")),
            ("SESSION_DELETING", grpc.StatusCode.FAILED_PRECONDITION, submission("going")),
        ]:
            error = await refused(server.runs.SubmitRun(run_service_pb2.SubmitRunRequest(submission=given)))
            assert (error.code(), reason(error)) == (code, wanted)
        assert dump(tmp_path) == before
        server.places.release("turn", "last")
        await deletion
        await server.server.drain()
        before = dump(tmp_path)
        error = await refused(
            server.runs.SubmitRun(run_service_pb2.SubmitRunRequest(submission=submission("s", "hello")))
        )
        assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert dump(tmp_path) == before


@pytest.mark.spec("dispatch:X-2")
@pytest.mark.asyncio
async def test_a_submit_returns_while_its_run_works_and_a_drain_waits_for_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await server.submit("s", GATED, run_id="r")
        await server.gates.reached("g")
        draining = asyncio.ensure_future(server.server.drain())
        health: Any = health_pb2_grpc.HealthStub(server.channel)
        async for status in health.Watch(health_pb2.HealthCheckRequest()):
            if status.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                break
        assert (await server.run_view("r")).state == run_service_pb2.RUN_STATE_RUNNING
        assert not server.server.drained.is_set()
        server.gates.open("g")
        await asyncio.wait_for(draining, LIMIT)
        view = await server.run_view("r")
        assert (view.state, view.outcome.status) == (run_service_pb2.RUN_STATE_FINISHED, COMPLETED)


@pytest.mark.spec("dispatch:X-3", "dispatch:X-9")
@pytest.mark.parametrize("place", ["dispatch", "turn"])
@pytest.mark.asyncio
async def test_a_cancel_right_after_the_acknowledgement_is_not_lost(tmp_path: Path, place: str) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        server.places.hold(place, "r")
        await server.submit("s", "never sent", run_id="r")
        await server.places.reached(place, "r")
        receipt = await server.cancel("s")
        assert [(run.run_id, run.disposition) for run in receipt.runs] == [
            ("r", run_service_pb2.CANCEL_DISPOSITION_COVERED)
        ]
        server.places.release(place, "r")
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (outcome.status, outcome.reason, list(outcome.errors)) == (CANCELLED, event_pb2.OUTCOME_REASON_USER, [])
        assert outcome.usage.own.num_calls == 0
        user, assistant = await server.messages("s")
        assert (user.role, user.parts[0].text.text) == (content_pb2.ROLE_USER, "never sent")
        assert (assistant.role, assistant.status) == (
            content_pb2.ROLE_ASSISTANT,
            content_pb2.MESSAGE_STATUS_CANCELLED,
        )
        assert not user.in_context
        assert not assistant.in_context
        assert server.snapshot("s") is None
        assert await num_terminals(server, "s", "r") == 1


@pytest.mark.spec("dispatch:X-4", "dispatch:X-5")
@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"model": "scripted/nobody"}, event_pb2.OUTCOME_REASON_PROVIDER_REFUSED),
        ({"model": "scripted/file:none.json"}, event_pb2.OUTCOME_REASON_PROVIDER_REFUSED),
        (
            {"preconditions": run_service_pb2.Preconditions(for_agent_id="elsewhere")},
            event_pb2.OUTCOME_REASON_FLOOR_CHANGED,
        ),
    ],
)
@pytest.mark.asyncio
async def test_a_run_that_fails_in_its_preparation_has_one_failed_terminal(
    tmp_path: Path, fields: dict[str, Any], wanted: int
) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await server.submit("s", run_id="r", **fields)
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (outcome.status, outcome.reason) == (FAILED, wanted)
        assert [error.reason for error in outcome.errors] == [wanted]
        assert outcome.errors[0].title
        late = await server.cancel(run_id="r")
        assert late.runs[0].disposition == run_service_pb2.CANCEL_DISPOSITION_ALREADY_FINISHED
        # A prompt for another agent is left out of what models are sent; other failures stay, marked.
        is_meant = wanted != event_pb2.OUTCOME_REASON_FLOOR_CHANGED
        assert {message.in_context for message in await server.messages("s")} == {is_meant}
        assert await num_terminals(server, "s", "r") == 1


@pytest.mark.spec("dispatch:X-4")
@pytest.mark.asyncio
async def test_a_run_whose_provider_is_gone_after_a_restart_fails_with_its_reason(tmp_path: Path) -> None:
    async with serving(tmp_path, providers__gone__format="scripted") as server:
        await server.session("s", model="gone/echo")
        await server.submit("s", GATED, run_id="first")
        await server.gates.reached("g")
        await server.submit("s", run_id="second")
    async with serving(tmp_path) as server:
        outcomes = await server.terminals("s", ["first", "second"])
        for outcome in outcomes.values():
            assert (outcome.status, outcome.reason) == (FAILED, event_pb2.OUTCOME_REASON_PROVIDER_REFUSED)
            assert "gone" in outcome.errors[0].detail


@pytest.mark.spec("dispatch:X-5", "dispatch:X-6")
@pytest.mark.asyncio
async def test_no_outer_layer_adds_a_terminal_to_a_failed_or_a_cancelled_run(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await server.submit("s", '{"text": "a b", "fail": "PROVIDER_ERROR", "fail_after": 1}', run_id="failed")
        await server.submit("s", GATED, run_id="cancelled")
        await server.gates.reached("g")
        await server.cancel(run_id="cancelled", wait=True)
        outcomes = await server.terminals("s", ["failed", "cancelled"])
        assert outcomes["failed"].reason == event_pb2.OUTCOME_REASON_PROVIDER_ERROR
        assert (outcomes["cancelled"].status, list(outcomes["cancelled"].errors)) == (CANCELLED, [])
        assert await num_terminals(server, "s", "cancelled") == 1
        assert await num_terminals(server, "s", "failed") == 1
        assert (await server.run_view("cancelled")).outcome.status == CANCELLED


@pytest.mark.spec("dispatch:X-7")
@pytest.mark.parametrize("way", ["dropped", "timed out"])
@pytest.mark.asyncio
async def test_a_run_completes_though_its_submitting_call_is_lost(tmp_path: Path, way: str) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        request = run_service_pb2.RunRequest(submission=submission("s", GATED, run_id="r"))
        # A deadline of gRPC is real time; the gate keeps the run going for longer than any.
        call = server.runs.Run(request, timeout=0.3 if way == "timed out" else None)
        assert (await call.read()).item.receipt.run.run_id == "r"
        await server.gates.reached("g")
        if way == "dropped":
            call.cancel()
        else:
            assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await server.run_view("r")).state == run_service_pb2.RUN_STATE_RUNNING
        server.gates.open("g")
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (outcome.status, outcome.text) == (COMPLETED, "one two three")


@pytest.mark.spec("dispatch:X-7")
@pytest.mark.asyncio
async def test_a_deadline_that_passes_before_the_answer_leaves_the_run_going(tmp_path: Path) -> None:
    store = HeldStore(tmp_path)
    async with serving(tmp_path, store=store) as server:
        await server.session("s")
        store.hold()
        request = run_service_pb2.SubmitRunRequest(submission=submission("s", "hello", run_id="r"))
        call = server.runs.SubmitRun(request, timeout=0.3)
        await store.came(1)
        error = await refused(call)
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        store.release()
        # The same id finds the run that the lost call made.
        again = (await server.runs.SubmitRun(request)).receipt
        assert again.is_replay
        assert (await server.terminals("s", ["r"]))["r"].status == COMPLETED
        assert await num_terminals(server, "s", "r") == 1


@pytest.mark.spec("dispatch:X-8")
@pytest.mark.asyncio
async def test_a_cancel_by_another_client_is_no_error_to_anybody(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        prompter, other = await Talk.open(server, "s"), await Talk.open(server, "s")
        await prompter.ask("f", submit=submission("", GATED, run_id="r"))
        await server.gates.reached("g")
        answer = await other.ask(
            "c", cancel=run_service_pb2.CancelRunsRequest(scope=run_service_pb2.CancelScope(run_id="r"))
        )
        assert answer.receipt.cancel.runs[0].disposition == run_service_pb2.CANCEL_DISPOSITION_COVERED
        for talk in (prompter, other):
            assert (await talk.terminal("r")).status == CANCELLED
        await server.submit("s", run_id="sentinel")
        for talk in (prompter, other):
            assert (await talk.terminal("sentinel")).status == COMPLETED
            committed = [item.event.message_committed.message for item in talk.items if item.HasField("event")]
            answers = [one for one in committed if one.role == content_pb2.ROLE_ASSISTANT and one.run_id == "r"]
            assert [one.status for one in answers] == [content_pb2.MESSAGE_STATUS_CANCELLED]
            assert not [item for item in talk.items if item.HasField("error")]
            talk.cancel()


@pytest.mark.spec("dispatch:X-10")
@pytest.mark.asyncio
async def test_a_cancel_of_an_idle_session_does_not_touch_the_next_prompt(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        assert not (await server.cancel("s")).runs
        await server.submit("s", "hello", run_id="r")
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (outcome.status, outcome.reason) == (COMPLETED, event_pb2.OUTCOME_REASON_ANSWERED)
        events = await server.history("s")
        assert not [event for event in events if event.HasField("run_cancel_requested")]
        assert await num_terminals(server, "s", "r") == 1


@pytest.mark.spec("dispatch:X-11")
@pytest.mark.asyncio
async def test_a_run_goes_on_when_its_submitter_leaves_and_another_reader_sees_its_end(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await server.session("s")
        reader = await Talk.open(server, "s")
        async with grpc.aio.insecure_channel(server.server.grpc_address) as channel:
            leaving = await Talk.open(Harness(server.server, channel, server.gates, server.places), "s")
            await leaving.ask("f", submit=submission("", GATED, run_id="r"))
            await server.gates.reached("g")
        await streams_left(server, 1)
        # Whatever begins with the loss of a stream has had all the time there is.
        clock.advance(1_000_000)
        server.gates.open("g")
        outcome = await reader.terminal("r")
        assert (outcome.status, outcome.text) == (COMPLETED, "one two three")
        reader.cancel()


@pytest.mark.spec("dispatch:X-12")
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.asyncio
async def test_one_cancel_ends_the_running_turn_and_the_accepted_follow_up(tmp_path: Path, held: bool) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await server.submit("s", GATED, run_id="1")
        await server.gates.reached("g")
        if held:
            server.places.hold("dispatch", "2")
        await server.submit("s", "follow-up", run_id="2")
        receipt = await server.cancel("s")
        assert [run.run_id for run in receipt.runs] == ["1", "2"]
        if held:
            server.places.release("dispatch", "2")
        server.gates.open("g")
        outcomes = await server.terminals("s", ["1", "2"])
        assert [outcome.status for outcome in outcomes.values()] == [CANCELLED, CANCELLED]
        assert await num_terminals(server, "s", "2") == 1
        assert outcomes["2"].usage.own.num_calls == 0


@pytest.mark.spec("dispatch:X-22")
@pytest.mark.asyncio
async def test_a_session_is_busy_only_while_it_is(tmp_path: Path) -> None:
    async def shown() -> dict[str, tuple[bool, str, int]]:
        listed = await server.sessions.ListSessions(session_service_pb2.ListSessionsRequest())
        found = {one.session_id: (one.is_busy, one.open_run_id, one.queued_runs) for one in listed.sessions}
        for session_id, state in found.items():
            got = await server.sessions.GetSession(session_service_pb2.GetSessionRequest(session_id=session_id))
            one = got.session
            assert (one.is_busy, one.open_run_id, one.queued_runs) == state
        return found

    idle = (False, "", 0)
    async with serving(tmp_path) as server:
        await server.session("busy")
        await server.session("idle")
        # A reader that is attached makes nobody busy.
        reader = await Talk.open(server, "idle")
        assert await shown() == {"busy": idle, "idle": idle}
        await server.submit("busy", GATED, run_id="1")
        await server.gates.reached("g")
        await server.submit("busy", run_id="2")
        assert await shown() == {"busy": (True, "1", 1), "idle": idle}
        server.gates.open("g")
        await server.terminals("busy", ["1", "2"])
        assert await shown() == {"busy": idle, "idle": idle}
        reader.cancel()

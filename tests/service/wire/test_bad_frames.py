"""Bad frames on a bidirectional stream: each is answered, and the stream goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.service.harness import Flat, serving, submission
from tests.service.wire.refusals import Refusal, of_frame, refusal, refused
from tests.service.wire.rows import dump
from tests.service.wire.talk import Talk
from turnkeeper.v1 import event_pb2, run_service_pb2, session_service_pb2, tool_service_pb2

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NO_FIELDS: Any = None
OPEN = run_service_pb2.OpenFrame
CANCEL = run_service_pb2.CancelRunsRequest
SCOPE = run_service_pb2.CancelScope


def bad(*fields: str, reason: str = "INVALID_FIELD") -> Refusal:
    return refusal(INVALID, reason, *fields)


def raw_converse(channel: grpc.aio.Channel) -> Any:
    """Converse whose frames are bytes that the test writes itself."""
    return channel.stream_stream(
        "/turnkeeper.v1.RunService/Converse",
        request_serializer=lambda frame: frame if isinstance(frame, bytes) else frame.SerializeToString(),
        response_deserializer=run_service_pb2.ConverseResponse.FromString,
    )


FRAMES: dict[str, tuple[Refusal, dict[str, Any]]] = {
    "empty prompt": (bad("submit.prompt", reason="EMPTY_PROMPT"), {"submit": submission("", " ")}),
    "prompt too large": (bad("submit.prompt", reason="PROMPT_TOO_LARGE"), {"submit": submission("", "x" * 1001)}),
    "run id": (bad("submit.run_id", reason="INVALID_ID"), {"submit": submission("", run_id="a b")}),
    "NUL": (bad("submit.prompt[0].text.text"), {"submit": submission("", "a\0b")}),
    "enum value": (bad("submit.delivery"), {"submit": submission("", delivery=99)}),
    "all at once": (
        bad("submit.run_id", "submit.model", "submit.max_steps", reason="INVALID_ID"),
        {"submit": submission("", run_id="a b", model="nobody/x", max_steps=-1)},
    ),
    "steer with parameters": (
        bad("submit.model", "submit.tool_choice"),
        {"submit": submission("", delivery=event_pb2.DELIVERY_STEER, model="scripted/echo", tool_choice="none")},
    ),
    "prompt for another session": (
        bad("submit.session_id", reason="SESSION_MISMATCH"),
        {"submit": submission("other")},
    ),
    "a second session": (bad("open.session_id", reason="SESSION_MISMATCH"), {"open": OPEN(session_id="other")}),
    "opened twice": (bad("open"), {"open": OPEN(session_id="s")}),
    "nothing in it": (bad(reason="UNKNOWN_FRAME"), {}),
    "cancel of nothing": (bad("cancel.scope"), {"cancel": CANCEL()}),
    "cancel of nothing, that waits": (bad("cancel.scope"), {"cancel": CANCEL(wait=True)}),
    "cancel of another session": (
        bad("cancel.scope.session_id", reason="SESSION_MISMATCH"),
        {"cancel": CANCEL(scope=SCOPE(session_id="other"))},
    ),
    "cancel up to, of another session": (
        bad("cancel.scope.up_to.session_id", reason="SESSION_MISMATCH"),
        {"cancel": CANCEL(scope=SCOPE(up_to=run_service_pb2.SequenceScope(session_id="other", accept_sequence=2**40)))},
    ),
    "cancel of the tenant": (
        bad("cancel.scope.tenant"),
        {"cancel": CANCEL(scope=SCOPE(tenant=run_service_pb2.TenantScope()))},
    ),
    "cancel of a run of another session": (
        refusal(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"),
        {"cancel": CANCEL(scope=SCOPE(run_id="elsewhere"))},
    ),
    "the same, waiting": (
        refusal(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"),
        {"cancel": CANCEL(scope=SCOPE(run_id="elsewhere"), wait=True)},
    ),
    "cancel of no run": (
        bad("cancel.scope.run_id", "cancel.turn_id", reason="INVALID_ID"),
        {"cancel": CANCEL(scope=SCOPE(run_id=""), turn_id="a b")},
    ),
    "reused run id": (
        refusal(grpc.StatusCode.ALREADY_EXISTS, "RUN_ID_REUSED"),
        {"submit": submission("", "something else", run_id="old")},
    ),
    "busy": (
        refusal(grpc.StatusCode.FAILED_PRECONDITION, "OPEN_RUN_MISMATCH"),
        {
            "submit": submission(
                "", preconditions=run_service_pb2.Preconditions(expected_open_run_id="nobody"), run_id="new"
            )
        },
    ),
    "tools": (
        bad("offer_tools.tools[0].name"),
        {"offer_tools": tool_service_pb2.OfferTools(tools=[tool_service_pb2.Tool(name="a b")])},
    ),
    "a tool's result": (
        bad("tool_result"),
        {"tool_result": tool_service_pb2.ToolInvocationResult()},
    ),
    "an approval": (
        bad("answer_approval.approval_id", reason="INVALID_ID"),
        {"answer_approval": session_service_pb2.AnswerApprovalRequest()},
    ),
}


@pytest.mark.asyncio
async def test_a_bad_frame_is_answered_and_the_stream_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path, limits__max_prompt_bytes="1000") as server:
        await server.session("s")
        await server.session("other")
        await server.submit("s", "hello", run_id="old")
        await server.terminals("s", ["old"])
        await server.submit("other", '{"gate": "g"}', run_id="elsewhere")
        await server.gates.reached("g")
        talk = await Talk.open(server, "s")
        before = dump(tmp_path)
        for name, (wanted, frame) in FRAMES.items():
            answer = await talk.ask(name, **frame)
            assert of_frame(answer) == wanted, name
        too_long = "f" * 129
        await talk.send(too_long, submit=submission("", "hello"))
        assert of_frame(await talk.answer(too_long[:128])) == bad("frame_id")
        assert dump(tmp_path) == before
        assert (await talk.ask("good", submit=submission("", "still here", run_id="new"))).receipt.run.run_id == "new"
        assert (await talk.terminal("new")).text == "still here"
        # One answer to each frame, and nothing of another session.
        errors = [item.error.frame_id for item in talk.items if item.HasField("error")]
        assert errors == [*FRAMES, too_long[:128]]
        assert {item.event.session_id for item in talk.items if item.HasField("event")} == {"s"}
        assert (await server.run_view("elsewhere")).state == run_service_pb2.RUN_STATE_RUNNING
        server.gates.open("g")
        await server.terminals("other", ["elsewhere"])
        await talk.call.done_writing()
        assert await talk.rest() == []


@pytest.mark.asyncio
async def test_full_bounds_are_answered_on_the_stream_with_when_to_try_again(tmp_path: Path) -> None:
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    async with serving(
        tmp_path, limits__max_queued_runs_per_session="1", limits__max_tombstones_per_tenant="1"
    ) as server:
        await server.session("s")
        talk = await Talk.open(server, "s")
        await talk.ask("1", submit=submission("", '{"gate": "g"}', run_id="1"))
        await server.gates.reached("g")
        await talk.ask("2", submit=submission("", "hello", run_id="2"))
        await talk.ask("t1", cancel=CANCEL(scope=SCOPE(run_id="unseen-1")))
        before = dump(tmp_path)
        cases: list[tuple[str, str, dict[str, Any]]] = [
            ("3", "QUEUE_FULL", {"submit": submission("", "hello", run_id="3")}),
            ("t2", "TENANT_LIMIT", {"cancel": CANCEL(scope=SCOPE(run_id="unseen-2"))}),
        ]
        for frame_id, reason, frame in cases:
            answer = await talk.ask(frame_id, **frame)
            assert of_frame(answer) == refusal(exhausted, reason, kinds=("RetryInfo",))
            assert answer.error.metadata["limit"] == "1"
        assert dump(tmp_path) == before
        server.gates.open("g")
        assert (await talk.terminal("2")).status == event_pb2.OUTCOME_STATUS_COMPLETED
        talk.cancel()


@pytest.mark.asyncio
async def test_frames_that_are_no_message_or_too_long_leave_the_stream_going(tmp_path: Path) -> None:
    async with serving(tmp_path, server__max_message_bytes="100000") as server:
        await server.session("s")
        talk = Talk(Flat(raw_converse(server.channel)()))
        await talk.send("open", open=OPEN(session_id="s"))
        await talk.answer("open")
        before = dump(tmp_path)
        await talk.call.write(b"\xff\xff\xff")
        assert of_frame(await talk.until(lambda item: item.HasField("error"))) == bad()
        # A frame of a later version of the contract: a field that is not known here.
        await talk.call.write(b"\x0a\x01f" + b"\xa2\x06\x02\x08\x01")
        assert of_frame(await talk.answer("f")) == bad(reason="UNKNOWN_FRAME")
        await talk.send("large", submit=submission("", "x" * 150_000))
        too_large = of_frame(await talk.until(lambda item: item.HasField("error")))
        assert too_large == refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
        assert dump(tmp_path) == before
        await talk.ask("good", submit=submission("", "still here", run_id="r"))
        assert (await talk.terminal("r")).text == "still here"
        talk.cancel()


@pytest.mark.asyncio
async def test_a_stream_that_does_not_begin_with_its_opening_ends_with_the_reason(tmp_path: Path) -> None:
    first = refusal(INVALID, "FIRST_FRAME_NOT_OPEN")
    no_session = refusal(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", kinds=("ResourceInfo",))
    cases: list[tuple[Refusal, Any]] = [
        (first, run_service_pb2.ConverseRequest(submit=submission("s"))),
        (first, run_service_pb2.ConverseRequest()),
        (first, NO_FIELDS),
        (bad(), b"\xff\xff"),
        (bad("open.session_id", reason="INVALID_ID"), run_service_pb2.ConverseRequest(open=OPEN())),
        (
            bad(
                "open.session_id",
                "open.filter.run_ids[0]",
                "open.create_with.title",
                "open.create_with.model",
                reason="INVALID_ID",
            ),
            run_service_pb2.ConverseRequest(
                open=OPEN(
                    session_id="a b",
                    filter=run_service_pb2.WatchFilter(run_ids=["c d"]),
                    create_with=session_service_pb2.SessionSettings(title="a\0", model="nobody/x"),
                )
            ),
        ),
        (bad("open.after_seq"), run_service_pb2.ConverseRequest(open=OPEN(session_id="s", after_seq=-1))),
        (
            refusal(grpc.StatusCode.OUT_OF_RANGE, "CURSOR_AHEAD"),
            run_service_pb2.ConverseRequest(open=OPEN(session_id="s", after_seq=1000)),
        ),
        (no_session, run_service_pb2.ConverseRequest(open=OPEN(session_id="none"))),
    ]
    async with serving(tmp_path) as server:
        await server.session("s")
        before = dump(tmp_path)
        for number, (wanted, frame) in enumerate(cases):
            call = Flat(raw_converse(server.channel)())
            if frame is not NO_FIELDS:
                await call.write(frame)
            await call.done_writing()
            found = await refused(call.read())
            assert found == wanted, number
            if found.reason == "CURSOR_AHEAD":
                assert found.found["ErrorInfo"].metadata["newest_seq"] == "1"
        assert dump(tmp_path) == before


@pytest.mark.asyncio
async def test_an_opening_that_makes_its_session_makes_it_once(tmp_path: Path) -> None:
    settings = session_service_pb2.SessionSettings
    async with serving(tmp_path) as server:
        talk = await Talk.open(server, "new", create_with=settings(title="first"), after_seq=0)
        assert talk.items[0].receipt.open.session.settings.title == "first"
        again = await Talk.open(server, "new", create_with=settings(title="second"))
        assert again.items[0].receipt.open.session.settings.title == "first"
        await talk.ask("f", submit=submission("", "hello", run_id="r"))
        await talk.terminal("r")
        events = [item.event for item in talk.items if item.HasField("event")]
        assert events[0].HasField("session_created")
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        talk.cancel()
        again.cancel()

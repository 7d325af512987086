"""Bad input: a precise status, and nothing changed in the store."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from tests.service.harness import Harness, prompt, serving, submission
from tests.service.wire.refusals import Refusal, refusal, refused
from tests.service.wire.rows import dump
from turnkeeper.v1 import admin_service_pb2, content_pb2, event_pb2, run_service_pb2, session_service_pb2

INVALID = grpc.StatusCode.INVALID_ARGUMENT
FIELD = "INVALID_FIELD"
LONG = "x" * 129
UNKNOWN: Any = 9
Call = Callable[[Harness], Awaitable[Any]]
STEER = event_pb2.DELIVERY_STEER


def submit(*args: Any, **fields: Any) -> Call:
    given = submission(*args, **fields)
    return lambda server: server.runs.SubmitRun(run_service_pb2.SubmitRunRequest(submission=given))


def run(*args: Any, **fields: Any) -> Call:
    given = submission(*args, **fields)
    return lambda server: server.runs.Run(run_service_pb2.RunRequest(submission=given)).read()


def create(session_id: str = "new", **settings: Any) -> Call:
    request = session_service_pb2.CreateSessionRequest(
        session_id=session_id, settings=session_service_pb2.SessionSettings(**settings)
    )
    return lambda server: server.sessions.CreateSession(request)


def update(session_id: str, *paths: str, **settings: Any) -> Call:
    request = session_service_pb2.UpdateSessionRequest(
        session_id=session_id,
        settings=session_service_pb2.SessionSettings(**settings),
        update_mask=FieldMask(paths=paths),
    )
    return lambda server: server.sessions.UpdateSession(request)


def cancel(scope: dict[str, Any] | None = None, **fields: Any) -> Call:
    request = run_service_pb2.CancelRunsRequest(scope=run_service_pb2.CancelScope(**(scope or {})), **fields)
    return lambda server: server.runs.CancelRuns(request)


def watch(**fields: Any) -> Call:
    return lambda server: server.runs.WatchSession(run_service_pb2.WatchSessionRequest(**fields)).read()


def messages(**fields: Any) -> Call:
    return lambda server: server.sessions.ListMessages(session_service_pb2.ListMessagesRequest(**fields))


def runs(**fields: Any) -> Call:
    return lambda server: server.runs.ListRuns(run_service_pb2.ListRunsRequest(**fields))


def sessions(**fields: Any) -> Call:
    return lambda server: server.sessions.ListSessions(session_service_pb2.ListSessionsRequest(**fields))


def media(**fields: Any) -> content_pb2.Part:
    return content_pb2.Part(media=content_pb2.Media(**fields))


def bad(*fields: str, reason: str = FIELD) -> Refusal:
    return refusal(INVALID, reason, *fields)


def forged(position: str, *query: str) -> str:
    """A token that holds together, with a position that no answer gave."""
    digest = hashlib.sha256("\0".join([*query, position]).encode()).digest()[:9]
    return base64.urlsafe_b64encode(digest + position.encode()).decode()


S = "submission."
CASES: dict[str, tuple[Refusal, Call]] = {
    "prompt empty": (bad(f"{S}prompt", reason="EMPTY_PROMPT"), submit("s", " \n\t")),
    "prompt absent": (
        bad(f"{S}prompt", reason="EMPTY_PROMPT"),
        lambda server: server.runs.SubmitRun(
            run_service_pb2.SubmitRunRequest(submission=run_service_pb2.Submission(session_id="s"))
        ),
    ),
    "submission absent": (
        bad(f"{S}session_id", reason="INVALID_ID"),
        lambda server: server.runs.SubmitRun(run_service_pb2.SubmitRunRequest()),
    ),
    "prompt too large": (bad(f"{S}prompt", reason="PROMPT_TOO_LARGE"), submit("s", "x" * 10_001)),
    "prompt too large, streamed": (bad(f"{S}prompt", reason="PROMPT_TOO_LARGE"), run("s", "x" * 10_001)),
    "prompt part of nothing": (
        bad(f"{S}prompt[1]"),
        lambda server: server.runs.SubmitRun(
            run_service_pb2.SubmitRunRequest(
                submission=run_service_pb2.Submission(session_id="s", prompt=[*prompt("x"), content_pb2.Part()])
            )
        ),
    ),
    "media in every wrong way": (
        bad(f"{S}prompt[0].media.mime_type", f"{S}prompt[0].media", f"{S}prompt[1].media.uri", f"{S}prompt[2].media"),
        lambda server: server.runs.SubmitRun(
            run_service_pb2.SubmitRunRequest(
                submission=run_service_pb2.Submission(
                    session_id="s",
                    prompt=[
                        media(),
                        media(mime_type="image/png", uri="http://plain"),
                        media(mime_type="image/png", uri="https://both", data=b"x"),
                    ],
                )
            )
        ),
    ),
    "media that cannot be sent on": (
        bad(f"{S}prompt[0].media.mime_type", f"{S}prompt[0].media.name", f"{S}prompt[1].media.uri"),
        lambda server: server.runs.SubmitRun(
            run_service_pb2.SubmitRunRequest(
                submission=run_service_pb2.Submission(
                    session_id="s",
                    prompt=[
                        media(mime_type="image/png,x", data=b"x", name="n" * 256),
                        media(mime_type="text/plain; charset=utf-8", uri="https://" + "u" * 8192),
                    ],
                )
            )
        ),
    ),
    "too many parts": (
        bad(f"{S}prompt", reason="PROMPT_TOO_LARGE"),
        lambda server: server.runs.SubmitRun(
            run_service_pb2.SubmitRunRequest(
                submission=run_service_pb2.Submission(session_id="s", prompt=prompt("x") * 9)
            )
        ),
    ),
    "session id missing": (bad(f"{S}session_id", reason="INVALID_ID"), submit("")),
    "run id of other characters": (bad(f"{S}run_id", reason="INVALID_ID"), submit("s", run_id="a b")),
    "run id too long": (bad(f"{S}run_id", reason="INVALID_ID"), submit("s", run_id=LONG)),
    "run id with NUL": (bad(f"{S}run_id"), submit("s", run_id="a\0b")),
    "NUL in a prompt": (bad(f"{S}prompt[0].text.text"), submit("s", "a\0b")),
    "model of nobody": (bad(f"{S}model", reason="UNKNOWN_MODEL"), submit("s", model="nobody/x")),
    "model without provider": (bad(f"{S}model", reason="UNKNOWN_MODEL"), submit("s", model="echo")),
    "delivery that is not known": (bad(f"{S}delivery"), submit("s", delivery=99)),
    "steer with what its target fixes": (
        bad(
            *(
                S + name
                for name in (
                    "model",
                    "parameters",
                    "tool_choice",
                    "output_schema_json",
                    "max_steps",
                    "pre_approved_tools",
                    "max_output_reprompts",
                    "output_reprompt",
                )
            )
        ),
        submit(
            "s",
            delivery=STEER,
            model="scripted/echo",
            parameters=content_pb2.ModelParameters(temperature=1),
            tool_choice="none",
            output_schema_json="{}",
            max_steps=1,
            pre_approved_tools=["t"],
            max_output_reprompts=0,
            output_reprompt="again",
        ),
    ),
    **{
        f"schema that is {name}": (bad(f"{S}output_schema_json"), submit("s", output_schema_json=schema))
        for name, schema in {
            "no JSON": "{",
            "no object": "true",
            "no schema": '{"properties": {"a": {"type": 7}}}',
            "a pattern that is none": '{"pattern": "("}',
            "nested too deeply": '{"not": ' * 4000,
            "too long": json.dumps({"description": "x" * 40_000}),
        }.items()
    },
    "words about an output that nobody asked for": (
        bad(f"{S}max_output_reprompts", f"{S}output_reprompt"),
        submit("s", max_output_reprompts=1, output_reprompt="again"),
    ),
    "re-prompts out of their range": (
        bad(f"{S}max_output_reprompts", f"{S}output_reprompt"),
        submit("s", output_schema_json="{}", max_output_reprompts=11, output_reprompt="x" * 10_001),
    ),
    "steer by default with a model": (bad(f"{S}model"), submit("steering", model="scripted/echo")),
    "parameters out of their ranges": (
        bad(
            *(
                f"{S}parameters.{name}"
                for name in (
                    "max_output_tokens",
                    "temperature",
                    "top_p",
                    "top_k",
                    "frequency_penalty",
                    "presence_penalty",
                    "stop",
                )
            )
        ),
        submit(
            "s",
            parameters=content_pb2.ModelParameters(
                max_output_tokens=0,
                temperature=float("nan"),
                top_p=0,
                top_k=0,
                frequency_penalty=3,
                presence_penalty=-3,
                stop=[""],
            ),
        ),
    ),
    "times and steps below nothing": (
        bad(f"{S}max_steps", f"{S}start_timeout", f"{S}run_timeout", f"{S}on_disconnect.cancel_after"),
        submit(
            "s",
            max_steps=-1,
            start_timeout=Duration(seconds=-1),
            run_timeout=Duration(nanos=-1),
            on_disconnect=run_service_pb2.DisconnectPolicy(cancel_after=Duration(seconds=10**12)),
        ),
    ),
    "preconditions": (
        bad(
            f"{S}preconditions.expected_open_run_id",
            f"{S}preconditions.for_agent_id",
            reason="INVALID_ID",
        ),
        submit(
            "s",
            preconditions=run_service_pb2.Preconditions(
                require_idle=True, expected_open_run_id="a b", for_agent_id="c d"
            ),
        ),
    ),
    "everything at once": (
        bad(
            f"{S}session_id",
            f"{S}run_id",
            f"{S}prompt",
            f"{S}model",
            f"{S}max_steps",
            reason="INVALID_ID",
        ),
        submit("a b", "x" * 10_001, run_id="c d", model="nobody/x", max_steps=-1),
    ),
    "create with an id of other characters and bad settings": (
        bad("session_id", "settings.title", "settings.model", "settings.max_steps", reason="INVALID_ID"),
        create("a b", title="t" * 201, model="nobody/x", max_steps=-1),
    ),
    "create with long texts and labels": (
        bad("settings.system_prompt", "settings.labels", "settings.labels[k]"),
        create(system_prompt="x" * 1001, labels={"k": "v" * 1025, "no id": "v"}),
    ),
    "create with NUL and enum values that are not known": (
        bad("settings.prompt_prefix", "settings.labels", "settings.default_delivery", "settings.orphan_policy"),
        create(prompt_prefix="a\0", labels={"k": "a\0"}, default_delivery=77, orphan_policy=-4),
    ),
    "update with two unknown paths": (
        bad("session_id", "update_mask", "settings.small_model", reason="INVALID_ID"),
        update("", "model", "nothing", small_model="nobody/x"),
    ),
    "update of a path inside": (bad("update_mask"), update("s", "parameters.top_k")),
    "get of no session": (
        bad("session_id", reason="INVALID_ID"),
        lambda server: server.sessions.GetSession(session_service_pb2.GetSessionRequest()),
    ),
    "delete of no session": (
        bad("session_id", reason="INVALID_ID"),
        lambda server: server.sessions.DeleteSession(session_service_pb2.DeleteSessionRequest(session_id="a/b")),
    ),
    "messages": (
        bad("session_id", "context_id", "page_token", "page_size", reason="INVALID_ID"),
        messages(session_id="", context_id="a\0b", page_token="no token", page_size=-1),
    ),
    "runs": (
        bad("session_id", "page_token", "page_size", reason="INVALID_ID"),
        runs(session_id="ä", page_token="%%%", page_size=-(2**31)),
    ),
    "approvals": (
        bad("session_id", "page_token", "page_size", reason="INVALID_ID"),
        lambda server: server.sessions.ListApprovals(
            session_service_pb2.ListApprovalsRequest(page_token="x", page_size=-1)
        ),
    ),
    "answer to no approval": (
        bad("session_id", "approval_id", "comment"),
        lambda server: server.sessions.AnswerApproval(
            session_service_pb2.AnswerApprovalRequest(session_id="a b", approval_id="", comment="\0")
        ),
    ),
    "sessions": (
        bad("page_token", "page_size", reason="INVALID_PAGE_TOKEN"),
        sessions(page_token="AAAA", page_size=-1),
    ),
    "runs, a token that was made up": (
        bad("page_token", reason="INVALID_PAGE_TOKEN"),
        runs(session_id="s", page_token=forged("²", "runs", "default", "s", "False")),
    ),
    "runs, a token beyond all numbers": (
        bad("page_token", reason="INVALID_PAGE_TOKEN"),
        runs(session_id="s", page_token=forged("9" * 40, "runs", "default", "s", "False")),
    ),
    "messages, a token that was made up": (
        bad("page_token", reason="INVALID_PAGE_TOKEN"),
        messages(session_id="s", page_token=forged("-1", "messages", "default", "s", "main")),
    ),
    "sessions, a token that was made up": (
        bad("page_token", reason="INVALID_PAGE_TOKEN"),
        sessions(page_token=forged("x", "sessions", "default")),
    ),
    "get of no run": (
        bad("run_id", reason="INVALID_ID"),
        lambda server: server.runs.GetRun(run_service_pb2.GetRunRequest(run_id=LONG)),
    ),
    "cancel of nothing": (bad("scope"), cancel()),
    "cancel of a session by no id": (
        bad("scope.session_id", "turn_id", "session_id", reason="INVALID_ID"),
        cancel({"session_id": ""}, turn_id="t", session_id="s"),
    ),
    "cancel of a run by no id": (
        bad("scope.run_id", "turn_id", "session_id", "mode"),
        cancel({"run_id": "a b"}, turn_id="c d", session_id="e f", mode=9),
    ),
    "cancel up to nothing": (
        bad("scope.up_to.session_id", "scope.up_to.accept_sequence", reason="INVALID_ID"),
        cancel({"up_to": run_service_pb2.SequenceScope()}),
    ),
    "clear the queue of nothing": (
        bad("session_id", reason="INVALID_ID"),
        lambda server: server.runs.ClearQueue(run_service_pb2.ClearQueueRequest()),
    ),
    "watch": (
        bad("session_id", "after_seq", "filter.run_ids[1]", reason="INVALID_ID"),
        watch(session_id="", after_seq=-1, filter=run_service_pb2.WatchFilter(run_ids=["a", ""])),
    ),
    "watch the future": (
        refusal(grpc.StatusCode.OUT_OF_RANGE, "CURSOR_AHEAD"),
        watch(session_id="s", after_seq=2**62),
    ),
    "drain backwards": (
        bad("timeout"),
        lambda server: server.admin.Drain(admin_service_pb2.DrainRequest(timeout=Duration(seconds=-5))),
    ),
    "active turns": (
        bad("tenant", "page_token", "page_size", reason="INVALID_ID"),
        lambda server: server.admin.ListActiveTurns(
            admin_service_pb2.ListActiveTurnsRequest(tenant="a b", page_token="x", page_size=-1)
        ),
    ),
    "cancel all of no tenant": (
        bad("tenant", "mode"),
        lambda server: server.admin.CancelAll(admin_service_pb2.CancelAllRequest(tenant="a\0", mode=UNKNOWN)),
    ),
}


@asynccontextmanager
async def prepared(data_dir: Path, **overrides: Any) -> AsyncIterator[Harness]:
    """A server with a session "s" that has a finished run "old", and one whose prompts steer by default."""
    async with serving(
        data_dir,
        limits__max_prompt_bytes="10000",
        limits__max_prompt_parts="8",
        limits__max_system_prompt_bytes="1000",
        **overrides,
    ) as server:
        await server.session("s")
        await server.session("steering", default_delivery=STEER)
        await server.submit("s", "hello", run_id="old")
        await server.terminals("s", ["old"])
        yield server


@pytest.mark.asyncio
async def test_bad_input_has_a_precise_status_and_changes_nothing(tmp_path: Path) -> None:
    async with prepared(tmp_path) as server:
        before = dump(tmp_path)
        assert len(before["runs"]) == 1
        for name, (wanted, call) in CASES.items():
            found = await refused(call(server))
            assert found == wanted, name
            assert len(found.message) < 2000, name
        assert dump(tmp_path) == before


@pytest.mark.asyncio
async def test_an_unknown_thing_is_named_and_an_existing_one_is_not_made_again(tmp_path: Path) -> None:
    missing, exists = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS
    no_session = refusal(missing, "SESSION_NOT_FOUND", kinds=("ResourceInfo",))
    cases: list[tuple[Refusal, str, Call]] = [
        (no_session, "none", submit("none")),
        (no_session, "none", run("none")),
        (no_session, "none", update("none", title="x")),
        (no_session, "none", messages(session_id="none")),
        (no_session, "none", runs(session_id="none")),
        (no_session, "none", cancel({"session_id": "none"})),
        (no_session, "none", cancel({"up_to": run_service_pb2.SequenceScope(session_id="none", accept_sequence=1)})),
        (no_session, "none", cancel({"run_id": "unseen"}, session_id="none")),
        (no_session, "none", watch(session_id="none", after_seq=0)),
        (
            refusal(missing, "RUN_NOT_FOUND", kinds=("ResourceInfo",)),
            "none",
            lambda server: server.runs.GetRun(run_service_pb2.GetRunRequest(run_id="none")),
        ),
        (
            refusal(missing, "RUN_NOT_FOUND", kinds=("ResourceInfo",)),
            "old",
            cancel({"run_id": "old"}, session_id="steering"),
        ),
        (refusal(exists, "SESSION_EXISTS", kinds=("ResourceInfo",)), "s", create("s", title="other")),
        (refusal(exists, "RUN_ID_REUSED", kinds=("ResourceInfo",)), "old", submit("s", "other", run_id="old")),
        (refusal(exists, "RUN_ID_REUSED", kinds=("ResourceInfo",)), "old", submit("steering", "hello", run_id="old")),
    ]
    async with prepared(tmp_path) as server:
        before = dump(tmp_path)
        for number, (wanted, name, call) in enumerate(cases):
            found = await refused(call(server))
            assert found == wanted, number
            assert found.found["ResourceInfo"].resource_name == name, number
            assert found.found["ResourceInfo"].resource_type.startswith("turnkeeper.dev/"), number
        assert dump(tmp_path) == before


@pytest.mark.asyncio
async def test_a_precondition_that_fails_says_which(tmp_path: Path) -> None:
    failed = grpc.StatusCode.FAILED_PRECONDITION
    async with prepared(tmp_path) as server:
        await server.submit("s", '{"gate": "g"}', run_id="open")
        await server.gates.reached("g")
        before = dump(tmp_path)
        preconditions = run_service_pb2.Preconditions
        cases: list[tuple[str, Call]] = [
            ("SESSION_BUSY", submit("s", delivery=event_pb2.DELIVERY_REJECT)),
            ("SESSION_BUSY", submit("s", preconditions=preconditions(require_idle=True))),
            ("OPEN_RUN_MISMATCH", submit("s", preconditions=preconditions(expected_open_run_id="other"))),
            ("OPEN_RUN_MISMATCH", submit("steering", preconditions=preconditions(expected_open_run_id="open"))),
            (
                "SESSION_BUSY",
                lambda server: server.sessions.DeleteSession(session_service_pb2.DeleteSessionRequest(session_id="s")),
            ),
        ]
        for reason, call in cases:
            found = await refused(call(server))
            assert found == refusal(failed, reason, kinds=("PreconditionFailure",))
            (violation,) = found.found["PreconditionFailure"].violations
            assert (violation.type, violation.subject in ("s", "steering")) == (reason, True)
        assert dump(tmp_path) == before
        server.gates.open("g")


@pytest.mark.asyncio
async def test_a_cancel_of_a_finished_run_answers_how_it_ended_and_writes_nothing(tmp_path: Path) -> None:
    async with prepared(tmp_path) as server:
        before = dump(tmp_path)
        for fields in ({}, {"wait": True}, {"mode": event_pb2.CANCEL_MODE_STOP}, {"rollback": True}):
            (found,) = (await server.cancel(run_id="old", **fields)).runs
            assert found.disposition == run_service_pb2.CANCEL_DISPOSITION_ALREADY_FINISHED
            assert (found.outcome.status, found.outcome.text) == (event_pb2.OUTCOME_STATUS_COMPLETED, "hello")
        assert dump(tmp_path) == before


@pytest.mark.asyncio
async def test_a_page_token_is_good_for_its_own_query_only(tmp_path: Path) -> None:
    async with prepared(tmp_path) as server:
        await server.submit("s", "hello", run_id="more")
        await server.terminals("s", ["more"])
        before = dump(tmp_path)
        token = (await runs(session_id="s", page_size=1)(server)).next_page_token
        assert token
        assert [run.run_id for run in (await runs(session_id="s", page_token=token)(server)).runs] == ["more"]
        others = [
            runs(session_id="steering", page_token=token),
            runs(session_id="s", page_token=token, is_open_only=True),
            messages(session_id="s", page_token=token),
            sessions(page_token=token),
            runs(session_id="s", page_token=token[:-4]),
            runs(session_id="s", page_token=token + "AAAA"),
        ]
        for number, call in enumerate(others):
            assert await refused(call(server)) == bad("page_token", reason="INVALID_PAGE_TOKEN"), number
        assert dump(tmp_path) == before


@pytest.mark.parametrize(
    "content",
    [
        b"\x0a\x05\x0a\x01",  # A length beyond the end.
        b"\xff\xff\xff\xff",
        b"\x0a\x04\x0a\x02\xc3\x28",  # A session id that is not UTF-8.
    ],
)
@pytest.mark.asyncio
async def test_bytes_that_are_no_message_are_invalid(tmp_path: Path, content: bytes) -> None:
    async with prepared(tmp_path) as server:
        before = dump(tmp_path)
        unary: Any = server.channel.unary_unary("/turnkeeper.v1.RunService/SubmitRun")
        stream: Any = server.channel.unary_stream("/turnkeeper.v1.RunService/Run")
        for call in (unary(content), stream(content).read()):
            assert await refused(call) == refusal(INVALID, FIELD)
        assert dump(tmp_path) == before


@pytest.mark.asyncio
async def test_a_message_over_the_size_limit_is_refused_with_its_reason(tmp_path: Path) -> None:
    async with prepared(tmp_path, server__max_message_bytes="100000") as server:
        before = dump(tmp_path)
        wanted = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", kinds=("QuotaFailure",))
        for call in (submit("s", "x" * 150_000), run("s", "x" * 150_000)):
            found = await refused(call(server))
            assert found == wanted
            assert found.found["ErrorInfo"].metadata["limit"] == "100000"
        # Far over it gRPC itself refuses, before the message is in memory.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await submit("s", "x" * 1_000_000)(server)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dump(tmp_path) == before
        await server.submit("s", "still there", run_id="after")
        assert "after" in await server.terminals("s", ["after"])


@pytest.mark.asyncio
async def test_a_deadline_that_has_passed_changes_nothing(tmp_path: Path) -> None:
    async with prepared(tmp_path) as server:
        before = dump(tmp_path)
        request = run_service_pb2.SubmitRunRequest(submission=submission("s"))
        calls = [server.runs.SubmitRun(request, timeout=-1) for _ in range(20)]
        assert {await call.code() for call in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        await server.submit("s", "sentinel", run_id="sentinel")
        await server.terminals("s", ["sentinel"])
        assert len(dump(tmp_path)["runs"]) == len(before["runs"]) + 1


@pytest.mark.asyncio
async def test_full_bounds_say_when_to_try_again_and_which_bound(tmp_path: Path) -> None:
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    limits = {
        "limits__max_queued_runs_per_session": "1",
        "limits__max_open_runs": "3",
        "limits__max_tombstones_per_tenant": "2",
    }
    async with prepared(tmp_path, **limits) as server:
        await server.session("t")
        await server.submit("s", '{"gate": "g"}', run_id="s1")
        await server.gates.reached("g")
        await server.submit("s", run_id="s2")
        await server.cancel(run_id="unseen-1")
        await server.cancel(run_id="unseen-2")
        cases: list[tuple[str, str, Call]] = [
            ("QUEUE_FULL", "max_queued_runs_per_session", submit("s")),
            ("TENANT_LIMIT", "max_tombstones_per_tenant", cancel({"run_id": "unseen-3"})),
            ("SERVER_OVERLOADED", "max_open_runs", submit("steering")),
        ]
        for reason, limit, call in cases:
            if reason == "SERVER_OVERLOADED":
                await server.submit("t", '{"gate": "g"}', run_id="t1")
                await server.gates.reached("g", 2)
            before = dump(tmp_path)
            found = await refused(call(server))
            assert found == refusal(exhausted, reason, kinds=("RetryInfo", "QuotaFailure"))
            (violation,) = found.found["QuotaFailure"].violations
            assert violation.subject == limit
            assert found.found["RetryInfo"].retry_delay.ToMilliseconds() > 0
            assert int(found.found["ErrorInfo"].metadata["limit"]) >= 1
            assert dump(tmp_path) == before
        # A known run and a cancel are served at the bounds too, and a run that is cancelled before it comes.
        assert (await server.submit("s", run_id="s2")).is_replay
        assert (await server.cancel(run_id="unseen-1")).runs[
            0
        ].disposition == run_service_pb2.CANCEL_DISPOSITION_TOMBSTONED
        await server.submit("s", run_id="unseen-1")
        server.gates.open("g")
        outcomes = await server.terminals("s", ["s1", "s2", "unseen-1"])
        assert outcomes["unseen-1"].status == event_pb2.OUTCOME_STATUS_CANCELLED
        await server.terminals("t", ["t1"])
        await server.submit("s", run_id="free-again")
        await server.terminals("s", ["free-again"])

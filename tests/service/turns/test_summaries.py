"""Summaries (U-29): on request, when the context gets full, and when it does not fit; what they keep, and cancels."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.service.dispatch.script import provider
from tests.service.dispatch.watch import watching
from tests.service.failure.stories import kinds, reason_of
from tests.service.harness import Harness, reason, serving
from tests.service.turns.scenes import Tools, call, recorded, said
from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2, session_service_pb2
from turnkeeper_service.engine.context.summary import LEFT_OUT, is_nearly_full, kept_parts
from turnkeeper_service.providers.base import ModelRequest

LONG = "word " * 2_000
"""Some 2,500 tokens: more than any summary of these scripts, and worth one in a window of 10,000."""
FULL = {"input_tokens": 9_000, "output_tokens": 100}
"""What a model of 10,000 tokens counts when it is nearly full."""
OVERFLOW = {"fail": "PROVIDER_REFUSED", "status": 400, "overflow": True}
WINDOW: dict[str, Any] = {'models__"scripted/file:script.json"__context_window_tokens': "10000"}


@asynccontextmanager
async def story(
    folder: Path, *replies: dict[str, Any], tools: Tools | None = None, **options: Any
) -> AsyncIterator[tuple[Harness, list[ModelRequest]]]:
    """A server with the session ``s`` and the requests that its model gets.

    Which reply is given depends on the request alone: as many answers as it holds are passed over. So after a summary
    the first one is given again, and its ``attempts`` tell the calls apart.
    """
    (folder / "script.json").write_text(json.dumps({"replies": replies}))
    settings: dict[str, Any] = {
        "providers__scripted__format": "scripted",
        "providers__scripted__script_root": str(folder),
        "defaults__model": "scripted/file:script.json",
        **options,
    }
    offered = tools.offered if tools is not None else None
    async with serving(folder / "data", tools=offered, **settings) as server:
        await server.session("s")
        yield server, recorded(server)


async def summarize(server: Harness, run_id: str = "sum") -> session_service_pb2.SummarizeSessionResponse:
    request = session_service_pb2.SummarizeSessionRequest(session_id="s", run_id=run_id)
    response: session_service_pb2.SummarizeSessionResponse = await server.sessions.SummarizeSession(request)
    return response


async def end_of(server: Harness, run_id: str) -> event_pb2.Outcome:
    return (await server.terminals("s", [run_id]))[run_id]


def texts(request: ModelRequest) -> list[str]:
    """What a request tells, summaries by their text."""
    return [
        " | ".join(part.summary.text if part.HasField("summary") else said(_alone(part)) for part in message.parts)
        for message in request.messages
    ]


def _alone(part: content_pb2.Part) -> content_pb2.Message:
    message = content_pb2.Message()
    message.parts.add().CopyFrom(part)
    return message


def summaries(events: Sequence[event_pb2.Event]) -> list[str]:
    return [kind for kind in kinds(events) if kind.startswith("summary")]


# ---- on request


@pytest.mark.asyncio
async def test_a_summary_on_request_stands_for_what_was_said(tmp_path: Path) -> None:
    first = {"attempts": [{"text": "the answer"}], "text": "and on we go"}
    async with story(tmp_path, first, {"text": "SUMMARY", "usage": {"input_tokens": 40, "output_tokens": 7}}) as (
        server,
        requests,
    ):
        await server.submit("s", LONG, "r")
        await server.terminals("s", ["r"])
        async with watching(server, "s") as watch:
            accepted = await summarize(server)
            assert accepted.run_id == "sum"
            outcome = await watch.terminal("sum")
            assert (reason_of(outcome), outcome.text) == ("COMPLETED/ANSWERED", "SUMMARY")
            assert watch.of("sum") == [
                "run_accepted",
                "run_started",
                "summary_started",
                "message_committed",
                "message_context_changed",
                "summary_finished",
                "run_finished",
            ]
        asked = requests[-1]
        assert not asked.tools
        assert said(asked.messages[-1]).startswith("Write a summary of everything above.")
        assert outcome.usage.own.output_tokens == 7
        messages = {message.message_id: message for message in await server.messages("s")}
        assert [message.in_context for message in messages.values()] == [False, False, True]
        summary = messages[outcome.message_id].parts[0].summary
        assert (summary.text, messages[outcome.message_id].role) == ("SUMMARY", content_pb2.ROLE_USER)
        assert summary.covers_seq == max(one.seq for one in messages.values() if not one.in_context)
        view = await server.sessions.GetSession(session_service_pb2.GetSessionRequest(session_id="s"))
        assert view.session.context_tokens.answer_tokens == 7
        await server.submit("s", "next", "r2")
        assert (await end_of(server, "r2")).text == "and on we go"
        assert texts(requests[-1]) == ["SUMMARY", "next"]


@pytest.mark.asyncio
async def test_a_summary_is_a_run_in_line(tmp_path: Path) -> None:
    """It waits for its turn, is replayed by its id, and a prompt waits behind it."""
    first = {"attempts": [{"text": "one", "gate": "held"}], "text": "two"}
    async with story(tmp_path, first, {"text": "SUMMARY"}) as (server, _):
        await server.submit("s", LONG, "r")
        await server.gates.reached("held")
        accepted = await summarize(server)
        await server.submit("s", "behind", "behind")
        again = await summarize(server)
        assert again.accept_sequence == accepted.accept_sequence
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.submit("s", "prompt", "sum")
        assert reason(caught.value) == "RUN_ID_REUSED"
        assert (await server.run_view("sum")).kind == event_pb2.RUN_KIND_SUMMARY
        server.gates.open("held")
        outcomes = await server.terminals("s", ["r", "sum", "behind"])
        assert list(outcomes) == ["r", "sum", "behind"]
        assert [one.text for one in outcomes.values()] == ["one", "SUMMARY", "two"]


@pytest.mark.asyncio
async def test_bad_requests_for_a_summary_change_nothing(tmp_path: Path) -> None:
    async with story(tmp_path, {"text": "x"}) as (server, requests):
        for session_id, run_id, wanted in (("", "", "INVALID_ID"), ("s", "a b", "INVALID_ID"), ("no", "", None)):
            request = session_service_pb2.SummarizeSessionRequest(session_id=session_id, run_id=run_id)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.sessions.SummarizeSession(request)
            assert reason(caught.value) == (wanted or "SESSION_NOT_FOUND")
        # An empty session has nothing to summarise: no model is asked.
        await summarize(server)
        outcome = await end_of(server, "sum")
        assert (reason_of(outcome), outcome.text) == ("COMPLETED/ANSWERED", "")
        assert not requests


@pytest.mark.asyncio
async def test_a_steer_does_not_bind_to_a_summary(tmp_path: Path) -> None:
    async with story(tmp_path, {"attempts": [{"text": "one"}], "text": "two"}, {"text": "S", "gate": "held"}) as (
        server,
        _,
    ):
        await server.submit("s", LONG, "r")
        await server.terminals("s", ["r"])
        await summarize(server)
        await server.gates.reached("held")
        receipt = await server.submit("s", "steer", "steer", delivery=event_pb2.DELIVERY_STEER)
        assert receipt.steers_run_id == ""
        server.gates.open("held")
        outcomes = await server.terminals("s", ["sum", "steer"])
        assert [reason_of(one) for one in outcomes.values()] == ["COMPLETED/ANSWERED", "COMPLETED/ANSWERED"]


@pytest.mark.asyncio
@pytest.mark.parametrize("way", ["cancel", "replace"])
async def test_half_a_summary_is_none(tmp_path: Path, way: str) -> None:
    """Cancelled or replaced while it streams, it is discarded and the context is as it was (U-24)."""
    first = {"text": "one"}
    half = {"attempts": [{"text": "half a summary", "gate": "held", "gate_after": 2}], "text": "two"}
    async with story(tmp_path, first, half) as (server, requests):
        await server.submit("s", LONG, "r")
        await server.terminals("s", ["r"])
        async with watching(server, "s") as watch:
            await summarize(server)
            await server.gates.reached("held")
            if way == "cancel":
                receipt = await server.cancel(run_id="sum", wait=True)
                assert reason_of(receipt.runs[0].outcome) == "CANCELLED/USER"
                await server.submit("s", "next", "next")
            else:
                await server.submit("s", "next", "next", delivery=event_pb2.DELIVERY_REPLACE)
            outcome = await watch.terminal("sum")
            assert (outcome.status, outcome.text) == (event_pb2.OUTCOME_STATUS_CANCELLED, "")
            assert outcome.usage.own.num_calls == 1
            assert watch.of("sum")[-2:] == ["summary_discarded", "run_finished"]
            assert (await watch.terminal("next")).text == "two"
        assert texts(requests[-1]) == [LONG, "one", "next"]
        assert all(message.in_context for message in await server.messages("s"))


# ---- when the context gets full


@pytest.mark.spec("dispatch:G-6")
@pytest.mark.asyncio
async def test_a_turn_is_summarised_in_its_place_and_goes_on(tmp_path: Path) -> None:
    """The prompt is kept word for word; clearing the queue meanwhile leaves the run alone."""
    tools = Tools()
    tools.quick("look")
    first = {"attempts": [{"tool_calls": [call("look", "c")], "usage": FULL}], "text": "done"}
    summary = {"text": "SUMMARY", "gate": "sum", "usage": {"input_tokens": 9_100, "output_tokens": 20}}
    async with story(tmp_path, first, summary, tools=tools, **WINDOW) as (server, requests):
        async with watching(server, "s") as watch:
            await server.submit("s", LONG, "r")
            await server.gates.reached("sum")
            await server.submit("s", "queued", "queued")
            await server.runs.ClearQueue(run_service_pb2.ClearQueueRequest(session_id="s"))
            server.gates.open("sum")
            outcome = await watch.terminal("r")
        assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/ANSWERED", "done", 2)
        assert (await end_of(server, "queued")).reason == event_pb2.OUTCOME_REASON_QUEUE_CLEARED
        assert texts(requests[-1]) == [f"SUMMARY | {LONG}"]
        started = next(event for event in watch.events if event.HasField("summary_started"))
        assert started.summary_started.is_automatic
        assert outcome.usage.own.num_calls == 3
        assert [event.run_id for event in watch.events if event.HasField("run_finished")].count("r") == 1
        assert tools.ran == ["look"]


@pytest.mark.asyncio
async def test_a_run_that_begins_with_a_full_context_is_summarised_first(tmp_path: Path) -> None:
    first = {"attempts": [{"text": LONG, "usage": FULL}], "text": "fresh"}
    async with story(tmp_path, first, {"text": "SUMMARY"}, **WINDOW) as (server, requests):
        await server.submit("s", LONG, "r")
        outcome = await end_of(server, "r")
        # None after a finished answer.
        assert summaries(await server.history("s")) == []
        await server.submit("s", "next", "r2")
        outcome = await end_of(server, "r2")
        assert (outcome.text, outcome.num_steps) == ("fresh", 1)
        assert texts(requests[-1]) == ["SUMMARY", "next"]


@pytest.mark.asyncio
@pytest.mark.parametrize("scope", ["session", "defaults"])
async def test_where_it_is_off_there_is_none(tmp_path: Path, scope: str) -> None:
    options: dict[str, Any] = {**WINDOW, "defaults__auto_summarize": "false"} if scope == "defaults" else WINDOW
    async with story(tmp_path, {"text": "one", "usage": FULL}, {"text": "two"}, **options) as (server, _):
        if scope == "session":
            settings = session_service_pb2.SessionSettings(auto_summarize=False)
            await server.sessions.UpdateSession(
                session_service_pb2.UpdateSessionRequest(session_id="s", settings=settings)
            )
        await server.submit("s", LONG, "r")
        await server.submit("s", LONG, "r2")
        assert (await server.terminals("s", ["r", "r2"]))["r2"].text == "two"
        assert summaries(await server.history("s")) == []


@pytest.mark.spec("dispatch:G-7")
@pytest.mark.asyncio
async def test_a_cancel_while_the_summary_streams_ends_the_run(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look")
    first = {"tool_calls": [call("look", "c")], "usage": FULL}
    summary = {"text": "half a summary", "gate": "sum", "gate_after": 2}
    async with story(tmp_path, first, summary, tools=tools, **WINDOW) as (server, requests):
        await server.submit("s", LONG, "r")
        await server.gates.reached("sum")
        receipt = await server.cancel(run_id="r", wait=True)
        outcome = receipt.runs[0].outcome
        assert reason_of(outcome) == "CANCELLED/USER"
        assert outcome.usage.own.num_calls == 2
        assert summaries(await server.history("s")) == ["summary_started", "summary_discarded"]
        assert all(message.in_context for message in await server.messages("s"))
        await server.submit("s", "sentinel", "sentinel", model="scripted/echo")
        await server.terminals("s", ["sentinel"])
        assert [one.model for one in requests] == ["file:script.json"] * 2 + ["echo"]


@pytest.mark.asyncio
async def test_a_rollback_brings_back_what_the_summary_stood_for(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look")
    first = {"attempts": [{"text": "early"}, {"text": "late", "gate": "late"}], "text": "x"}
    second = {"attempts": [{"tool_calls": [call("look", "c")], "usage": FULL}], "text": "x"}
    async with story(tmp_path, first, second, {"text": "SUMMARY"}, tools=tools, **WINDOW) as (server, _):
        await server.submit("s", LONG, "r")
        await server.terminals("s", ["r"])
        await server.submit("s", "more", "r2")
        await server.gates.reached("late")
        await server.cancel(run_id="r2", wait=True, rollback=True)
        in_context = [message for message in await server.messages("s") if message.in_context]
        assert [said(message) for message in in_context] == [LONG, "early"]


@pytest.mark.asyncio
async def test_a_lost_process_discards_its_half_summary_and_goes_on(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("look")
    first = {"attempts": [{"tool_calls": [call("look", "c")], "usage": FULL}], "text": "done"}
    summary = {"text": "SUMMARY", "gate": "sum", "gate_after": 1}
    async with story(tmp_path, first, summary, tools=tools, limits__partial_flush_bytes="1", **WINDOW) as (server, _):
        await server.submit("s", LONG, "r")
        await server.gates.reached("sum")
        await server.server.drain(0.0)
    # The script counts its calls anew, so the one after the summary is a first one.
    async with story_again(tmp_path, {"text": "done"}, {"text": "SUMMARY"}, tools=tools, **WINDOW) as server:
        outcome = await end_of(server, "r")
        assert (reason_of(outcome), outcome.text) == ("COMPLETED/ANSWERED", "done")
        events = await server.history("s")
        assert summaries(events) == ["summary_started", "summary_discarded", "summary_started", "summary_finished"]
        assert await server.server.runs.parts.store.read_partials("default", "r") == []
        assert tools.ran == ["look"]


@asynccontextmanager
async def story_again(folder: Path, *replies: dict[str, Any], tools: Tools, **options: Any) -> AsyncIterator[Harness]:
    """The server after a restart."""
    (folder / "script.json").write_text(json.dumps({"replies": replies}))
    settings: dict[str, Any] = {
        "providers__scripted__format": "scripted",
        "providers__scripted__script_root": str(folder),
        "defaults__model": "scripted/file:script.json",
        **options,
    }
    async with serving(folder / "data", tools=tools.offered, **settings) as server:
        yield server


@pytest.mark.asyncio
async def test_a_summary_of_a_lost_process_is_written_again_at_most_twice(tmp_path: Path) -> None:
    held = {"text": "SUMMARY", "gate": "sum"}
    async with story(tmp_path, {"text": "one"}, held) as (server, _):
        await server.submit("s", LONG, "r")
        await server.terminals("s", ["r"])
        await summarize(server)
        await server.gates.reached("sum")
        await server.server.drain(0.0)
    for _ in range(2):
        async with story_again(tmp_path, {"text": "one"}, held, tools=Tools()) as server:
            await server.gates.reached("sum")
            await server.server.drain(0.0)
    async with story_again(tmp_path, {"text": "one"}, held, tools=Tools()) as server:
        assert reason_of(await end_of(server, "sum")) == "FAILED/PROCESS_LOST"
        assert all(message.in_context for message in await server.messages("s"))


@pytest.mark.asyncio
async def test_a_context_that_others_fill_is_not_summarised_for_nothing(tmp_path: Path) -> None:
    """A short history in a full context: the system prompt and the tools fill it. The turn goes on while it fits."""
    async with story(tmp_path, {"text": "one", "usage": FULL}, {"text": "two"}, **WINDOW) as (server, _):
        await server.submit("s", "short", "r")
        await server.submit("s", "short", "r2")
        assert (await server.terminals("s", ["r", "r2"]))["r2"].text == "two"
        assert summaries(await server.history("s")) == []


# ---- when it does not fit


@pytest.mark.spec("subturns:T96", "subturns:T113")
@pytest.mark.asyncio
async def test_an_overflow_leads_to_a_summary_and_another_try(tmp_path: Path) -> None:
    first = {"attempts": [{"text": "one"}], "text": "it fits"}
    second = {"attempts": [OVERFLOW], "text": "never"}
    async with story(tmp_path, first, second) as (server, requests):
        await server.submit("s", LONG, "r")
        await server.terminals("s", ["r"])
        async with watching(server, "s") as watch:
            await server.submit("s", "next", "r2")
            outcome = await watch.terminal("r2")
        assert (reason_of(outcome), outcome.text) == ("COMPLETED/ANSWERED", "it fits")
        assert [event_pb2.OutcomeReason.Name(one.reason) for one in outcome.errors] == [
            "OUTCOME_REASON_CONTEXT_EXHAUSTED"
        ]
        assert watch.of("r2") == [
            "run_accepted",
            "run_started",
            "message_committed",
            "step_started",
            "attempt_discarded",
            "retry_scheduled",
            "summary_started",
            "message_committed",
            "message_context_changed",
            "summary_finished",
            "message_committed",
            "step_finished",
            "run_finished",
        ]
        changed = next(event for event in watch.events if event.HasField("message_context_changed"))
        assert len(changed.message_context_changed.message_ids) == 3
        assert texts(requests[-1]) == ["never | next"]


@pytest.mark.asyncio
async def test_an_overflow_that_a_summary_does_not_mend(tmp_path: Path) -> None:
    first = {"attempts": [{"text": "one"}], **OVERFLOW}
    second = {"attempts": [OVERFLOW], "text": "SUMMARY"}
    async with story(tmp_path, first, second) as (server, _):
        await server.submit("s", LONG, "r")
        await server.terminals("s", ["r"])
        await server.submit("s", "next", "r2")
        outcome = await end_of(server, "r2")
        assert reason_of(outcome) == "FAILED/CONTEXT_EXHAUSTED"
        assert "a summary was written already" in outcome.errors[-1].detail
        for size in ("system prompt", "tools", "history"):
            assert size in outcome.errors[-1].detail


@pytest.mark.asyncio
async def test_a_summary_that_gains_nothing_is_discarded(tmp_path: Path) -> None:
    second = {"attempts": [OVERFLOW], "text": LONG * 2}
    async with story(tmp_path, {"text": "one"}, second) as (server, _):
        await server.submit("s", "short", "r")
        await server.terminals("s", ["r"])
        await server.submit("s", "next", "r2")
        outcome = await end_of(server, "r2")
        assert reason_of(outcome) == "FAILED/CONTEXT_EXHAUSTED"
        assert "as long as what it stands for" in outcome.errors[-1].detail
        assert summaries(await server.history("s")) == ["summary_started", "summary_discarded"]
        # The context is as it was, and the session goes on.
        in_context = [said(message) for message in await server.messages("s") if message.in_context]
        assert in_context[:3] == ["short", "one", "next"]


@pytest.mark.asyncio
async def test_an_overflow_where_summaries_are_off(tmp_path: Path) -> None:
    async with story(tmp_path, OVERFLOW, defaults__auto_summarize="false") as (server, requests):
        await server.submit("s", "hello", "r")
        outcome = await end_of(server, "r")
        assert reason_of(outcome) == "FAILED/CONTEXT_EXHAUSTED"
        assert "automatic summaries are off" in outcome.errors[-1].detail
        assert len(requests) == 1


@pytest.mark.asyncio
async def test_a_conversation_too_long_for_its_summary_is_shortened(tmp_path: Path) -> None:
    """The request for the summary overflows too: long texts are cut, then the earlier half is left out."""
    first = {"attempts": [{"text": "one"}], "text": "it fits"}
    second = {"attempts": [OVERFLOW, OVERFLOW], "text": "SUMMARY"}
    async with story(tmp_path, first, second) as (server, requests):
        await server.submit("s", LONG * 2, "r")
        await server.terminals("s", ["r"])
        await server.submit("s", "next", "r2")
        outcome = await end_of(server, "r2")
        assert (reason_of(outcome), outcome.text) == ("COMPLETED/ANSWERED", "it fits")
        short = texts(requests[-2])
        assert "characters left out" in short[0]
        assert short[1:3] == ["one", "next"]


@pytest.mark.asyncio
async def test_a_summary_on_request_of_what_no_request_can_hold(tmp_path: Path) -> None:
    async with story(tmp_path, {"text": "one"}, OVERFLOW) as (server, requests):
        await server.submit("s", LONG, "r")
        await server.terminals("s", ["r"])
        requests.clear()
        await summarize(server)
        outcome = await end_of(server, "sum")
        assert reason_of(outcome) == "FAILED/CONTEXT_EXHAUSTED"
        assert "in 2 messages" in outcome.errors[-1].detail
        assert len(requests) == outcome.usage.own.num_calls == 3
        assert all(message.in_context for message in await server.messages("s"))


# ---- together with everything else


@pytest.mark.spec("dispatch:G-9", "dispatch:G-19")
@pytest.mark.asyncio
async def test_summaries_and_submits_at_the_same_time_never_run_together(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await server.submit("s", LONG, "first")
        await server.terminals("s", ["first"])
        names = [f"{kind}{number}" for number in range(30) for kind in ("p", "s")]

        async def one(name: str) -> None:
            if name.startswith("p"):
                await server.submit("s", name, name)
            else:
                await summarize(server, name)

        await asyncio.gather(*map(one, names))
        view = await server.sessions.GetSession(session_service_pb2.GetSessionRequest(session_id="s"))
        assert view.session.is_busy
        outcomes = await server.terminals("s", names)
        assert len(outcomes) == len(names)
        assert provider(server).max_open == 1


@pytest.mark.parametrize(
    ("window", "tokens", "is_full"),
    [
        (None, 10**9, False),
        (200_000, 159_999, False),
        (200_000, 160_000, True),
        (200_001, 180_000, False),
        (200_001, 180_001, True),
        (1_000_000, 979_999, False),
        (1_000_000, 980_000, True),
        (8_192, 6_553, False),
        (8_192, 6_554, True),
    ],
)
def test_when_a_context_is_nearly_full(window: int | None, tokens: int, is_full: bool) -> None:
    assert is_nearly_full(window, tokens) == is_full


def test_prompts_are_kept_as_far_as_they_fit() -> None:
    def user(text: str, turn_id: str = "turn") -> content_pb2.Message:
        message = content_pb2.Message(role=content_pb2.ROLE_USER, turn_id=turn_id)
        message.parts.add().text.text = text
        return message

    long = "x" * (3 << 20)
    history = [user("of another turn", "other"), user(long), user(long), user(long), user("short")]
    kept = [part.text.text for part in kept_parts(history, "turn")]
    assert kept == [long, long, LEFT_OUT, "short"]

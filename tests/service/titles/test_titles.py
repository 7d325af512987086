"""Titles that the server makes: of the first prompt that has text, beside its run (C-96 to C-99)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from examples.upstream import Upstream
from tests.service.dispatch.script import at_gate, provider, reply
from tests.service.dispatch.watch import CANCELLED, COMPLETED, watching
from tests.service.manual_clock import ManualClock
from tests.service.titles.stage import GATED, SMALL, calls_of, is_update, rename, seen, titled, told
from turnkeeper.v1 import content_pb2, run_service_pb2, session_service_pb2
from turnkeeper_service.runs.turns.titles import MAX_CALLS, TITLE_SECONDS

ECHO = "scripted/echo"
PROMPT = "please fix the parser, which takes far too long for long files"
CUT_PROMPT = "please fix the parser, which takes far too long f…"


@pytest.mark.asyncio
async def test_a_title_is_made_beside_the_run_and_its_usage_is_the_sessions(tmp_path: Path) -> None:
    async with titled(tmp_path, GATED) as (server, watch):
        await server.submit("s", PROMPT, "r")
        await at_gate(server, "title")
        outcome = await watch.terminal("r")
        assert (outcome.status, outcome.usage.own.num_calls) == (COMPLETED, 1)
        assert (await seen(server)).title == ""
        server.gates.open("title")
        event = await watch.until(is_update)
        assert (event.run_id, list(event.session_updated.paths)) == ("", ["title"])
        assert event.session_updated.title == "A good title"
        session = await seen(server)
        assert (session.title, session.settings.title) == ("A good title", "")
        assert calls_of(session) == {ECHO: 1, SMALL: 1}
        assert session.usage.own.output_tokens == outcome.usage.own.output_tokens + 4
        # One is enough, and the session is still the one that was asked for.
        await watch.quiet()
        assert calls_of(await seen(server)) == {ECHO: 2, SMALL: 1}
        request = session_service_pb2.CreateSessionRequest(session_id="s")
        assert (await server.sessions.CreateSession(request)).is_replay


def titles_asked(vendor: Upstream) -> list[tuple[str, int | None]]:
    """The calls for titles that a vendor got: model and output limit."""
    bodies = [request.json for request in vendor.requests]
    return [
        (body["model"], body.get("max_tokens"))
        for body in bodies
        if body["messages"][0]["role"] == "system" and PROMPT in json.dumps(body["messages"][1])
    ]


@pytest.mark.parametrize(
    ("capabilities", "limit"),
    [([], 40), (["reasoning"], None)],
)
@pytest.mark.asyncio
async def test_where_the_small_model_fails_the_runs_own_is_asked(
    tmp_path: Path, capabilities: list[str], limit: int | None
) -> None:
    (tmp_path / "turnkeeper.toml").write_text(f'[models."up/tokens-3"]\ncapabilities = {json.dumps(capabilities)}\n')
    async with Upstream() as vendor:
        up: dict[str, Any] = {
            "providers__up__format": "openai-chat",
            "providers__up__base_url": f"{vendor.base_url}/v1",
        }
        session = {"model": "up/tokens-3", "small_model": "up/status-500"}
        async with titled(tmp_path, {}, session=session, **up) as (server, watch):
            await server.submit("s", PROMPT, "r")
            assert await told(watch) == "t0 t1 t2"
            await watch.terminal("r")
            assert titles_asked(vendor) == [("status-500", 40), ("tokens-3", limit)]
            assert calls_of(await seen(server)) == {"up/tokens-3": 2, "up/status-500": 1}


@pytest.mark.asyncio
async def test_without_a_small_model_the_runs_own_is_asked(tmp_path: Path) -> None:
    async with Upstream() as vendor:
        options: dict[str, Any] = {
            "providers__up__format": "openai-chat",
            "providers__up__base_url": f"{vendor.base_url}/v1",
            "defaults__model": "up/tokens-2",
            "defaults__small_model": None,
        }
        async with titled(tmp_path, {}, **options) as (server, watch):
            await server.submit("s", PROMPT, "r")
            assert await told(watch) == "t0 t1"
            await watch.terminal("r")
            assert titles_asked(vendor) == [("tokens-2", 40)]


@pytest.mark.parametrize(
    "small",
    [
        {"fail": "PROVIDER_ERROR"},
        {"text": "A title that is cut by", "finish": "max_tokens"},
        {"text": "<think>no title at all</think>"},
        {"text": "", "reasoning": "hmm"},
        {"tokens": 20_000},
    ],
)
@pytest.mark.asyncio
async def test_where_no_model_gives_a_title_it_is_the_prompt_cut_short(tmp_path: Path, small: dict[str, Any]) -> None:
    async with titled(tmp_path, small) as (server, watch):
        await server.submit("s", PROMPT, "r")
        assert await told(watch) == CUT_PROMPT
        assert calls_of(await seen(server))[SMALL] == 1


@pytest.mark.asyncio
async def test_a_call_that_fails_costs_what_the_provider_says(tmp_path: Path) -> None:
    small = {"fail": "PROVIDER_ERROR", "fail_usage": {"input_tokens": 70, "output_tokens": 2}}
    async with titled(tmp_path, small) as (server, watch):
        await server.submit("s", PROMPT, "r")
        await told(watch)
        paid = next(entry.usage for entry in (await seen(server)).usage.models if entry.model == SMALL)
        assert (paid.num_calls, paid.input_tokens, paid.output_tokens, paid.is_estimated) == (1, 70, 2, False)


@pytest.mark.asyncio
async def test_a_model_that_never_answers_is_not_waited_for(tmp_path: Path) -> None:
    clock = ManualClock()
    async with titled(tmp_path, {"text": "half", "hang": True}, clock=clock) as (server, watch):
        await server.submit("s", PROMPT, "r")
        assert (await watch.terminal("r")).status == COMPLETED
        await clock.armed(TITLE_SECONDS)
        assert (await seen(server)).title == ""
        clock.advance(TITLE_SECONDS)
        assert await told(watch) == CUT_PROMPT
        session = await seen(server)
        paid = next(entry.usage for entry in session.usage.models if entry.model == SMALL)
        assert (paid.num_calls, paid.output_tokens, paid.is_estimated) == (1, 1, True)


@pytest.mark.asyncio
async def test_a_title_that_is_set_meanwhile_stays(tmp_path: Path) -> None:
    async with titled(tmp_path, GATED) as (server, watch):
        await server.submit("s", PROMPT, "r")
        await at_gate(server, "title")
        await rename(server, "mine")
        server.gates.open("title")
        # The other session's title is asked for, and made, after this one.
        await server.session("t")
        await server.submit("t", PROMPT, "t")
        async with watching(server, "t") as other:
            assert await told(other) == "A good title"
        await watch.quiet()
        session = await seen(server)
        assert (session.title, session.settings.title) == ("mine", "mine")
        assert [event.session_updated.title for event in watch.events if is_update(event)] == ["mine"]
        assert calls_of(session)[SMALL] == 1


@pytest.mark.asyncio
async def test_a_title_that_is_taken_away_is_made_again(tmp_path: Path) -> None:
    async with titled(tmp_path, {"text": "A good title"}, session={"title": "mine"}) as (server, watch):
        await server.submit("s", PROMPT, "r1")
        await watch.terminal("r1")
        assert calls_of(await seen(server)) == {ECHO: 1}
        await rename(server, "")
        assert (await seen(server)).title == ""
        await server.submit("s", PROMPT, "r2")
        event = await watch.until(lambda event: is_update(event) and bool(event.session_updated.title))
        assert event.session_updated.title == "A good title"


@pytest.mark.asyncio
async def test_a_prompt_that_was_cancelled_on_entry_leaves_the_title_to_the_next(tmp_path: Path) -> None:
    async with titled(tmp_path, {"text": "A good title"}) as (server, watch):
        server.places.hold("turn", "r1")
        await server.submit("s", "first", "r1")
        await server.places.reached("turn", "r1")
        await server.cancel(run_id="r1")
        server.places.release("turn", "r1")
        assert (await watch.terminal("r1")).status == CANCELLED
        await server.submit("s", PROMPT, "r2")
        assert await told(watch) == "A good title"
        assert calls_of(await seen(server))[SMALL] == 1
        assert [event.run_id for event in watch.events if event.HasField("run_started")] == ["r2"]


@pytest.mark.asyncio
async def test_a_prompt_without_text_leaves_the_title_to_the_next(tmp_path: Path) -> None:
    async with titled(tmp_path, {"text": "A good title"}) as (server, watch):
        submission = run_service_pb2.Submission(session_id="s", run_id="r1")
        submission.prompt.add().media.CopyFrom(content_pb2.Media(mime_type="image/png", data=b"x"))
        await server.runs.SubmitRun(run_service_pb2.SubmitRunRequest(submission=submission))
        await watch.terminal("r1")
        assert SMALL not in calls_of(await seen(server))
        await server.submit("s", PROMPT, "r2")
        assert await told(watch) == "A good title"


@pytest.mark.asyncio
async def test_a_title_that_was_not_made_before_a_restart_is_made_of_the_next_prompt(tmp_path: Path) -> None:
    async with titled(tmp_path, GATED) as (server, watch):
        await server.submit("s", "first", "r1")
        await at_gate(server, "title")
        await watch.terminal("r1")
    async with titled(tmp_path, {"fail": "PROVIDER_ERROR"}, is_new=False) as (server, watch):
        assert (await seen(server)).title == ""
        await server.submit("s", PROMPT, "r2")
        assert await told(watch) == CUT_PROMPT
    async with titled(tmp_path, GATED, is_new=False) as (server, watch):
        assert (await seen(server)).title == CUT_PROMPT
        listed = await server.sessions.ListSessions(session_service_pb2.ListSessionsRequest())
        assert [session.title for session in listed.sessions] == [CUT_PROMPT]


@pytest.mark.parametrize(
    "options",
    [{"defaults__generate_titles": "false"}, {"defaults__small_model": None}],
)
@pytest.mark.asyncio
async def test_no_title_is_made_where_none_is_wanted_and_of_no_scripted_model_by_itself(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    async with titled(tmp_path, GATED, **options) as (server, watch):
        await server.submit("s", PROMPT, "r")
        await watch.terminal("r")
        await watch.quiet()
        assert not any(is_update(event) for event in watch.events)
        assert provider(server).num_calls == 2


@pytest.mark.asyncio
async def test_a_session_that_is_deleted_meanwhile_has_no_title(tmp_path: Path) -> None:
    async with titled(tmp_path, GATED) as (server, watch):
        await server.submit("s", PROMPT, "r")
        await at_gate(server, "title")
        await watch.terminal("r")
        await server.sessions.DeleteSession(session_service_pb2.DeleteSessionRequest(session_id="s"))
        server.gates.open("title")
        # One that is asked for later is made; this one has nowhere to go.
        await server.session("t")
        await server.submit("t", PROMPT, "t")
        async with watching(server, "t") as other:
            assert await told(other) == "A good title"
        row = await server.server._store.get_session("default", "s")
        assert row is not None
        assert (row.title, row.settings) == ("", b"")


@pytest.mark.asyncio
async def test_calls_for_titles_are_bounded_and_no_run_waits_for_one(tmp_path: Path) -> None:
    names = [f"s{number}" for number in range(MAX_CALLS + 4)]
    async with titled(tmp_path, GATED) as (server, _):
        for name in names:
            await server.session(name)
            await server.submit(name, reply("done"), name)
        for name in names:
            assert (await server.terminals(name, [name]))[name].status == COMPLETED
        await at_gate(server, "title", MAX_CALLS)
        assert server.gates.num_waiting("title") == MAX_CALLS
        server.gates.open("title")
        await at_gate(server, "title", len(names))
        for name in names:
            async with watching(server, name) as other:
                assert await told(other) == "A good title"

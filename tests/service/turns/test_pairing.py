"""Validity of a context (U-27, C-102): every call of a request has exactly one result, right behind it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.service.dispatch.script import provider
from tests.service.failure.stories import is_valid
from tests.service.harness import serving
from tests.service.turns.scenes import Tools, calls, result_text, said, scene, script
from tests.service.turns.test_summaries import OVERFLOW, story, texts
from turnkeeper.v1 import content_pb2
from turnkeeper_service.engine.pairing import INTERRUPTED, History, paired


def user(text: str) -> content_pb2.Message:
    return content_pb2.Message(
        role=content_pb2.ROLE_USER, in_context=True, parts=[content_pb2.Part(text=content_pb2.Text(text=text))]
    )


def asks(*ids: str, own: bool = False) -> content_pb2.Message:
    message = content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, in_context=True)
    for one in ids:
        message.parts.add().tool_call.CopyFrom(
            content_pb2.ToolCall(tool_call_id=one, name="t", is_provider_executed=own)
        )
    return message


def results(**texts_by_id: str) -> content_pb2.Message:
    message = content_pb2.Message(role=content_pb2.ROLE_TOOL, in_context=True)
    for one, text in texts_by_id.items():
        result = message.parts.add().tool_result
        result.tool_call_id, result.name = one, "t"
        result.content.add().text.text = text
    return message


def told(messages: list[content_pb2.Message]) -> list[str]:
    return [said(message).replace(INTERRUPTED, "-") for message in messages]


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ([asks("a")], ["call t", "t: -"]),
        ([asks("a", "b"), results(b="2")], ["call t | call t", "t: - | t: 2"]),
        ([asks("a", "b"), results(b="2", a="1")], ["call t | call t", "t: 1 | t: 2"]),
        ([asks("a"), user("x"), results(a="1")], ["call t", "t: 1", "x"]),
        ([asks("a"), results(a="1"), results(a="2")], ["call t", "t: 1"]),
        ([results(a="1"), user("x")], ["x"]),
        ([asks("a"), user("x"), asks("a"), results(a="2")], ["call t", "t: -", "x", "call t", "t: 2"]),
        ([asks("a", "b"), results(a="1"), results(b="2")], ["call t | call t", "t: 1 | t: 2"]),
    ],
)
def test_a_broken_history_is_mended_for_its_request(broken: list[content_pb2.Message], mended: list[str]) -> None:
    before = [message.SerializeToString() for message in broken]
    found = list(paired(broken))
    assert told(found) == mended
    assert is_valid(found)
    assert [message.SerializeToString() for message in broken] == before


def test_a_valid_history_is_taken_as_it_is() -> None:
    valid = [user("x"), asks("a", "b"), results(a="1", b="2"), asks("own", own=True), user("y")]
    assert paired(valid) is valid


def test_a_history_that_grows_is_looked_at_where_it_is_new() -> None:
    history = History([user("x"), asks("a"), results(a="1")])
    assert paired(history) is history
    # What was found paired is not looked at again, so damage there would not be seen; what is new is.
    del history[0].parts[:]
    history[2].CopyFrom(user("no result any more"))
    history.extend([asks("b"), results(b="2")])
    assert paired(history) is history
    history.append(asks("c"))
    assert told(list(paired(history)))[-2:] == ["call t", "t: -"]
    # An open call is no end to go on from.
    history.append(user("in between"))
    assert told(list(paired(history)))[-3:] == ["call t", "t: -", "in between"]


@pytest.mark.parametrize("lost", [content_pb2.ROLE_TOOL, content_pb2.ROLE_ASSISTANT])
@pytest.mark.asyncio
async def test_a_damaged_context_is_still_answered(lost: content_pb2.Role.ValueType, tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("t")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("t"), "done"), "r")
        await on.watch.terminal("r")
    with closing(sqlite3.connect(tmp_path / "turnkeeper.db")) as connection, connection:
        found = connection.execute("SELECT min(seq) FROM messages WHERE role = ?", (int(lost),))
        connection.execute("UPDATE messages SET in_context = 0 WHERE seq = ?", found.fetchone())
    async with serving(tmp_path) as server:
        asked: list[list[content_pb2.Message]] = []
        ask = provider(server).stream

        def noted(request: object) -> object:
            asked.append(list(request.messages))  # type: ignore[attr-defined]
            return ask(request)  # type: ignore[arg-type]

        provider(server).stream = noted  # type: ignore[method-assign, assignment]
        await server.submit("s", "next", "next")
        assert (await server.terminals("s", ["next"]))["next"].text == "next"
        assert is_valid(asked[0])
        results_sent = [
            result_text(part.tool_result)
            for message in asked[0]
            for part in message.parts
            if part.HasField("tool_result")
        ]
        assert results_sent == ([INTERRUPTED] if lost == content_pb2.ROLE_TOOL else [])


@pytest.mark.asyncio
async def test_a_turn_of_many_calls_is_summarised_by_its_later_half_with_results_behind_their_calls(
    tmp_path: Path,
) -> None:
    tools = Tools()
    tools.add("t", lambda: "word " * 1000)
    replies = (
        {"attempts": [calls("t")], "text": "done"},
        {"attempts": [calls("t")], "text": "SUMMARY"},
        {"attempts": [OVERFLOW, OVERFLOW, OVERFLOW], "text": "never"},
    )
    async with story(tmp_path, *replies, tools=tools) as (server, requests):
        await server.submit("s", "go", "r")
        assert (await server.terminals("s", ["r"]))["r"].text == "done"
        told_later = texts(requests[-2])
        assert told_later[:2] == ["[The beginning of the conversation is left out.]", "call t"]
        assert told_later[2].startswith("t: word")
        assert len(told_later) == 4

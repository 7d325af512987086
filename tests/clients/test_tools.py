"""Tools that a Python process serves, as a client or a worker, and approvals: against the real server."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Annotated, Any, Literal

import grpc
import pytest

from tests.clients.conftest import QUICK
from tests.clients.real import RealServer
from turnkeeper import (
    Client,
    Conversation,
    EndTurn,
    Event,
    FunctionTool,
    Part,
    SessionSettings,
    Text,
    ToolError,
    ToolResult,
    TurnkeeperError,
)
from turnkeeper.v1.content_pb2 import ROLE_TOOL
from turnkeeper.v1.event_pb2 import OUTCOME_REASON_TOOL_ENDED, OUTCOME_STATUS_CANCELLED, Outcome

LIMIT = 60.0
"""Seconds after which a wait is a hang."""
MADE = SessionSettings(model="scripted/echo")


def script(*steps: list[dict[str, Any]] | str) -> str:
    """A prompt whose answers are calls, or texts."""
    replies = [{"text": step} if isinstance(step, str) else {"tool_calls": step} for step in steps]
    return json.dumps({"replies": replies})


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments, "id": f"call-{name}"}


async def ended(talk: Conversation, run_id: str) -> Outcome:
    async with asyncio.timeout(LIMIT):
        async for item in talk.items():
            if isinstance(item, Event) and item.run_id == run_id and item.HasField("run_finished"):
                return item.run_finished.outcome
    raise AssertionError("the conversation is over")


async def results(client: Client, session_id: str) -> list[tuple[str, bool, str]]:
    """Every result in the history: its tool, whether it is an error, its text."""
    found = [part.tool_result async for message in client.list_messages(session_id) for part in message.parts]
    return [
        (result.name, result.is_error, "".join(part.text.text for part in result.content))
        for result in found
        if result.tool_call_id
    ]


@pytest.mark.asyncio
async def test_half_of_a_character_that_a_tool_says_is_replaced(real: RealServer) -> None:
    def name() -> str:
        return "caf\udce9"

    def names() -> list[Any]:
        return ["caf\udce9", {"\udce9": 1}]

    def refuse() -> None:
        raise ToolError("no \udce9")

    tools = [FunctionTool(one) for one in (name, names, refuse)]
    prompt = script([call("name"), call("names"), call("refuse")], "the end")
    async with Client(real.address) as client, client.converse("halves", create_with=MADE) as talk:
        await talk.offer_tools(*tools)
        run_id = (await talk.submit(prompt)).run_id
        assert (await ended(talk, run_id)).text == "the end"
        assert await results(client, "halves") == [
            ("name", False, "caf\ufffd"),
            ("names", False, '["caf\ufffd", {"\ufffd": 1}]'),
            ("refuse", True, "no \ufffd"),
        ]


@pytest.mark.asyncio
async def test_a_conversation_runs_its_tools_also_after_it_has_finished(
    real: RealServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def shelf(title: str) -> str:
        if title == "Dune":
            raise ToolError("there is no Dune")
        return f"{title} is here"

    def weigh(title: str, copies: int = 2) -> dict[str, Any]:
        return {"title": title, "grams": 300 * copies}

    def breaks() -> None:
        raise ZeroDivisionError("of no interest to a model")

    prompt = script(
        [call("shelf", title="Momo")],
        [call("shelf", title="Dune")],
        [call("weigh", title="Momo"), call("breaks")],
        "ok",
    )
    async with Client(real.address) as client, client.converse("s", create_with=MADE) as talk:
        assert await talk.offer_tools(shelf, weigh, breaks) == ["shelf", "weigh", "breaks"]
        receipt = await talk.submit(prompt)
        talk.finish()
        with caplog.at_level(logging.WARNING, "turnkeeper"):
            assert (await ended(talk, receipt.run_id)).text == "ok"
        assert await results(client, "s") == [
            ("shelf", False, "Momo is here"),
            ("shelf", True, "there is no Dune"),
            ("weigh", False, '{"title": "Momo", "grams": 600}'),
            ("breaks", True, "the tool failed: ZeroDivisionError"),
        ]
    assert "the tool breaks failed" in caplog.text


@pytest.mark.asyncio
async def test_a_tool_ends_the_turn_and_gives_whole_results(real: RealServer) -> None:
    async def last() -> EndTurn:
        return EndTurn(ToolResult(content=[Part(text=Text(text="that was it"))]))

    async with Client(real.address) as client, client.converse("s", create_with=MADE) as talk:
        await talk.offer_tools(last)
        outcome = await ended(talk, (await talk.submit(script([call("last")], "never"))).run_id)
        assert outcome.reason == OUTCOME_REASON_TOOL_ENDED
        assert await results(client, "s") == [("last", False, "that was it")]


@pytest.mark.asyncio
async def test_an_offer_replaces_the_one_before_and_a_refused_one_does_not(real: RealServer) -> None:
    async def first() -> str:
        return "one"

    async def second() -> str:
        return "two"

    async with Client(real.address) as client, client.converse("s", create_with=MADE) as talk:
        await talk.offer_tools(first)
        with pytest.raises(TurnkeeperError) as refused:
            await talk.offer_tools(FunctionTool(second, name="not a name"))
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
        await ended(talk, (await talk.submit(script([call("first")], "ok"))).run_id)
        assert [one.name for one in (await client.list_tools("s")).tools] == ["first"]
        await talk.offer_tools(second)
        assert [one.name for one in (await client.list_tools("s", model="scripted/lorem")).tools] == ["second"]
        assert not (await client.list_tools()).tools
        await ended(talk, (await talk.submit(script([call("first"), call("second")], "ok"))).run_id)
        assert await results(client, "s") == [
            ("first", False, "one"),
            ("first", True, "there is no tool 'first'"),
            ("second", False, "two"),
        ]


class Slow:
    """A tool that a test holds."""

    def __init__(self) -> None:
        self.num_runs = 0
        self.started = asyncio.Event()
        self.may_end = asyncio.Event()
        self.was_cancelled = asyncio.Event()

    async def run(self) -> str:
        """Wait."""
        self.num_runs += 1
        self.started.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise
        return f"run {self.num_runs}"

    @property
    def tool(self) -> FunctionTool:
        return FunctionTool(self.run, name="slow")


@pytest.mark.asyncio
async def test_a_cancel_reaches_the_tool(real: RealServer) -> None:
    slow = Slow()
    async with Client(real.address) as client, client.converse("s", create_with=MADE) as talk:
        await talk.offer_tools(slow.tool)
        receipt = await talk.submit(script([call("slow")], "never"))
        async with asyncio.timeout(LIMIT):
            await slow.started.wait()
            await talk.cancel(receipt.run_id)
            await slow.was_cancelled.wait()
        assert (await ended(talk, receipt.run_id)).status == OUTCOME_STATUS_CANCELLED


@pytest.mark.asyncio
@pytest.mark.parametrize("is_done_while_away", [False, True], ids=["after it is back", "while it is away"])
async def test_a_conversations_call_is_run_once_over_the_death_of_the_server(
    real: RealServer, is_done_while_away: bool
) -> None:
    slow = Slow()
    async with (
        Client(real.address, backoff=QUICK) as client,
        client.converse("s", after_seq=0, create_with=MADE) as talk,
        asyncio.timeout(LIMIT),
    ):
        await talk.offer_tools(slow.tool)
        receipt = await talk.submit(script([call("slow")], "ok"))
        await slow.started.wait()
        await real.kill()
        if is_done_while_away:
            slow.may_end.set()
        await real.start()
        slow.may_end.set()
        assert (await ended(talk, receipt.run_id)).text == "ok"
        assert await results(client, "s") == [("slow", False, "run 1")]


@pytest.mark.asyncio
@pytest.mark.parametrize("is_done_while_away", [False, True], ids=["after it is back", "while it is away"])
async def test_a_workers_call_is_run_once_over_the_death_of_the_server(
    real: RealServer, is_done_while_away: bool
) -> None:
    slow = Slow()
    async with (
        Client(real.address, backoff=QUICK) as client,
        client.serve_tools("w", [slow.tool], max_concurrent=2, reconnect_grace=30.0) as worker,
        asyncio.timeout(LIMIT),
    ):
        assert (worker.worker_id, worker.tool_names) == ("w", ["slow"])
        await client.create_session("s", MADE)
        stream = client.run("s", script([call("slow")], "ok"))
        reading = asyncio.create_task(stream.text())
        await slow.started.wait()
        await real.kill()
        if is_done_while_away:
            slow.may_end.set()
        await real.start()
        slow.may_end.set()
        assert await reading == "ok"
        assert await results(client, "s") == [("slow", False, "run 1")]


@pytest.mark.asyncio
async def test_a_worker_that_is_closed_stops_its_calls(real: RealServer) -> None:
    slow = Slow()
    async with Client(real.address) as client, asyncio.timeout(LIMIT):
        await client.create_session("s", MADE)
        async with client.serve_tools("w", [slow.tool], reconnect_grace=0) as worker:
            waiting = asyncio.create_task(worker.wait())
            stream = client.run("s", script([call("slow")], "went on"))
            reading = asyncio.create_task(stream.text())
            await slow.started.wait()
        await waiting
        assert slow.was_cancelled.is_set()
        assert await reading == "went on"
        [(name, is_error, text)] = await results(client, "s")
        assert (name, is_error) == ("slow", True)
        assert "was lost" in text


@pytest.mark.asyncio
async def test_a_worker_that_is_refused_says_why(real: RealServer) -> None:
    async def fine() -> str:
        return "fine"

    async with Client(real.address) as client:
        with pytest.raises(TurnkeeperError) as refused:
            async with client.serve_tools("no name", [fine]):
                raise AssertionError("it serves")
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ID")


@pytest.mark.asyncio
async def test_an_approval_is_seen_by_another_client_and_answered_once(real: RealServer) -> None:
    ran: list[str] = []

    async def order(title: str) -> str:
        ran.append(title)
        return "ordered"

    async with (
        Client(real.address) as client,
        Client(real.address) as other,
        client.converse("s", create_with=MADE) as talk,
        asyncio.timeout(LIMIT),
    ):
        await talk.offer_tools(FunctionTool(order, needs_approval=True))
        prompt = script([call("order", title="Emma")], [call("order", title="Dune")], "ok")
        receipt = await talk.submit(prompt)
        seen: list[str] = []
        async for item in other.watch("s", after_seq=0):
            if isinstance(item, Event) and item.HasField("approval_requested"):
                assert [item.approval_requested.approval_id] == [
                    waiting.approval_id async for waiting in other.list_approvals("s", page_size=1)
                ]
                assert ran == seen
                title = json.loads(item.approval_requested.tool_call.arguments_json)["title"]
                approval_id = item.approval_requested.approval_id
                answered = await other.answer_approval("s", approval_id, allow=title == "Emma", comment="too sandy")
                assert answered.tool_call.name == "order"
                with pytest.raises(TurnkeeperError) as refused:
                    await talk.answer_approval(approval_id, allow=True)
                assert refused.value.reason == "APPROVAL_ANSWERED"
                seen = ["Emma"]
            if isinstance(item, Event) and item.HasField("run_finished"):
                break
        assert (await ended(talk, receipt.run_id)).text == "ok"
        assert [waiting async for waiting in other.list_approvals("s")] == []
        assert ran == ["Emma"]
        assert await results(client, "s") == [
            ("order", False, "ordered"),
            ("order", True, "this call was not allowed: too sandy"),
        ]
        roles = [message.role async for message in client.list_messages("s")]
        assert roles.count(ROLE_TOOL) == 2


def test_a_signature_is_a_schema() -> None:
    def due(
        title: Annotated[str, "As on the cover."],
        weeks: int | None = None,
        language: Literal["de", "en"] = "en",
        tags: list[str] = [],  # noqa: B006
        rest: Any = None,
    ) -> str:
        """Say when a book is due."""
        raise NotImplementedError

    tool = FunctionTool(due, is_replay_safe=True, timeout=1.5).tool
    assert (tool.name, tool.description, tool.timeout.ToMilliseconds()) == ("due", "Say when a book is due.", 1500)
    assert json.loads(tool.input_schema_json) == {
        "type": "object",
        "properties": {
            "title": {"type": "string", "description": "As on the cover."},
            "weeks": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            "language": {"enum": ["de", "en"], "default": "en"},
            "tags": {"type": "array", "items": {"type": "string"}, "default": []},
            "rest": {"default": None},
        },
        "required": ["title"],
        "additionalProperties": False,
    }


def test_a_signature_that_is_no_schema_is_refused_unless_one_is_given() -> None:
    def odd(when: complex) -> str:
        raise NotImplementedError

    def many(*titles: str) -> str:
        raise NotImplementedError

    with pytest.raises(TypeError, match=r"odd: when is .*complex.*: give input_schema"):
        FunctionTool(odd)
    with pytest.raises(TypeError, match="cannot be an argument"):
        FunctionTool(many)
    assert FunctionTool(odd, input_schema={"type": "object"}).tool.input_schema_json == '{"type": "object"}'


@pytest.mark.asyncio
async def test_two_tools_of_one_name_are_refused() -> None:
    async def one() -> str:
        raise NotImplementedError

    async with Client("127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="two tools are called 'one'"):
            client.serve_tools("w", [one, FunctionTool(one)])

"""A client that waits for its run, on the real server: what ends the wait, and what it is then told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.service.harness import LIMIT, Harness, serving
from turnkeeper import Client, Delta, Event, Outcome, RunReceipt, RunStream, TurnkeeperError
from turnkeeper.v1 import content_pb2, event_pb2

COMPLETED = event_pb2.OUTCOME_STATUS_COMPLETED
GATED = '{"text": "one two three", "gate": "g", "gate_after": 1}'


@asynccontextmanager
async def clients(data_dir: Path) -> AsyncIterator[tuple[Harness, Client]]:
    """A server with the sessions "s" and "t", and a client of it."""
    async with serving(data_dir) as server, Client(server.server.grpc_address) as client:
        await server.session("s")
        await server.session("t")
        yield server, client


async def wait_for(stream: RunStream) -> tuple[list[object], Outcome]:
    """Everything that a waiting client is given, and how it says that the run ended."""
    async with asyncio.timeout(LIMIT):
        items: list[object] = [item async for item in stream]
    assert stream.outcome is not None
    return items, stream.outcome


async def begun(stream: RunStream) -> list[object]:
    """Read up to the first delta."""
    items: list[object] = []
    async with asyncio.timeout(LIMIT):
        async for item in stream:
            items.append(item)
            if isinstance(item, Delta):
                break
    return items


def runs_of(items: list[object]) -> set[str]:
    return {item.run_id for item in items if isinstance(item, Event | Delta | RunReceipt)}


@pytest.mark.spec("dispatch:X-14")
@pytest.mark.asyncio
async def test_the_end_of_a_message_does_not_end_the_wait(tmp_path: Path) -> None:
    async with clients(tmp_path) as (server, client):
        stream = client.run("s", '{"replies": [{"text": "first", "gate": "g"}, {"text": "second"}]}', run_id="r")
        waiting = asyncio.ensure_future(wait_for(stream))
        await server.gates.reached("g")
        steer = await client.submit("s", "a further step", run_id="steer", delivery="steer")
        assert steer.steers_run_id == "r"
        server.gates.open("g")
        items, outcome = await waiting
        events = [item for item in items if isinstance(item, Event)]
        ends = [
            event.message_committed.message.finish_reason
            for event in events
            if event.message_committed.message.role == content_pb2.ROLE_ASSISTANT
        ]
        assert ends == [content_pb2.FINISH_REASON_END_TURN] * 2
        assert [event.run_id for event in events if event.HasField("run_finished")] == ["r"]
        assert (outcome.status, outcome.num_steps, outcome.text) == (COMPLETED, 2, "a further step")


@pytest.mark.spec("dispatch:X-14")
@pytest.mark.asyncio
async def test_the_terminal_gives_the_whole_text_even_if_it_comes_first(tmp_path: Path) -> None:
    async with clients(tmp_path) as (server, client):
        await client.submit("s", "all of the text", run_id="r")
        await server.terminals("s", ["r"])
        # The run is over before the client begins to wait: the receipt says so already.
        stream = client.run("s", "all of the text", run_id="r")
        _, outcome = await wait_for(stream)
        assert stream.receipt is not None
        assert stream.receipt.is_replay
        assert (outcome.status, outcome.text) == (COMPLETED, "all of the text")
        assert await client.run("s", "all of the text", run_id="r").text() == "all of the text"


@pytest.mark.spec("dispatch:X-14")
@pytest.mark.asyncio
async def test_the_terminal_gives_the_whole_text_after_a_part_of_it_was_streamed(tmp_path: Path) -> None:
    async with clients(tmp_path) as (server, client):
        stream = client.run("s", GATED, run_id="r")
        first = await begun(stream)
        server.gates.open("g")
        rest, outcome = await wait_for(stream)
        text = "".join(item.text for item in [*first, *rest] if isinstance(item, Delta))
        assert first[-1].text == "one "  # type: ignore[attr-defined]
        assert text == outcome.text == "one two three"


@pytest.mark.spec("dispatch:X-14")
@pytest.mark.asyncio
async def test_other_runs_and_sessions_neither_end_the_wait_nor_show_in_it(tmp_path: Path) -> None:
    async with clients(tmp_path) as (server, client):
        stream = client.run("s", GATED, run_id="r")
        first = await begun(stream)
        # Another session's runs end, one of them badly, and runs behind this one are cancelled and fail.
        await client.submit("t", "another session", run_id="elsewhere")
        await client.submit("t", '{"fail": "PROVIDER_ERROR"}', run_id="fails-elsewhere")
        await server.terminals("t", ["elsewhere", "fails-elsewhere"])
        await client.submit("s", "behind", run_id="cancelled")
        await client.submit("s", '{"fail": "PROVIDER_ERROR"}', run_id="fails-here")
        await client.cancel(run_id="cancelled", wait=True)
        assert stream.outcome is None
        server.gates.open("g")
        rest, outcome = await wait_for(stream)
        assert (outcome.status, outcome.text, list(outcome.errors)) == (COMPLETED, "one two three", [])
        assert runs_of(first + rest) == {"r"}
        outcomes = await server.terminals("s", ["fails-here", "cancelled"])
        assert outcomes["fails-here"].status == event_pb2.OUTCOME_STATUS_FAILED


@pytest.mark.spec("dispatch:X-14")
@pytest.mark.asyncio
async def test_failure_cancel_and_a_refused_call_are_told_apart(tmp_path: Path) -> None:
    async with clients(tmp_path) as (server, client):
        _, failed = await wait_for(client.run("s", '{"text": "a b", "fail": "PROVIDER_ERROR", "fail_after": 1}'))
        assert (failed.status, failed.reason) == (
            event_pb2.OUTCOME_STATUS_FAILED,
            event_pb2.OUTCOME_REASON_PROVIDER_ERROR,
        )
        assert (failed.errors[0].title, failed.text) == ("Scripted failure", "a ")
        stream = client.run("s", GATED, run_id="r")
        await begun(stream)
        await client.cancel(run_id="r")
        _, cancelled = await wait_for(stream)
        assert (cancelled.status, cancelled.reason, list(cancelled.errors), cancelled.text) == (
            event_pb2.OUTCOME_STATUS_CANCELLED,
            event_pb2.OUTCOME_REASON_USER,
            [],
            "one ",
        )
        # A refused call is an error of the client and leaves no run behind.
        with pytest.raises(TurnkeeperError) as caught:
            await wait_for(client.run("nobody", "hello", run_id="refused"))
        assert (caught.value.reason, caught.value.run_id) == ("SESSION_NOT_FOUND", "refused")
        with pytest.raises(TurnkeeperError) as caught:
            await client.get_run("refused")
        assert caught.value.reason == "RUN_NOT_FOUND"
        assert server.snapshot("s") is None


@pytest.mark.spec("dispatch:X-14")
@pytest.mark.asyncio
async def test_a_client_that_steers_waits_for_the_end_of_the_run_that_took_its_prompt(tmp_path: Path) -> None:
    async with clients(tmp_path) as (server, client):
        await client.submit("s", '{"text": "first", "gate": "g"}', run_id="target")
        await server.gates.reached("g")
        stream = client.run("s", "more", run_id="steer", delivery="steer")
        first = await anext(aiter(stream))
        assert isinstance(first, RunReceipt)
        server.gates.open("g")
        _, outcome = await wait_for(stream)
        assert stream.fold is not None
        assert stream.fold.into_run_id == "target"
        assert (outcome.status, outcome.text) == (COMPLETED, "more")

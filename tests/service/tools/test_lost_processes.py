"""Tool calls of a process that was lost: before they started, at a client, and by a real kill."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.service.dispatch.script import provider
from tests.service.dispatch.watch import watching
from tests.service.failure.process import ServerProcess
from tests.service.failure.stories import is_valid, kinds, reason_of
from tests.service.harness import LIMIT, FlatRuns, serving, submission
from tests.service.manual_clock import ManualClock
from tests.service.tools.holders import Client, result, tool
from tests.service.turns.scenes import Tools, calls, script
from tests.service.wire.talk import Talk
from turnkeeper.v1 import content_pb2, event_pb2, session_service_pb2, session_service_pb2_grpc, tool_service_pb2
from turnkeeper_service.providers.gates import Gates
from turnkeeper_service.store.base import Commit
from turnkeeper_service.store.faults import Faults
from turnkeeper_service.store.sqlite import SqliteStore
from turnkeeper_service.tools.functions import EndTurn

STARTED = event_pb2.Event.DESCRIPTOR.fields_by_name["tool_call_started"].number
FINISHED = event_pb2.Event.DESCRIPTOR.fields_by_name["tool_call_finished"].number
TERMINAL = event_pb2.Event.DESCRIPTOR.fields_by_name["run_finished"].number


def losing(data_dir: Path, kind: int) -> SqliteStore:
    """A store that is lost at the first commit with an event of this kind."""

    def holds(commit: Commit) -> bool:
        return any(event.kind == kind for event in commit.events)

    faults = Faults()
    faults.fail("before", when=holds, error=lambda: sqlite3.OperationalError("gone"))
    return SqliteStore(data_dir, faults=faults)


@pytest.mark.parametrize(
    ("lost_at", "ran", "text"),
    [
        pytest.param(STARTED, ["look"], "look is done", id="requested and not started"),
        pytest.param(FINISHED, ["look"], "the process was lost while this tool ran", id="started and not finished"),
    ],
)
@pytest.mark.asyncio
async def test_a_call_is_run_after_a_loss_only_if_it_had_not_started(
    tmp_path: Path, lost_at: int, ran: list[str], text: str
) -> None:
    tools = Tools()
    tools.quick("look")
    async with serving(tmp_path, store=losing(tmp_path, lost_at), tools=tools.offered) as server:
        await server.session("s")
        await server.submit("s", script(calls("look"), "done"), "r")
        async with asyncio.timeout(LIMIT):
            await asyncio.shield(server.server.failure)
    async with serving(tmp_path, tools=tools.offered) as server:
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (outcome.text, outcome.num_steps) == ("done", 2)
        assert tools.ran == ran
        messages = await server.messages("s")
        assert is_valid(messages)
        assert messages[2].parts[0].tool_result.content[0].text.text.startswith(text)
        told = kinds(await server.history("s"), "r")
        assert told.count("tool_call_requested") == told.count("tool_call_finished") == 1


@pytest.mark.asyncio
async def test_parallel_calls_when_the_store_is_lost_are_taken_up_by_the_next_process(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("a", "b", "c", is_parallel=True, is_replay_safe=True)
    async with serving(tmp_path, store=losing(tmp_path, FINISHED), tools=tools.offered) as server:
        await server.session("s")
        await server.submit("s", script(calls("a", "b", "c"), "done"), "r")
        async with asyncio.timeout(LIMIT):
            await asyncio.shield(server.server.failure)
    async with serving(tmp_path, tools=tools.offered) as server:
        assert (await server.terminals("s", ["r"]))["r"].text == "done"
        assert is_valid(await server.messages("s"))


@pytest.mark.parametrize("is_by_client", [False, True])
@pytest.mark.asyncio
async def test_a_result_that_ended_the_turn_ends_it_after_a_loss_too(tmp_path: Path, is_by_client: bool) -> None:
    tools = Tools()
    tools.quick("look")
    if not is_by_client:
        tools.add("end", lambda: EndTurn("over"))
    async with serving(tmp_path, store=losing(tmp_path, TERMINAL), tools=tools.offered) as server:
        await server.session("s")
        client = await Client.serve(server, *(["end"] if is_by_client else []))
        await server.submit("s", script(calls("end", "look"), "never"), "r")
        if is_by_client:
            await client.answer(await client.invoked(), "over", is_turn_end=True)
        async with asyncio.timeout(LIMIT):
            await asyncio.shield(server.server.failure)
        client.lose()
    async with serving(tmp_path, tools=tools.offered) as server:
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (reason_of(outcome), outcome.num_steps) == ("COMPLETED/TOOL_ENDED", 1)
        assert (tools.ran, provider(server).num_calls) == ([], 0)
        messages = await server.messages("s")
        assert is_valid(messages)
        texts = [part.tool_result.content[0].text.text for part in messages[2].parts]
        assert texts == ["over", "skipped: an earlier result ended the turn"]
        finished = [one.tool_call_finished for one in await server.history("s") if one.HasField("tool_call_finished")]
        assert [one.is_turn_end for one in finished] == [True]


@pytest.mark.asyncio
async def test_a_call_beside_one_that_ended_the_turn_is_ended_after_a_loss(tmp_path: Path) -> None:
    """What runs beside it goes on to its end, whichever process that is in."""
    tools = Tools()
    tools.add("end", lambda: EndTurn("over"), is_parallel=True)
    tools.held("slow", is_parallel=True, is_replay_safe=True)
    async with serving(tmp_path, tools=tools.offered, gates=tools.gates) as server:
        await server.session("s")
        await server.submit("s", script(calls("end", "slow"), "never"), "r")
        await tools.gates.reached("slow")
        async with watching(server, "s") as watch:
            await watch.seen("r", "tool_call_finished")
    tools.gates.open("slow")
    async with serving(tmp_path, tools=tools.offered, gates=tools.gates) as server:
        assert reason_of((await server.terminals("s", ["r"]))["r"]) == "COMPLETED/TOOL_ENDED"
        assert tools.ran == ["slow", "slow"]
        messages = await server.messages("s")
        assert [part.tool_result.content[0].text.text for part in messages[2].parts] == ["over", "slow is done"]


@pytest.mark.parametrize("is_back", [True, False])
@pytest.mark.asyncio
async def test_a_call_that_a_client_was_not_handed_yet_waits_for_it_after_a_loss(tmp_path: Path, is_back: bool) -> None:
    async with serving(tmp_path, store=losing(tmp_path, STARTED)) as server:
        await server.session("s")
        client = await Client.serve(server, "look")
        await server.submit("s", script(calls("look"), "done"), "r")
        async with asyncio.timeout(LIMIT):
            await asyncio.shield(server.server.failure)
        client.lose()
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await clock.armed(30.0)
        assert "tool_call_finished" not in kinds(await server.history("s"))
        if is_back:
            client = await Client.serve(server, "look")
            invocation = await client.invoked()
            assert invocation.attempt == 1
            await client.answer(invocation, "seen")
        else:
            clock.advance(30.0)
        assert (await server.terminals("s", ["r"]))["r"].text == "done"
        messages = await server.messages("s")
        assert is_valid(messages)
        text = messages[2].parts[0].tool_result.content[0].text.text
        assert text == ("seen" if is_back else "there is no tool 'look'")
        client.lose()


class _Remote:
    """What a client needs of a server in another process."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.runs: Any = FlatRuns(channel)
        self.sessions: Any = session_service_pb2_grpc.SessionServiceStub(channel)


@pytest.mark.asyncio
async def test_a_killed_server_goes_on_with_an_approval_a_clients_call_and_its_line(tmp_path: Path) -> None:
    """kill -9 with an approval pending and three runs queued, then again with the call at its client."""
    offered = tool_service_pb2.OfferTools(tools=[tool("look", needs_approval=True)])
    data = tmp_path / "data"
    keys = []
    approval_id = ""
    seq = 0
    for life in ("asks", "calls", "ends"):
        with ServerProcess(data) as process:
            process.serving()
            async with grpc.aio.insecure_channel(process.grpc_address) as channel:
                remote: Any = _Remote(channel)
                creating = session_service_pb2.SessionSettings()
                talk = await Talk.open(remote, "s", client_name="me", after_seq=seq, create_with=creating)
                await talk.ask("offer", offer_tools=offered)
                if life == "asks":
                    await talk.send("r", submit=submission("s", script(calls("look"), "done"), "r"))
                    for number in range(3):
                        await talk.ask(f"q{number}", submit=submission("s", f"text {number}", f"q{number}"))
                    item = await found(talk, "approval_requested")
                    approval_id, seq = item.event.approval_requested.approval_id, item.event.seq
                elif life == "calls":
                    request = session_service_pb2.AnswerApprovalRequest(approval_id=approval_id, is_allowed=True)
                    await talk.ask("allow", answer_approval=request)
                    keys.append((await found(talk, "tool_invocation")).tool_invocation.idempotency_key)
                else:
                    invocation = (await found(talk, "tool_invocation")).tool_invocation
                    keys.append(invocation.idempotency_key)
                    assert invocation.attempt == 2
                    await talk.send("result", tool_result=result(invocation, "seen"))
                    texts = [(await talk.terminal(run_id)).text for run_id in ("r", "q0", "q1", "q2")]
                    assert texts == ["done", "text 0", "text 1", "text 2"]
                    listing = session_service_pb2.ListMessagesRequest(session_id="s", page_size=500)
                    assert is_valid((await remote.sessions.ListMessages(listing)).messages)
                talk.cancel()
            process.kill()
    assert len(keys) == 2
    assert len(set(keys)) == 1


async def found(talk: Talk, kind: str) -> Any:
    """The first item that is, or whose event is, of a kind; of those read before too."""

    def is_wanted(item: Any) -> bool:
        return bool(item.WhichOneof("item") == kind or item.event.WhichOneof("payload") == kind)

    for item in talk.items:
        if is_wanted(item):
            return item
    return await talk.until(is_wanted)


@pytest.mark.asyncio
async def test_a_turn_that_had_begun_and_waits_for_its_permit_after_a_restart_is_cancelled_whole(
    tmp_path: Path,
) -> None:
    tools = Tools()
    tools.held("slow", is_replay_safe=True)
    gates = tools.gates
    async with serving(tmp_path, tools=tools.offered, gates=gates) as server:
        for session_id in ("s", "t"):
            await server.session(session_id)
        await server.submit("s", '{"text": "first", "gate": "g"}', "first")
        await gates.reached("g")
        await server.submit("t", script(calls("slow"), "never"), "r")
        await gates.reached("slow")
    async with serving(tmp_path, tools=tools.offered, gates=gates, limits__max_running_turns="1") as server:
        await gates.reached("g", 2)
        assert [hold.label for hold in (await server.run_view("r")).holds] == ["turn", "permit"]
        await server.cancel(run_id="r")
        outcome = (await server.terminals("t", ["r"]))["r"]
        assert reason_of(outcome) == "CANCELLED/USER"
        messages = await server.messages("t")
        assert is_valid(messages)
        assert [message.role for message in messages if message.role == content_pb2.ROLE_USER] == [1]
        assert messages[-1].parts[0].tool_result.is_synthetic
        gates.open("g")
        await server.submit("t", "next", "next")
        assert (await server.terminals("t", ["next"]))["next"].text == "next"


@pytest.mark.asyncio
async def test_a_turn_that_had_begun_does_not_expire_while_it_waits_for_its_permit_after_a_restart(
    tmp_path: Path,
) -> None:
    clock, gates = ManualClock(), Gates()
    async with serving(tmp_path, clock=clock, gates=gates) as server:
        for session_id in ("s", "t"):
            await server.session(session_id)
        await server.submit("s", '{"text": "first", "gate": "g"}', "first")
        await server.submit("t", '{"text": "mine", "gate": "h"}', "r", start_timeout=Duration(seconds=5))
        await gates.reached("g")
        await gates.reached("h")
    async with serving(tmp_path, clock=clock, gates=gates, limits__max_running_turns="1") as server:
        await gates.reached("g", 2)
        clock.advance(10)
        gates.open("g")
        gates.open("h")
        assert (await server.terminals("t", ["r"]))["r"].text == "mine"

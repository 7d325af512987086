"""Reading a session: from any seq, of some runs only, and along a fold."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.service.harness import LIMIT, Harness, serving, submission
from tests.service.wire.talk import Talk
from turnkeeper.v1 import event_pb2, run_service_pb2, session_service_pb2

STEER = event_pb2.DELIVERY_STEER
FOLDED = event_pb2.OUTCOME_STATUS_FOLDED
COMPLETED = event_pb2.OUTCOME_STATUS_COMPLETED
FILTER = run_service_pb2.WatchFilter


async def items_of(call: Any) -> list[run_service_pb2.StreamItem]:
    """All items of a stream that ends OK."""
    async with asyncio.timeout(LIMIT):
        return [response.item async for response in call]


def events_of(items: list[run_service_pb2.StreamItem]) -> list[event_pb2.Event]:
    """The durable events among items. What deltas there are say no more than the message that follows them."""
    pending: dict[str, str] = {}
    events: list[event_pb2.Event] = []
    for item in items:
        if item.HasField("delta"):
            pending[item.delta.message_id] = pending.get(item.delta.message_id, "") + item.delta.text
        elif item.HasField("event"):
            events.append(item.event)
            message = item.event.message_committed.message
            if message.message_id in pending:
                assert pending.pop(message.message_id) == message.parts[0].text.text
    assert not pending
    return events


def watch(server: Harness, session_id: str, **fields: Any) -> Any:
    return server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id=session_id, **fields))


async def steered(server: Harness, steer: Any) -> None:
    """In session "s": a run "target" that is held in its first answer, another "behind", and ``steer`` given to it."""
    await server.session("s")
    script = '{"replies": [{"text": "first", "gate": "g", "gate_after": 1}]}'
    await server.submit("s", script, run_id="target")
    await server.gates.reached("g")
    await steer()
    await server.submit("s", "behind", run_id="behind")


@pytest.mark.asyncio
async def test_every_seq_of_a_finished_session_gives_exactly_the_rest(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        for run_id in ("1", "2", "3"):
            await server.submit("s", f"prompt {run_id}", run_id=run_id)
        await server.terminals("s", ["1", "2", "3"])
        history = await server.history("s")
        assert [event.seq for event in history] == list(range(1, len(history) + 1))
        for after in range(len(history) + 1):
            watched = await items_of(watch(server, "s", after_seq=after, is_history_only=True))
            assert events_of(watched) == history[after:], after
            talk = await Talk.open(server, "s", after_seq=after)
            assert talk.items[0].receipt.open.seq == after
            await talk.call.done_writing()
            assert events_of(await talk.rest()) == history[after:], after


@pytest.mark.asyncio
async def test_without_a_cursor_only_what_comes_is_read(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await server.submit("s", "before", run_id="before")
        await server.terminals("s", ["before"])
        last = (await server.history("s"))[-1].seq
        call = watch(server, "s")
        await call.initial_metadata()
        talk = await Talk.open(server, "s")
        assert talk.items[0].receipt.open.seq == last
        await server.submit("s", "after", run_id="after")
        assert (await call.read()).item.event.seq == last + 1
        assert (await talk.until(lambda item: item.HasField("event"))).event.seq == last + 1
        call.cancel()
        talk.cancel()


@pytest.mark.asyncio
async def test_a_history_longer_than_what_is_kept_in_memory_is_read_whole(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        talk = await Talk.open(server, "s")
        for number in range(60):
            await talk.send(str(number), submit=submission("", "hello", run_id=str(number)))
        await talk.terminal("59")
        seqs = [event.seq for event in await server.history("s")]
        assert len(seqs) > 400
        assert seqs == list(range(1, len(seqs) + 1))
        # A reader that begins in the part that only the store has, and goes on into what comes.
        call = watch(server, "s", after_seq=3, filter=FILTER(without_deltas=True))
        await server.submit("s", "last", run_id="last")
        seen = [(await call.read()).item.event]
        while seen[-1].run_id != "last" or not seen[-1].HasField("run_finished"):
            seen.append((await call.read()).item.event)
        assert [event.seq for event in seen] == list(range(4, 4 + len(seen)))
        call.cancel()
        talk.cancel()


@pytest.mark.asyncio
async def test_a_filter_by_runs_leaves_the_others_out_and_keeps_what_is_the_sessions(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        talk = await Talk.open(server, "s", filter=FILTER(run_ids=["2"]))
        call = watch(server, "s", after_seq=0, filter=FILTER(run_ids=["2"], without_deltas=True))
        for run_id in ("1", "2", "3"):
            await server.submit("s", f"prompt {run_id}", run_id=run_id)
        await server.terminals("s", ["3"])
        await server.sessions.UpdateSession(
            session_service_pb2.UpdateSessionRequest(
                session_id="s", settings=session_service_pb2.SessionSettings(title="sentinel")
            )
        )
        await talk.until(lambda item: item.event.HasField("session_updated"))
        events = [item.event for item in talk.items if item.HasField("event")]
        deltas = [item.delta for item in talk.items if item.HasField("delta")]
        assert {event.run_id for event in events} == {"2", ""}
        assert {delta.run_id for delta in deltas} == {"2"}
        watched = [(await call.read()).item]
        while not watched[-1].event.HasField("session_updated"):
            watched.append((await call.read()).item)
        assert [item.WhichOneof("item") for item in watched] == ["event"] * len(watched)
        assert [item.event for item in watched[1:]] == events
        expected = [event for event in await server.history("s") if event.run_id in ("2", "")]
        assert [item.event for item in watched] == expected
        call.cancel()
        talk.cancel()


@pytest.mark.parametrize("method", ["WatchSession", "Converse"])
@pytest.mark.asyncio
async def test_a_filter_by_a_run_takes_in_the_run_that_it_was_folded_into(tmp_path: Path, method: str) -> None:
    async with serving(tmp_path) as server:
        wanted = FILTER(run_ids=["steer"])
        readers: list[Any] = []

        async def steer() -> None:
            if method == "Converse":
                readers.append((await Talk.open(server, "s", filter=wanted)).call)
            else:
                readers.append(watch(server, "s", after_seq=0, filter=wanted))
            await server.submit("s", "more", run_id="steer", delivery=STEER)

        await steered(server, steer)
        server.gates.open("g")
        events: list[event_pb2.Event] = []
        while not events or events[-1].run_id != "target" or not events[-1].HasField("run_finished"):
            async with asyncio.timeout(LIMIT):
                item = (await readers[0].read()).item
            if item.HasField("event") and item.event.run_id:
                events.append(item.event)
        (folded,) = [event for event in events if event.run_id == "steer" and event.HasField("run_finished")]
        assert folded.run_finished.outcome.status == FOLDED
        assert {event.run_id for event in events} == {"steer", "target"}
        # Of the target only what followed the fold.
        assert all(event.seq > folded.seq for event in events if event.run_id == "target")
        readers[0].cancel()


@pytest.mark.parametrize("follow", [None, True, False])
@pytest.mark.asyncio
async def test_run_follows_a_folded_run_to_the_end_of_its_target(tmp_path: Path, follow: bool | None) -> None:
    async with serving(tmp_path) as server:
        calls: list[Any] = []

        async def steer() -> None:
            request = run_service_pb2.RunRequest(
                submission=submission("s", "more", run_id="steer", delivery=STEER), follow_fold=follow
            )
            calls.append(aiter(server.runs.Run(request)))
            receipt = (await anext(calls[0])).item.receipt.run
            assert receipt.steers_run_id == "target"

        await steered(server, steer)
        server.gates.open("g")
        items = await items_of(calls[0])
        terminals = [item.event for item in items if item.event.HasField("run_finished")]
        assert [event.run_id for event in terminals] == (["steer"] if follow is False else ["steer", "target"])
        assert terminals[0].run_finished.outcome.fold.into_run_id == "target"
        if follow is not False:
            outcome = terminals[-1].run_finished.outcome
            assert (outcome.status, outcome.num_steps) == (COMPLETED, 2)
            answer = "".join(item.delta.text for item in items if item.delta.run_id == "target")
            assert answer.endswith(outcome.text)
        assert not [item for item in items if "behind" in (item.event.run_id, item.delta.run_id)]


@pytest.mark.asyncio
async def test_run_of_a_finished_run_tells_all_of_it_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        request = run_service_pb2.RunRequest(submission=submission("s", "a b c", run_id="r"))
        first = await items_of(server.runs.Run(request))
        again = await items_of(server.runs.Run(request))
        assert again[0].receipt.run.is_replay
        assert again[0].receipt.run.outcome.text == "a b c"
        durable = events_of(first)
        assert events_of(again) == durable
        assert durable[-1].HasField("run_finished")


@pytest.mark.asyncio
async def test_streams_of_a_deleted_session_end_ok_with_its_last_event(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        call, talk = watch(server, "s", after_seq=0), await Talk.open(server, "s")
        await talk.ask("f", submit=submission("", '{"gate": "g"}', run_id="r"))
        await server.gates.reached("g")
        await server.sessions.DeleteSession(session_service_pb2.DeleteSessionRequest(session_id="s", force=True))
        watched = [item.event for item in await items_of(call) if item.HasField("event")]
        assert watched[-1].HasField("session_deleted")
        assert [event.seq for event in watched] == list(range(1, len(watched) + 1))
        assert (await talk.rest())[-1].event == watched[-1]
        (terminal,) = [event for event in watched if event.HasField("run_finished")]
        assert terminal.run_finished.outcome.reason == event_pb2.OUTCOME_REASON_SESSION_DELETED


@pytest.mark.asyncio
async def test_a_half_closed_conversation_ends_after_the_last_terminal_of_its_own_runs(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        talk = await Talk.open(server, "s")
        await talk.ask("1", submit=submission("", '{"text": "a", "gate": "g"}', run_id="1"))
        await talk.ask("2", submit=submission("", '{"text": "b", "gate": "h"}', run_id="2"))
        await server.submit("s", '{"text": "c", "gate": "never"}', run_id="of-another")
        await talk.call.done_writing()
        await server.gates.reached("g")
        server.gates.open("g")
        await talk.terminal("1")
        await server.gates.reached("h")
        server.gates.open("h")
        rest = await talk.rest()
        assert await talk.call.code() == grpc.StatusCode.OK
        assert [item.event.run_id for item in rest if item.event.HasField("run_finished")] == ["2"]
        assert rest[-1].event.HasField("run_finished")
        await server.cancel("s", wait=True)


@pytest.mark.asyncio
async def test_a_half_closed_conversation_waits_for_its_waiting_cancel(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await server.submit("s", '{"text": "a", "gate": "g"}', run_id="1")
        await server.gates.reached("g")
        server.places.hold("turn", "2")
        await server.submit("s", "b", run_id="2")
        server.gates.open("g")
        await server.places.reached("turn", "2")
        talk = await Talk.open(server, "s")
        scope = run_service_pb2.CancelScope(run_id="2")
        await talk.send("wait", cancel=run_service_pb2.CancelRunsRequest(scope=scope, wait=True))
        # A later frame is not held up by the wait.
        cleared = await talk.ask("later", clear_queue=run_service_pb2.ClearQueueFrame())
        assert cleared.HasField("receipt")
        assert not [item for item in talk.items if item.receipt.frame_id == "wait"]
        await talk.call.done_writing()
        server.places.release("turn", "2")
        rest = await talk.rest()
        (receipt,) = [item.receipt for item in rest if item.receipt.frame_id == "wait"]
        assert receipt.cancel.runs[0].outcome.status == event_pb2.OUTCOME_STATUS_CANCELLED

"""Messages while they are written: deltas, snapshots, positions, and the commit that replaces them all."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.service.harness import LIMIT, Harness, reason, serving, submission
from tests.service.manual_clock import ManualClock
from tests.service.wire.held_store import HeldStore
from tests.service.wire.rows import dump
from tests.service.wire.talk import Talk
from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2, session_service_pb2

HEARTBEAT_LOOK = 5.0
"""Seconds between two looks for quiet streams: a third of the default interval."""
FLUSH = 0.5
TOKENS = ["aé", "€", "😀", " b ", "ü."]
ANSWER = "".join(TOKENS)
HEAD = "aé€😀"
"""What has come where the gate is at token 3."""


def script(**reply: Any) -> str:
    return json.dumps({"text": TOKENS, **reply})


async def held_in_mid_message(server: Harness, **reply: Any) -> None:
    """A run "r" of a session "s" whose answer waits after its third token."""
    await server.session("s")
    await server.submit("s", script(gate="g", gate_after=3, **reply), run_id="r")
    await server.gates.reached("g")


async def read_until(call: Any, kind: str) -> list[run_service_pb2.StreamItem]:
    """Items up to the first of a kind: an item's or an event's payload."""
    items: list[run_service_pb2.StreamItem] = []
    async with asyncio.timeout(LIMIT):
        while True:
            item = (await call.read()).item
            items.append(item)
            if kind in (item.WhichOneof("item"), item.event.WhichOneof("payload")):
                return items


def watch(server: Harness, **fields: Any) -> Any:
    return server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="s", **fields))


def answers(items: list[run_service_pb2.StreamItem]) -> list[content_pb2.Message]:
    committed = [item.event.message_committed.message for item in items if item.event.HasField("message_committed")]
    return [message for message in committed if message.role == content_pb2.ROLE_ASSISTANT]


def text_of(message: content_pb2.Message) -> str:
    return "".join(part.text.text for part in message.parts)


@pytest.mark.parametrize("after_seq", [None, 0])
@pytest.mark.asyncio
async def test_a_late_reader_gets_a_snapshot_and_then_the_rest(tmp_path: Path, after_seq: int | None) -> None:
    async with serving(tmp_path) as server:
        await held_in_mid_message(server, reasoning="ponder é")
        server.gates.hold("g")
        call = watch(server, after_seq=after_seq)
        items = await read_until(call, "snapshot")
        snapshot = items[-1].snapshot
        assert (snapshot.run_id, snapshot.attempt) == ("r", 1)
        # Reasoning comes first and counts as tokens: two words, then one of the text.
        assert [part.WhichOneof("content") for part in snapshot.parts] == ["reasoning", "text"]
        assert [part.reasoning or part.text for part in snapshot.parts] == ["ponder é", "aé"]
        assert [part.length for part in snapshot.parts] == [len("ponder é".encode()), len("aé".encode())]
        seqs = [item.event.seq for item in items if item.HasField("event")]
        assert snapshot.seq == (seqs[-1] if seqs else (await server.history("s"))[-1].seq)
        server.gates.open("g")
        rest = await read_until(call, "run_finished")
        deltas = [item.delta for item in rest if item.HasField("delta")]
        assert (deltas[0].part, deltas[0].offset) == (1, len("aé".encode()))
        assert "aé" + "".join(delta.text for delta in deltas) == ANSWER
        (answer,) = answers(rest)
        assert text_of(answer) == ANSWER
        assert answer.message_id == snapshot.message_id
        call.cancel()


@pytest.mark.parametrize("method", ["WatchSession", "Converse"])
@pytest.mark.asyncio
async def test_a_reader_goes_on_from_any_offset_it_has(tmp_path: Path, method: str) -> None:
    head = HEAD.encode()
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await held_in_mid_message(server)
        call = watch(server, after_seq=0)
        snapshot = (await read_until(call, "snapshot"))[-1].snapshot
        assert snapshot.parts[0].text == HEAD
        call.cancel()
        cases = [(1, offset) for offset in range(len(head) + 2)] + [(2, 1), (1, -1), (0, 0)]
        readers: list[tuple[int, int, Any]] = []
        for attempt, offset in cases:
            position = run_service_pb2.DeltaPosition(message_id=snapshot.message_id, attempt=attempt, offsets=[offset])
            if method == "Converse":
                reader = (await Talk.open(server, "s", positions=[position])).call
            else:
                reader = watch(server, positions=[position])
                await reader.initial_metadata()
            readers.append((attempt, offset, reader))
        # Each has shown something before there is more to show, if it is a sign of life.
        clock.advance(15.0)
        begun = [(await reader.read()).item for _, _, reader in readers]
        server.gates.open("g")
        for first, (attempt, offset, reader) in zip(begun, readers, strict=True):
            items = [first, *await read_until(reader, "run_finished")]
            is_position = attempt == 1 and 0 <= offset <= len(head) and _is_boundary(head, offset)
            text = head[:offset] if is_position else b""
            snapshots = [item.snapshot for item in items if item.HasField("snapshot")]
            assert bool(snapshots) != is_position, (attempt, offset)
            if snapshots:
                assert snapshots[0].parts[0].text == HEAD
                text = HEAD.encode()
            for item in items:
                if item.HasField("delta"):
                    assert item.delta.offset == len(text), (attempt, offset)
                    text += item.delta.text.encode()
            assert text.decode() == ANSWER, (attempt, offset)
            assert [text_of(answer) for answer in answers(items)] == [ANSWER]
            reader.cancel()


def _is_boundary(content: bytes, offset: int) -> bool:
    return offset == len(content) or content[offset] & 0xC0 != 0x80


@pytest.mark.asyncio
async def test_a_position_of_one_part_leaves_the_other_whole(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        reply = json.dumps({"reasoning": "one two", "text": "three four", "gate": "g", "gate_after": 3})
        await server.submit("s", reply, run_id="r")
        await server.gates.reached("g")
        call = watch(server, after_seq=0)
        snapshot = (await read_until(call, "snapshot"))[-1].snapshot
        call.cancel()
        position = run_service_pb2.DeltaPosition(message_id=snapshot.message_id, attempt=1, offsets=[4])
        call = watch(server, positions=[position])
        first, second = (await call.read()).item.delta, (await call.read()).item.delta
        assert (first.part, first.offset, first.reasoning) == (0, 4, "two")
        assert (second.part, second.offset, second.text) == (1, 0, "three ")
        server.gates.open("g")
        rest = await read_until(call, "run_finished")
        assert [item.delta.text for item in rest if item.HasField("delta")] == ["four"]
        call.cancel()


@pytest.mark.asyncio
async def test_a_reader_without_deltas_gets_durable_events_alone(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await held_in_mid_message(server)
        call = watch(server, after_seq=0, filter=run_service_pb2.WatchFilter(without_deltas=True))
        server.gates.open("g")
        items = await read_until(call, "run_finished")
        assert {item.WhichOneof("item") for item in items} == {"event"}
        assert [text_of(answer) for answer in answers(items)] == [ANSWER]
        call.cancel()


@pytest.mark.spec("dispatch:X-15")
@pytest.mark.asyncio
async def test_quick_deltas_merge_for_a_reader_that_is_not_reading(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        call = watch(server, after_seq=0)
        # Two bursts with a pause between them: each is one delta, however many tokens it had.
        await server.submit("s", json.dumps({"text": list("abcdefg"), "gate": "g", "gate_after": 2}), run_id="r")
        await server.gates.reached("g")
        first = (await read_until(call, "delta"))[-1].delta
        server.gates.open("g")
        rest = await read_until(call, "run_finished")
        deltas = [first, *(item.delta for item in rest if item.HasField("delta"))]
        assert [(delta.offset, delta.text) for delta in deltas] == [(0, "ab"), (2, "cdefg")]
        assert [text_of(answer) for answer in answers(rest)] == ["abcdefg"]
        assert text_of((await server.messages("s"))[-1]) == "abcdefg"
        call.cancel()


@pytest.mark.spec("dispatch:X-16")
@pytest.mark.asyncio
async def test_the_end_of_a_message_is_committed_before_it_is_seen(tmp_path: Path) -> None:
    clock, store = ManualClock(), HeldStore(tmp_path)
    async with serving(tmp_path, clock=clock, store=store) as server:
        await server.session("s")
        reply = {"reasoning": "think", "text": "call", "gate": "g", "tool_calls": [{"name": "t"}]}
        await server.submit("s", json.dumps({"replies": [reply, {"text": "no such tool"}]}), run_id="r")
        await server.gates.reached("g")
        call = watch(server, after_seq=0)
        await read_until(call, "step_started")
        store.hold()
        server.gates.open("g")
        (commit,) = await store.came(1)
        kinds = [event.kind for event in commit.events]
        requested = event_pb2.Event.DESCRIPTOR.fields_by_name["tool_call_requested"].number
        assert kinds[-1] == requested
        # A heartbeat is the sentinel: it is written after all there is to see. The message grows, and is not there.
        reading = asyncio.ensure_future(read_until(call, "heartbeat"))
        times = 1
        while not reading.done():
            await clock.armed(HEARTBEAT_LOOK, times)
            clock.advance(HEARTBEAT_LOOK)
            times += 1
        shown = await reading
        assert {item.WhichOneof("item") for item in shown} == {"delta", "heartbeat"}
        assert shown[-1].heartbeat.seq == commit.events[0].seq - 1
        store.release()
        # From here on whatever is seen is on the disk already.
        names: list[str | None] = []
        with closing(sqlite3.connect(f"file:{tmp_path / 'turnkeeper.db'}?mode=ro", uri=True)) as database:
            while "run_finished" not in names:
                item = (await call.read()).item
                if not item.HasField("event"):
                    # The clock was turned until a heartbeat was seen, and another may have been on its way; and the
                    # next step has deltas.
                    continue
                event = item.event
                row = database.execute("SELECT payload FROM events WHERE seq = ?", (event.seq,)).fetchone()
                assert row is not None
                assert row[0] == event.SerializeToString()
                names.append(event.WhichOneof("payload"))
        assert names[:3] == ["message_committed", "step_finished", "tool_call_requested"]
        call.cancel()


@pytest.mark.spec("dispatch:X-17")
@pytest.mark.parametrize("way", ["in one go", "flushed", "stuck write", "token by token"])
@pytest.mark.asyncio
async def test_merging_and_flushing_change_nothing_of_the_committed_message(tmp_path: Path, way: str) -> None:
    clock, store = ManualClock(), HeldStore(tmp_path)
    async with serving(tmp_path, clock=clock, store=store) as server:
        await server.session("s")
        call = watch(server, after_seq=0)
        if way == "token by token":
            await server.submit("s", script(pace_ms=10), run_id="r")
            deltas: list[str] = []
            for times, token in enumerate(TOKENS, 1):
                await clock.armed(0.01, times)
                clock.advance(0.01)
                deltas.append((await read_until(call, "delta"))[-1].delta.text)
                assert deltas[-1] == token
        elif way == "in one go":
            await server.submit("s", script(), run_id="r")
        else:
            await server.submit("s", script(gate="g", gate_after=3), run_id="r")
            await server.gates.reached("g")
            if way == "stuck write":
                store.hold()
            await clock.armed(FLUSH)
            clock.advance(FLUSH)
            if way == "stuck write":
                (commit,) = await store.came(1)
                assert b"".join(row.content for row in commit.partials).decode() == HEAD
                server.gates.open("g")
                await store.came(2)
                store.release()
            else:
                await server.submit("s", "sentinel", run_id="next")
                (partial,) = dump(tmp_path)["partials"]
                assert HEAD.encode() in partial
                server.gates.open("g")
        items = await read_until(call, "run_finished")
        (answer,) = answers(items)
        assert text_of(answer) == ANSWER
        assert len(answer.parts) == 1
        assert answer.status == content_pb2.MESSAGE_STATUS_COMPLETE
        stored = next(message for message in await server.messages("s") if message.message_id == answer.message_id)
        assert text_of(stored) == ANSWER
        if way == "flushed":
            await server.terminals("s", ["next"])
        assert dump(tmp_path)["partials"] == []
        call.cancel()


@pytest.mark.spec("dispatch:X-17")
@pytest.mark.asyncio
async def test_what_is_deleted_in_mid_message_stays_deleted(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as server:
        await held_in_mid_message(server)
        await clock.armed(FLUSH)
        clock.advance(FLUSH)
        await server.sessions.DeleteSession(session_service_pb2.DeleteSessionRequest(session_id="s", force=True))
        server.gates.open("g")
        clock.advance(10 * FLUSH)
        # One more run, in another session, is the sentinel of the writer.
        await server.session("t")
        await server.submit("t", run_id="sentinel")
        await server.terminals("t", ["sentinel"])
        rows = dump(tmp_path)
        assert {row[1] for table in ("events", "messages") for row in rows[table]} == {"t"}
        assert rows["partials"] == []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.messages("s")
        assert reason(caught.value) == "SESSION_NOT_FOUND"
        # The id of the run is remembered with its end, and the session's is not free yet.
        assert (await server.run_view("r")).outcome.reason == event_pb2.OUTCOME_REASON_SESSION_DELETED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.session("s")
        assert reason(caught.value) == "SESSION_EXISTS"


@pytest.mark.spec("dispatch:X-18")
@pytest.mark.asyncio
async def test_nobody_waits_for_a_reader_that_does_not_read_and_it_misses_nothing(tmp_path: Path) -> None:
    large = "x" * 200_000
    async with serving(tmp_path) as server:
        await server.session("s")
        stalled = watch(server, after_seq=0)
        await stalled.initial_metadata()
        # Another connection: two streams of one share its flow control.
        async with grpc.aio.insecure_channel(
            server.server.grpc_address, [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            other = Harness(server.server, channel, server.gates, server.places)
            talk = await Talk.open(other, "s")
            for number in range(20):
                await talk.ask(f"f{number}", submit=submission("", large, run_id=f"r{number}"))
            assert (await talk.terminal("r19")).status == event_pb2.OUTCOME_STATUS_COMPLETED
            talk.cancel()
        history = await server.history("s")
        # All is over for everybody else; only now does it begin to read.
        seen: list[event_pb2.Event] = []
        async with asyncio.timeout(LIMIT):
            while len(seen) < len(history):
                item = (await stalled.read()).item
                if item.HasField("event"):
                    seen.append(item.event)
        assert seen == history
        stalled.cancel()

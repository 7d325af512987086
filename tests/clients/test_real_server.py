"""The client against the real server: what it asks, what it streams, and what a crash in between changes: nothing."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest

from tests.clients.conftest import QUICK
from tests.clients.real import RealServer
from turnkeeper import Client, Delta, Event, RunReceipt, SessionSettings, TurnkeeperError
from turnkeeper.v1.event_pb2 import (
    OUTCOME_REASON_QUEUE_CLEARED,
    OUTCOME_REASON_USER,
    OUTCOME_STATUS_CANCELLED,
    OUTCOME_STATUS_COMPLETED,
)
from turnkeeper.v1.run_service_pb2 import CANCEL_DISPOSITION_COVERED, RUN_STATE_FINISHED

pytestmark = pytest.mark.asyncio


def paced(tokens: int, milliseconds: int = 20) -> str:
    """A prompt that the scripted provider answers slowly."""
    return json.dumps({"text": [f"wörd{n} " for n in range(tokens)], "pace_ms": milliseconds})


def words(tokens: int) -> str:
    return "".join(f"wörd{n} " for n in range(tokens))


HANGS = json.dumps({"text": "thinking", "hang": True})


async def test_sessions_runs_and_messages(real: RealServer) -> None:
    async with Client(real.address) as client:
        settings = SessionSettings(model="scripted/echo", title="first")
        session = await client.create_session("s1", settings)
        assert (session.session_id, session.settings.title) == ("s1", "first")
        assert (await client.create_session("s1", settings)).session_id == "s1"
        changed = await client.update_session("s1", SessionSettings(title="second"), ["title"])
        assert changed.settings.title == "second"
        minted = await client.create_session()
        assert [found.session_id async for found in client.list_sessions(page_size=1)] == ["s1", minted.session_id]
        async with client.run("s1", "hello there") as stream:
            items = [item async for item in stream]
        assert isinstance(items[0], RunReceipt)
        assert "".join(item.text for item in items if isinstance(item, Delta)) == "hello there"
        assert stream.outcome is not None
        assert (stream.outcome.status, stream.outcome.text) == (OUTCOME_STATUS_COMPLETED, "hello there")
        run = await client.get_run(stream.run_id)
        assert (run.state, run.outcome.text) == (RUN_STATE_FINISHED, "hello there")
        assert [found.run_id async for found in client.list_runs("s1")] == [stream.run_id]
        texts = [message.parts[0].text.text async for message in client.list_messages("s1", page_size=1)]
        assert texts == ["hello there", "hello there"]
        await client.delete_session("s1")
        with pytest.raises(TurnkeeperError) as caught:
            await client.get_session("s1")
        assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")


async def test_refusals_say_everything(real: RealServer) -> None:
    async with Client(real.address) as client:
        with pytest.raises(TurnkeeperError) as unknown:
            await client.submit("nowhere", "hello")
        assert unknown.value.reason == "SESSION_NOT_FOUND"
        await client.create_session("s1")
        with pytest.raises(TurnkeeperError) as bad:
            await client.submit("s1", "hello", run_id="not an id", for_agent_id="nor this")
        assert (bad.value.code, bad.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ID")
        assert len(bad.value.violations) == 2
        with pytest.raises(TurnkeeperError) as ahead:
            await anext(client.watch("s1", after_seq=1000))
        assert (ahead.value.code, ahead.value.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_AHEAD")
        first = await client.submit("s1", "hello", run_id="r1")
        again = await client.submit("s1", "hello", run_id="r1")
        assert (again.accept_sequence, again.is_replay) == (first.accept_sequence, True)
        with pytest.raises(TurnkeeperError) as reused:
            await client.submit("s1", "something else", run_id="r1")
        assert (reused.value.reason, reused.value.run_id) == ("RUN_ID_REUSED", "r1")


async def test_a_queue_a_clear_and_a_cancel(real: RealServer) -> None:
    async with Client(real.address) as client, client.converse("s1", create_with=SessionSettings()) as talk:
        first = await talk.submit(HANGS)
        second = await talk.submit("second")
        third = await talk.submit("third")
        assert [first.position, second.position, third.position] == [0, 1, 2]
        cleared = await talk.clear_queue()
        assert [run.run_id for run in cleared.runs] == [second.run_id, third.run_id]
        cancelled = await talk.cancel(wait=True)
        [run] = [run for run in cancelled.runs if run.disposition == CANCEL_DISPOSITION_COVERED]
        assert (run.run_id, run.outcome.status) == (first.run_id, OUTCOME_STATUS_CANCELLED)
        talk.finish()
        ended = {
            item.run_id: item.run_finished.outcome.reason
            async for item in talk.items()
            if isinstance(item, Event) and item.WhichOneof("payload") == "run_finished"
        }
    assert ended == {
        first.run_id: OUTCOME_REASON_USER,
        second.run_id: OUTCOME_REASON_QUEUE_CLEARED,
        third.run_id: OUTCOME_REASON_QUEUE_CLEARED,
    }


async def test_a_steer_is_followed_into_the_run_that_took_it(real: RealServer) -> None:
    async with Client(real.address) as client:
        await client.create_session("s1")
        target = client.run("s1", paced(30))
        assert isinstance(await anext(target), RunReceipt)
        async for item in target:
            if isinstance(item, Delta):
                break
        steer = client.run("s1", "and this", delivery="steer")
        text = await steer.text()
        assert steer.fold is not None
        assert steer.fold.into_run_id == target.run_id
        assert text == "and this"
        assert await target.text() == text


async def test_watch_resumes_where_it_was_left(real: RealServer) -> None:
    async with Client(real.address) as client:
        await client.create_session("s1")
        await client.run("s1", "one").text()
        async with client.watch("s1", after_seq=0, history_only=True) as stream:
            all_seqs = [item.seq async for item in stream if isinstance(item, Event)]
        assert all_seqs == list(range(1, len(all_seqs) + 1))
        async with client.watch("s1", after_seq=3, history_only=True) as stream:
            assert [item.seq async for item in stream if isinstance(item, Event)] == all_seqs[3:]


async def test_the_tenants_notices(real: RealServer) -> None:
    async with Client(real.address) as client, client.watch_tenant() as notices:
        waiting = asyncio.create_task(anext(notices))
        session = await client.create_session()
        run = client.run(session.session_id, "hello")
        await run.text()
        seen = [await waiting]
        while not seen[-1].run.HasField("outcome"):
            seen.append(await anext(notices))
        assert seen[-1].run.run_id == run.run_id


async def test_a_run_survives_the_death_of_its_server(real: RealServer) -> None:
    async with Client(real.address, backoff=QUICK) as client:
        await client.create_session("s1")
        stream = client.run("s1", paced(40))
        seqs, shown, num_voided, is_killed = [], "", 0, False
        async for item in stream:
            if isinstance(item, Event):
                seqs.append(item.seq)
                if item.WhichOneof("payload") == "attempt_discarded":
                    shown, num_voided = "", num_voided + 1
            elif isinstance(item, Delta):
                shown += item.text
                if not is_killed and len(shown) > 40:
                    is_killed = True
                    await real.kill()
                    await real.start()
        assert num_voided == 1
        assert seqs == sorted(set(seqs))
        assert stream.outcome is not None
        assert shown == words(40) == stream.outcome.text


async def test_a_conversation_survives_the_death_of_its_server(real: RealServer) -> None:
    made = SessionSettings()
    async with (
        Client(real.address, backoff=QUICK) as client,
        client.converse("s1", after_seq=0, create_with=made) as talk,
    ):
        first = await talk.submit(paced(20), run_id="r1")
        second = await talk.submit("second", run_id="r2")
        await real.kill()
        submitting = asyncio.create_task(talk.submit("third", run_id="r3"))
        await real.start()
        third = await submitting
        talk.finish()
        items = [item async for item in talk.items()]
    events = [item for item in items if isinstance(item, Event)]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    ended = [event.run_id for event in events if event.WhichOneof("payload") == "run_finished"]
    assert ended == [first.run_id, second.run_id, third.run_id]
    assert first.accept_sequence < second.accept_sequence < third.accept_sequence


async def test_a_watch_over_many_deaths_sees_every_event_once(real: RealServer) -> None:
    async with Client(real.address, backoff=QUICK) as client:
        await client.create_session("s1")
        watching = client.watch("s1", after_seq=0)
        seqs, ended = [], 0
        for number in range(3):
            await client.submit("s1", paced(8, 5), run_id=f"r{number}")
            while ended <= number:
                item = await anext(watching)
                if not isinstance(item, Event):
                    continue
                seqs.append(item.seq)
                ended += item.WhichOneof("payload") == "run_finished"
                if item.WhichOneof("payload") == "step_started" and item.attempt <= 1:
                    await real.kill()
                    await real.start()
        await watching.aclose()
    assert seqs == list(range(1, len(seqs) + 1))

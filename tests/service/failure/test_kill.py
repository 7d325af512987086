"""A server that is killed again and again under load: what it said stays so, and every run gets its one terminal."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.service.failure.load import NUM_SESSIONS, Load, Told
from tests.service.failure.process import ServerProcess
from tests.service.failure.remote import Remote, connected
from tests.service.failure.stories import (
    CANCELLED,
    COMPLETED,
    EXPIRED,
    FOLDED,
    directive,
    finished,
    is_valid,
    reason_of,
    started_order,
    text_of,
)
from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2, session_service_pb2

LIMIT = 120.0
FLAGS = ["--log-level", "warning", "--set", "server.reflection=false"]


async def live_once(data_dir: Path, told: Told, chance: random.Random) -> None:
    """Serve until the clients have heard so many things, then die in the middle of it."""
    left = chance.randrange(1, 400)
    enough = asyncio.Event()

    def tick() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            enough.set()

    with ServerProcess(data_dir, *FLAGS) as process:
        process.serving()
        async with asyncio.timeout(LIMIT), connected(process) as server:
            clients = asyncio.ensure_future(Load(server, told, chance, tick).run())
            waiting = asyncio.ensure_future(enough.wait())
            await asyncio.wait({clients, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            process.kill()
            await clients


async def until_idle(server: Remote, session_id: str) -> None:
    """Wait for the terminal of a run behind all others."""
    sentinel = run_service_pb2.RunRequest(submission=run_service_pb2.Submission(session_id=session_id))
    sentinel.submission.prompt.add().text.text = "sentinel"
    async for _ in server.runs.Run(sentinel):
        pass


async def messages(server: Remote, session_id: str) -> list[content_pb2.Message]:
    found: list[content_pb2.Message] = []
    request = session_service_pb2.ListMessagesRequest(session_id=session_id, page_size=500)
    while True:
        response = await server.sessions.ListMessages(request)
        found += response.messages
        request.page_token = response.next_page_token
        if not request.page_token:
            return found


def check_floor(events: Sequence[event_pb2.Event]) -> None:
    """One floor turn at a time, and first come, first served."""
    sequences = {event.run_id: event.run_accepted.accept_sequence for event in events if event.HasField("run_accepted")}
    running = ""
    for event in events:
        if event.HasField("run_started"):
            assert not running, f"{event.run_id} starts while {running} runs"
            running = event.run_id
        elif event.HasField("run_finished") and event.run_id == running:
            running = ""
    started = [sequences[run_id] for run_id in started_order(events)]
    assert started == sorted(started)


def check_rows(events: Sequence[event_pb2.Event], listed: Sequence[content_pb2.Message]) -> None:
    """Every run left its rows: what was asked, and what became of it."""
    assert is_valid(listed)
    roles: dict[str, list[int]] = {}
    for message in listed:
        roles.setdefault(message.run_id, []).append(message.role)
    for run_id, outcome in finished(events).items():
        assert roles[run_id][0] == content_pb2.ROLE_USER, run_id
        if outcome.status not in (FOLDED, EXPIRED):
            assert content_pb2.ROLE_ASSISTANT in roles[run_id], run_id


def check_cancels(told: Told, outcomes: dict[str, event_pb2.Outcome]) -> None:
    """A cancel that was acknowledged holds."""
    for run_id in told.aborted & outcomes.keys():
        assert outcomes[run_id].status == CANCELLED, f"{run_id}: {reason_of(outcomes[run_id])}"
    for run_id, by in told.replaced.items():
        assert outcomes[run_id].status == CANCELLED, f"{run_id}: {reason_of(outcomes[run_id])}"
        if outcomes[run_id].reason == event_pb2.OUTCOME_REASON_REPLACED:
            # The first that replaced it, which may be an earlier one than the one whose receipt came.
            first = outcomes[run_id].superseded_by_run_id
            assert told.submissions[first].delivery == event_pb2.DELIVERY_REPLACE
            assert told.sequences[run_id] < told.sequences[first] <= told.sequences[by]
    for run_id in (told.stopped & outcomes.keys()) - told.aborted - told.replaced.keys():
        # A last step that fails by itself has failed.
        assert reason_of(outcomes[run_id]) in (
            "COMPLETED/STOPPED",
            "CANCELLED/USER",
            "CANCELLED/REPLACED",
            "CANCELLED/QUEUE_CLEARED",
            "FAILED/TOOL",
            "FAILED/PROVIDER_STREAM_BROKEN",
            "FAILED/PROCESS_LOST",
        ), run_id


async def check(data_dir: Path, told: Told) -> None:
    """Let a last server bring everything to its end, and compare with what its forerunners had said."""
    with ServerProcess(data_dir, *FLAGS) as process:
        process.serving()
        async with asyncio.timeout(LIMIT), connected(process) as server:
            # What was acknowledged is known; what was not may or may not be, and is now.
            for run_id, made in told.submissions.items():
                try:
                    response = await server.runs.SubmitRun(run_service_pb2.SubmitRunRequest(submission=made))
                except grpc.aio.AioRpcError as error:
                    raise AssertionError(f"{run_id}: {error.details()}") from error
                receipt = response.receipt
                assert receipt.is_replay or run_id not in told.sequences
                told.accept(receipt)
            outcomes: dict[str, event_pb2.Outcome] = {}
            for number in range(NUM_SESSIONS):
                session_id = f"s{number}"
                await until_idle(server, session_id)
                events = await server.history(session_id)
                ended = finished(events)
                accepted = {event.run_id for event in events if event.HasField("run_accepted")}
                assert ended.keys() == accepted
                outcomes |= ended
                by_seq = {event.seq: event.SerializeToString(deterministic=True) for event in events}
                seen = told.events[session_id]
                assert {seq: by_seq[seq] for seq in seen} == seen
                check_floor(events)
                check_rows(events, await messages(server, session_id))
            assert told.submissions.keys() <= outcomes.keys()
            check_cancels(told, outcomes)
            for run_id, made in random.Random(1).sample(sorted(told.submissions.items()), 20):
                view = await server.run_view(run_id)
                assert (view.session_id, view.outcome) == (made.session_id, outcomes[run_id])


async def kill_and_check(data_dir: Path, kills: int, seed: int) -> Told:
    told, chance = Told(), random.Random(seed)
    for _ in range(kills):
        await live_once(data_dir, told, chance)
    await check(data_dir, told)
    return told


@pytest.mark.asyncio
async def test_twenty_kills_under_load(tmp_path: Path) -> None:
    told = await kill_and_check(tmp_path / "data", 20, 1)
    # It was a load, and not of prompts alone: the long test has them all for certain.
    assert len(told.sequences) > 100
    assert told.aborted or told.stopped
    assert told.replaced


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.asyncio
async def test_two_hundred_kills_under_load(seed: int, tmp_path: Path) -> None:
    await kill_and_check(tmp_path / "data", 20, 100 + seed)


@pytest.mark.spec("dispatch:G-12")
@pytest.mark.asyncio
async def test_one_running_and_two_queued_runs_survive_a_kill(tmp_path: Path) -> None:
    slow = directive(text=None, tokens=40, pace_ms=10)
    with ServerProcess(tmp_path / "data") as process:
        async with connected(process.serving()) as server:
            await server.session("s")
            run = server.runs.Run(server.run_request("s", slow, "r1"))
            items = aiter(run)
            await anext(items)
            await server.submit("s", "second", "r2")
            await server.submit("s", "third", "r3")
            while (await anext(items)).item.WhichOneof("item") not in ("delta", "snapshot"):
                pass
            process.kill()
            run.cancel()
    with ServerProcess(tmp_path / "data") as process:
        async with connected(process.serving()) as server:
            outcomes = await server.terminals("s", ["r1", "r2", "r3"])
            assert list(outcomes) == ["r1", "r2", "r3"]
            assert {outcome.status for outcome in outcomes.values()} == {COMPLETED}
            listed = await server.messages("s")
            assert is_valid(listed)
            assert [message.role for message in listed] == [content_pb2.ROLE_USER, content_pb2.ROLE_ASSISTANT] * 3
            assert text_of(listed[1]) == "".join(f"w{number} " for number in range(40))
            discards = [event for event in await server.history("s") if event.HasField("attempt_discarded")]
            assert [event.run_id for event in discards] == ["r1"]

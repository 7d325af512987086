"""A conversation over as many connections as it takes: receipts by frame, nothing sent twice that counts twice."""

from __future__ import annotations

import asyncio
from itertools import count

import grpc
import pytest

from tests.clients.fake import SESSION, FakeServer, Lost, delta
from turnkeeper import Client, Delta, Event, TurnkeeperError
from turnkeeper._conversation import MAX_BUFFERED
from turnkeeper.v1.error_pb2 import ERROR_REASON_DRAINING, ERROR_REASON_QUEUE_FULL
from turnkeeper.v1.event_pb2 import DELIVERY_STEER, OUTCOME_STATUS_CANCELLED, Outcome
from turnkeeper.v1.run_service_pb2 import (
    CANCEL_DISPOSITION_COVERED,
    CancelledRun,
    CancelReceipt,
    ConverseRequest,
    FrameError,
    Receipt,
    StreamItem,
)

pytestmark = pytest.mark.asyncio


def kinds(server: FakeServer) -> list[str]:
    return [frame.WhichOneof("frame") or "" for frame in server.log.frames]


def loses_at(server: FakeServer, wanted: str, *, is_carried_out: bool) -> None:
    """Lose the connection at the first frame of a kind, after or before it is carried out."""
    numbers = count()

    def lose(frame: ConverseRequest) -> None:
        if frame.WhichOneof("frame") == wanted and next(numbers) == 0:
            if is_carried_out and wanted == "submit":
                server._accept(frame.submit)
            raise Lost

    server.on_frame = lose


async def test_it_submits_and_ends_when_its_runs_have(server: FakeServer, client: Client) -> None:
    server.on_accept = lambda run_id: server.log.answer(run_id, f"m-{run_id}", "yes")
    async with client.converse(SESSION) as conversation:
        receipts = await asyncio.gather(*(conversation.submit(str(n), run_id=f"r{n}") for n in range(3)))
        conversation.finish()
        finished = [
            item.run_id
            async for item in conversation.items()
            if isinstance(item, Event) and item.WhichOneof("payload") == "run_finished"
        ]
    assert [receipt.run_id for receipt in receipts] == ["r0", "r1", "r2"] == finished
    with pytest.raises(TurnkeeperError):
        await conversation.submit("late")


async def test_a_steer_says_so(server: FakeServer, client: Client) -> None:
    async with client.converse(SESSION) as conversation:
        await conversation.steer("and this")
    assert server.log.frames[-1].submit.delivery == DELIVERY_STEER


async def test_a_refused_frame_is_an_error_of_its_call_alone(server: FakeServer, client: Client) -> None:
    def refuse(frame: ConverseRequest) -> StreamItem | None:
        if frame.submit.run_id != "r1":
            return None
        error = FrameError(code=8, reason=ERROR_REASON_QUEUE_FULL, message="full", metadata={"limit": "10"})
        error.retry_after.FromMilliseconds(1500)
        error.violations.add(field="submission", description="too many")
        return StreamItem(error=error)

    server.on_frame = refuse
    async with client.converse(SESSION) as conversation:
        with pytest.raises(TurnkeeperError) as caught:
            await conversation.submit("one", run_id="r1")
        assert (await conversation.submit("two", run_id="r2")).run_id == "r2"
    error = caught.value
    assert (error.code, error.reason, error.metadata) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "QUEUE_FULL",
        {"limit": "10"},
    )
    assert (error.retry_after, error.run_id, error.violations[0].field) == (1.5, "r1", "submission")


@pytest.mark.parametrize("is_carried_out", [True, False])
async def test_a_submission_whose_receipt_is_lost_is_sent_again(
    server: FakeServer, client: Client, is_carried_out: bool
) -> None:
    loses_at(server, "submit", is_carried_out=is_carried_out)
    async with client.converse(SESSION) as conversation:
        receipt = await conversation.submit("hello")
    assert receipt.is_replay is is_carried_out
    assert kinds(server) == ["open", "submit", "open", "submit"]
    assert len(server.log.runs) == 1


async def test_a_cancel_is_sent_again_before_what_came_after_it(server: FakeServer, client: Client) -> None:
    loses_at(server, "cancel", is_carried_out=True)
    async with client.converse(SESSION) as conversation:
        cancel = asyncio.create_task(conversation.cancel())
        await asyncio.sleep(0)
        await conversation.submit("after")
        await cancel
    # The submission never went out beside an unanswered cancel of the whole session.
    assert kinds(server) == ["open", "cancel", "open", "cancel", "submit"]


async def test_a_cancel_of_one_run_holds_nothing_back(server: FakeServer, client: Client) -> None:
    held = asyncio.Event()

    def hold(frame: ConverseRequest) -> StreamItem | None:
        held.set()
        return StreamItem() if frame.WhichOneof("frame") == "cancel" else None

    server.on_frame = hold
    async with client.converse(SESSION) as conversation:
        cancel = asyncio.create_task(conversation.cancel("r1", wait=True))
        await held.wait()
        await conversation.submit("meanwhile")
        cancel.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancel


async def test_waiting_for_a_cancelled_session_waits_run_by_run(server: FakeServer, client: Client) -> None:
    def answer(frame: ConverseRequest) -> StreamItem | None:
        run = CancelledRun(run_id="r1", disposition=CANCEL_DISPOSITION_COVERED)
        if frame.cancel.wait:
            run.outcome.CopyFrom(Outcome(status=OUTCOME_STATUS_CANCELLED))
        return StreamItem(receipt=Receipt(cancel=CancelReceipt(runs=[run])))

    server.on_frame = answer
    async with client.converse(SESSION) as conversation:
        receipt = await conversation.cancel(wait=True)
    assert [frame.cancel.wait for frame in server.log.frames[1:]] == [False, True]
    assert receipt.runs[0].outcome.status == OUTCOME_STATUS_CANCELLED


async def test_a_draining_server_is_left_for_the_next(server: FakeServer, client: Client) -> None:
    refusals = iter([StreamItem(error=FrameError(code=14, reason=ERROR_REASON_DRAINING, message="going"))])
    server.on_frame = lambda frame: next(refusals, None)
    async with client.converse(SESSION) as conversation:
        await conversation.submit("hello")
    assert kinds(server) == ["open", "submit", "open", "submit"]


@pytest.mark.parametrize("lost_at", range(1, 6))
async def test_items_survive_the_loss_of_the_connection(server: FakeServer, client: Client, lost_at: int) -> None:
    text = "Grüße"
    numbers = count()

    def lose(method: str, item: StreamItem) -> None:
        if method == "Converse" and next(numbers) == lost_at:
            raise Lost

    server.before_item = lose

    def begin(run_id: str) -> None:
        server.log.start(run_id)
        server.log.write(delta(0, "Grü", run_id=run_id))
        server.log.write(delta(4, "ße", run_id=run_id))

    server.on_accept = begin
    shown, seqs = "", []
    async with client.converse(SESSION, after_seq=0) as conversation:
        receipt = await conversation.submit("hello")
        conversation.finish()
        async for item in conversation.items():
            if isinstance(item, Event):
                seqs.append(item.seq)
            elif isinstance(item, Delta):
                shown += item.text
                if shown == text:
                    server.log.answer(receipt.run_id, "m1", text)
    assert shown == text
    assert seqs == [1, 2, 3, 4]


async def test_it_survives_a_restart(server: FakeServer, client: Client) -> None:
    async with client.converse(SESSION, after_seq=0) as conversation:
        await conversation.submit("one", run_id="r1")
        await server.stop()
        waiting = asyncio.create_task(conversation.submit("two", run_id="r2"))
        await asyncio.sleep(0)
        await server.start()
        await waiting
        server.log.answer("r1", "m1", "a")
        server.log.answer("r2", "m2", "b")
        conversation.finish()
        seqs = [item.seq async for item in conversation.items() if isinstance(item, Event)]
    assert seqs == [1, 2, 3, 4, 5, 6]


async def test_a_refused_opening_is_raised(server: FakeServer, client: Client) -> None:
    server.refuse = lambda method: (grpc.StatusCode.NOT_FOUND, "no such session")
    with pytest.raises(TurnkeeperError) as caught:
        async with client.converse("unknown"):
            pytest.fail("it must not open")
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert server.calls == ["Converse"]


async def test_a_reader_that_does_not_read_stops_the_stream_and_no_submission(
    server: FakeServer, client: Client
) -> None:
    async with client.converse(SESSION, after_seq=0) as conversation:
        for _ in range(3 * MAX_BUFFERED):
            server.log.start("other")
        await conversation.submit("one")
        await conversation.submit("two")
        sentinel = server.log.events[-1].seq
        seqs = []
        async for item in conversation.items():
            seqs.append(item.seq if isinstance(item, Event) else 0)
            if seqs[-1] == sentinel:
                break
    assert seqs == list(range(1, sentinel + 1))


async def test_closing_ends_what_waits_and_is_done_once(server: FakeServer, client: Client) -> None:
    server.on_frame = lambda frame: StreamItem()
    async with client.converse(SESSION) as conversation:
        submitting = asyncio.create_task(conversation.submit("hello"))
        reading = asyncio.create_task(anext(aiter(conversation.items()), None))
        await server.log.until(lambda: "submit" in kinds(server))
        await client.close()
        await conversation.close()
    with pytest.raises(TurnkeeperError) as caught:
        await submitting
    assert caught.value.code is grpc.StatusCode.CANCELLED
    assert await reading is None

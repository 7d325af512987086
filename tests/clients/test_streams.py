"""Streams survive lost connections: every event once, every byte once, the right terminal."""

from __future__ import annotations

import asyncio
import gc

import grpc
import pytest

from tests.clients.conftest import QUICK
from tests.clients.fake import SESSION, FakeServer, Lost, delta
from turnkeeper import Backoff, Client, Delta, Event, RunReceipt, TurnkeeperError
from turnkeeper.v1.run_service_pb2 import StreamItem

pytestmark = pytest.mark.asyncio

TEXT = "Schöne Grüße aus dem Norden"


class LosesOnce:
    """Loses the connection before the n-th item of a method, once."""

    def __init__(self, method: str, number: int) -> None:
        self.method, self.left = method, number
        self.is_done = False

    def __call__(self, method: str, item: StreamItem) -> None:
        if method != self.method or self.is_done:
            return
        self.left -= 1
        if self.left < 0:
            self.is_done = True
            raise Lost


def answers(server: FakeServer) -> None:
    """Every accepted run is answered at once, in three deltas that are then committed."""

    def answer(run_id: str) -> None:
        server.log.start(run_id)
        server.log.write(delta(0, TEXT[:9], message_id=f"m-{run_id}", run_id=run_id))
        server.log.answer(run_id, f"m-{run_id}", TEXT)

    server.on_accept = answer


def holds(server: FakeServer) -> None:
    """Every accepted run is left in mid-answer: two deltas are there, nothing is committed."""

    def begin(run_id: str) -> None:
        server.log.start(run_id)
        server.log.write(delta(0, TEXT[:9], run_id=run_id))
        server.log.write(delta(len(TEXT[:9].encode()), TEXT[9:], run_id=run_id))

    server.on_accept = begin


async def test_a_run_ends_with_its_terminal(server: FakeServer, client: Client) -> None:
    answers(server)
    async with client.run(SESSION, "hello") as stream:
        items = [item async for item in stream]
    assert isinstance(items[0], RunReceipt)
    assert items[0] == stream.receipt
    events = [item for item in items if isinstance(item, Event)]
    names = [event.WhichOneof("payload") for event in events]
    assert names == ["run_accepted", "run_started", "message_committed", "run_finished"]
    assert stream.outcome is not None
    assert stream.outcome.text == TEXT


async def test_text_reads_to_the_end(server: FakeServer, client: Client) -> None:
    answers(server)
    assert await client.run(SESSION, "hello").text() == TEXT


@pytest.mark.parametrize("number", range(6))
async def test_a_run_that_is_lost_at_any_item_is_the_same_run(server: FakeServer, client: Client, number: int) -> None:
    answers(server)
    server.before_item = LosesOnce("Run", number)
    async with client.run(SESSION, "hello") as stream:
        items = [item async for item in stream]
    seqs = [item.seq for item in items if isinstance(item, Event)]
    assert seqs == [1, 2, 3, 4]
    assert len([item for item in items if isinstance(item, RunReceipt)]) == 1
    assert len(server.log.runs) == 1
    assert stream.outcome is not None
    assert stream.outcome.text == TEXT


async def test_a_run_resumes_in_the_middle_of_a_message(server: FakeServer, client: Client) -> None:
    holds(server)
    # Receipt, accepted, started, first delta; lost before the second.
    server.before_item = LosesOnce("Run", 4)
    shown = ""
    async with client.run(SESSION, "hello") as stream:
        async for item in stream:
            if isinstance(item, Delta):
                shown += item.text
                if shown == TEXT:
                    server.log.answer(stream.run_id, "m1", TEXT)
    assert shown == TEXT
    [request] = server.log.opened
    assert (request.after_seq, list(request.filter.run_ids)) == (2, [stream.run_id])
    assert list(request.positions[0].offsets) == [len(TEXT[:9].encode())]


async def test_a_folded_run_is_followed_into_its_target(server: FakeServer, client: Client) -> None:
    def fold(run_id: str) -> None:
        server.log.fold(run_id, "target")
        server.log.answer("target", "m2", TEXT)

    server.on_accept = fold
    # Lost right after the fold: the target's terminal comes over another connection.
    server.before_item = LosesOnce("Run", 3)
    async with client.run(SESSION, "also", delivery="steer") as stream:
        assert await stream.text() == TEXT
    assert stream.fold is not None
    assert stream.fold.into_run_id == "target"


async def test_a_fold_ends_the_stream_where_it_is_not_followed(server: FakeServer, client: Client) -> None:
    server.on_accept = lambda run_id: server.log.fold(run_id, "target")
    async with client.run(SESSION, "also", follow_fold=False) as stream:
        assert await stream.text() == ""
    assert stream.outcome is not None
    assert stream.outcome.fold.into_run_id == "target"


@pytest.mark.parametrize("number", range(5))
async def test_a_watch_that_is_lost_at_any_item_misses_and_repeats_nothing(
    server: FakeServer, client: Client, number: int
) -> None:
    for run in ("r1", "r2"):
        server.log.start(run)
        server.log.answer(run, f"m-{run}", TEXT)
    server.before_item = LosesOnce("WatchSession", number)
    async with client.watch(SESSION, after_seq=0, history_only=True) as stream:
        seqs = [item.seq async for item in stream if isinstance(item, Event)]
    assert seqs == [1, 2, 3, 4, 5, 6]
    assert stream.last_seq == 6


async def test_a_watch_survives_a_restart(server: FakeServer, client: Client) -> None:
    server.log.start("r1")
    async with client.watch(SESSION, after_seq=0) as stream:
        assert await anext(stream) == server.log.events[0]
        waiting = asyncio.create_task(anext(stream))
        await server.stop()
        server.log.answer("r1", "m1", TEXT)
        await server.start()
        assert await waiting == server.log.events[1]
        assert await anext(stream) == server.log.events[2]


async def test_a_loss_and_the_return_are_told_once_each(server: FakeServer) -> None:
    told: list[TurnkeeperError | None] = []
    answers(server)
    server.before_item = LosesOnce("Run", 2)
    async with Client(server.address, backoff=QUICK, on_connection=told.append) as client:
        run = client.run(SESSION, "hello")
        assert await run.text() == TEXT
    assert [error and error.code for error in told] == [grpc.StatusCode.UNAVAILABLE, None]


async def test_from_now_on_is_fixed_before_the_first_connection(server: FakeServer, client: Client) -> None:
    server.log.start("r1")
    server.before_item = LosesOnce("WatchSession", 0)
    async with client.watch(SESSION) as stream:
        waiting = asyncio.create_task(anext(stream))
        await server.log.until(lambda: "WatchSession" in server.calls)
        server.log.start("r2")
        server.log.start("r3")
        assert await waiting == server.log.events[1]
        assert await anext(stream) == server.log.events[2]


async def test_a_refusal_is_raised_and_not_tried_again(server: FakeServer, client: Client) -> None:
    server.refuse = lambda method: (grpc.StatusCode.OUT_OF_RANGE, "the seq is in the future")
    with pytest.raises(TurnkeeperError) as caught:
        await anext(client.watch(SESSION, after_seq=99))
    assert caught.value.code is grpc.StatusCode.OUT_OF_RANGE
    assert server.calls == ["WatchSession"]


async def test_patience_ends(server: FakeServer) -> None:
    server.refuse = lambda method: (grpc.StatusCode.UNAVAILABLE, "draining")
    async with Client(server.address, backoff=Backoff(initial=0.001, maximum=0.01, patience=0.1)) as client:
        with pytest.raises(TurnkeeperError) as caught:
            await anext(client.run(SESSION, "hello", run_id="r1"))
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.run_id == "r1"
    assert server.calls.count("Run") > 1


async def test_a_gap_reconnects_and_a_lasting_one_is_an_error(server: FakeServer, client: Client) -> None:
    server.log.write(delta(5, "later"))
    with pytest.raises(TurnkeeperError) as caught:
        await anext(client.watch(SESSION, after_seq=0))
    assert caught.value.code is grpc.StatusCode.DATA_LOSS
    assert server.calls.count("WatchSession") == 4


async def test_silence_is_a_loss(server: FakeServer) -> None:
    server.log.start("r1")
    async with Client(server.address, backoff=QUICK) as client:
        object.__setattr__(client._connection.settings, "silence", 0.05)
        async with client.watch(SESSION, after_seq=0) as stream:
            assert await anext(stream) == server.log.events[0]
            waiting = asyncio.create_task(anext(stream))
            await server.log.until(lambda: server.calls.count("WatchSession") == 2)
            server.log.start("r2")
            assert await waiting == server.log.events[1]
    assert server.log.opened[1].after_seq == 1


async def test_the_tenants_stream_says_that_it_was_lost(server: FakeServer, client: Client) -> None:
    server.log.start("r1")
    server.before_item = LosesOnce("WatchTenant", 1)
    async with client.watch_tenant() as stream:
        assert (await anext(stream)).run.run_id == "r1"
        server.log.start("r2")
        assert (await anext(stream)).WhichOneof("notice") == "lagged"
        assert (await anext(stream)).run.run_id == "r1"
        assert (await anext(stream)).run.run_id == "r2"


async def test_an_iterator_that_is_left_leaves_nothing(server: FakeServer, client: Client) -> None:
    holds(server)
    async for item in client.run(SESSION, "hello"):
        if isinstance(item, Delta):
            break
    gc.collect()
    stream = client.watch(SESSION, after_seq=0)
    await anext(stream)
    await stream.aclose()
    await stream.aclose()
    # The leak fixture counts tasks and sockets after this.


async def test_closing_the_client_ends_what_waits(server: FakeServer, client: Client) -> None:
    stream = client.watch(SESSION, after_seq=0)
    waiting = asyncio.create_task(anext(stream))
    await server.log.until(lambda: "WatchSession" in server.calls)
    await client.close()
    await client.close()
    with pytest.raises(TurnkeeperError) as caught:
        await waiting
    assert caught.value.code is grpc.StatusCode.CANCELLED
    with pytest.raises(TurnkeeperError):
        await client.get_session(SESSION)


async def test_a_reader_that_is_cancelled_is_cancelled(server: FakeServer, client: Client) -> None:
    async with client.watch(SESSION, after_seq=0) as stream:
        waiting = asyncio.create_task(anext(stream))
        await server.log.until(lambda: "WatchSession" in server.calls)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_unary_calls_are_retried_by_the_service_config(server: FakeServer, client: Client) -> None:
    refusals = iter([(grpc.StatusCode.UNAVAILABLE, "not yet")] * 2)
    server.refuse = lambda method: next(refusals, None)
    receipt = await client.submit(SESSION, "hello", run_id="r1")
    assert receipt.run_id == "r1"
    assert server.calls == ["SubmitRun"] * 3

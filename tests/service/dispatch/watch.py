"""A subscriber of one session: reads on demand, keeps what it has read, and refuses what no subscriber may see."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from tests.service.harness import LIMIT, FlatRuns, Harness, OneItem
from turnkeeper.v1 import event_pb2, run_service_pb2

Event = event_pb2.Event
COMPLETED = event_pb2.OUTCOME_STATUS_COMPLETED
CANCELLED = event_pb2.OUTCOME_STATUS_CANCELLED
FAILED = event_pb2.OUTCOME_STATUS_FAILED
FOLDED = event_pb2.OUTCOME_STATUS_FOLDED

_sentinels = itertools.count(1)


class Watch:
    """One WatchSession stream."""

    def __init__(self, server: Harness, session_id: str, call: Any, after_seq: int) -> None:
        self._server = server
        self._session_id = session_id
        self._call = call
        self._after = after_seq
        self.events: list[Event] = []
        """What has been read, without gaps."""

    async def next(self) -> Event:
        """Read up to the next event."""
        async with asyncio.timeout(LIMIT):
            while True:
                response = await self._call.read()
                assert isinstance(response, OneItem), "the stream has ended"
                if response.item.HasField("event"):
                    break
        event = response.item.event
        assert event.seq == self._after + 1, "an event is missing"
        assert event.session_id == self._session_id
        if event.HasField("run_finished"):
            assert event.run_id not in self.terminals(), f"{event.run_id} has two terminals"
        self._after = event.seq
        self.events.append(event)
        return event

    async def until(self, wanted: Callable[[Event], bool]) -> Event:
        """The first event that is wanted, of those read and of those to come."""
        for event in self.events:
            if wanted(event):
                return event
        while True:
            event = await self.next()
            if wanted(event):
                return event

    async def seen(self, run_id: str, payload: str) -> Event:
        """The first event of a run with this payload."""
        return await self.until(lambda event: event.run_id == run_id and event.WhichOneof("payload") == payload)

    async def terminal(self, run_id: str) -> event_pb2.Outcome:
        """The outcome of a run."""
        return (await self.seen(run_id, "run_finished")).run_finished.outcome

    def terminals(self) -> dict[str, event_pb2.Outcome]:
        """Outcomes read so far, in the order they came."""
        return {
            event.run_id: event.run_finished.outcome
            for event in self.events
            if event.WhichOneof("payload") == _FINISHED
        }

    def of(self, run_id: str) -> list[str]:
        """The payloads of a run's events read so far."""
        return [event.WhichOneof("payload") or "" for event in self.events if event.run_id == run_id]

    async def quiet(self) -> dict[str, event_pb2.Outcome]:
        """Submit a sentinel, read up to its terminal, and give all other terminals that came before it."""
        run_id = f"sentinel-{next(_sentinels)}"
        await self._server.submit(self._session_id, "sentinel", run_id=run_id)
        outcome = await self.terminal(run_id)
        assert outcome.status == COMPLETED, "the sentinel itself has to complete"
        return {other: outcome for other, outcome in self.terminals().items() if other != run_id}


_FINISHED = "run_finished"


@asynccontextmanager
async def watching(server: Harness, session_id: str, after_seq: int = 0, **fields: Any) -> AsyncIterator[Watch]:
    """Subscribe to a session's durable events."""
    request = run_service_pb2.WatchSessionRequest(session_id=session_id, after_seq=after_seq, **fields)
    request.filter.without_deltas = True
    call = server.runs.WatchSession(request)
    try:
        yield Watch(server, session_id, call, after_seq)
    finally:
        call.cancel()


@asynccontextmanager
async def stalling(server: Harness, session_id: str) -> AsyncIterator[Watch]:
    """Subscribe over a connection of its own that takes little ahead of its reader."""
    options = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(server.server.grpc_address, options=options) as channel:
        stub: Any = FlatRuns(channel)
        request = run_service_pb2.WatchSessionRequest(session_id=session_id, after_seq=0)
        request.filter.without_deltas = True
        call = stub.WatchSession(request)
        try:
            await call.wait_for_connection()
            yield Watch(server, session_id, call, 0)
        finally:
            call.cancel()

"""Clients that use a server in every way until it is gone, and remember what they were told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from tests.service.failure.remote import Remote
from tests.service.failure.stories import directive
from tests.service.harness import reason, submission
from turnkeeper.v1 import event_pb2, run_service_pb2

NUM_SESSIONS = 5
COVERED = run_service_pb2.CANCEL_DISPOSITION_COVERED
TOMBSTONED = run_service_pb2.CANCEL_DISPOSITION_TOMBSTONED
QUEUE, STEER, REPLACE = event_pb2.DELIVERY_QUEUE, event_pb2.DELIVERY_STEER, event_pb2.DELIVERY_REPLACE
ABORT, STOP = event_pb2.CANCEL_MODE_ABORT, event_pb2.CANCEL_MODE_STOP
Submission = run_service_pb2.Submission

TEXTS = [
    "a few words",
    directive("a slow answer of some words", pace_ms=2),
    directive(tokens=24, text=None, pace_ms=4),
    directive(tokens=4000, text=None),
    directive("calling", tool_calls=[{"name": "look_up"}, {"name": "look_down", "id": "call-of-the-model"}]),
    directive("broken off", fail="PROVIDER_STREAM_BROKEN", fail_after=1),
]


@dataclass
class Told:
    """Everything that was acknowledged or shown, over all lives of the server."""

    submissions: dict[str, Submission] = field(default_factory=dict)
    """Every submission that was ever sent, acknowledged or not."""
    sequences: dict[str, int] = field(default_factory=dict)
    """Of the acknowledged ones, the accept sequence."""
    aborted: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)
    replaced: dict[str, str] = field(default_factory=dict)
    """By which run."""
    events: dict[str, dict[int, bytes]] = field(default_factory=dict)
    """What readers saw: per session, by seq."""

    def accept(self, receipt: run_service_pb2.RunReceipt) -> None:
        """A receipt came."""
        known = self.sequences.setdefault(receipt.run_id, receipt.accept_sequence)
        assert known == receipt.accept_sequence, f"{receipt.run_id} was accepted twice"
        for run_id in receipt.replaced_run_ids:
            self.replaced.setdefault(run_id, receipt.run_id)

    def cancel(self, receipt: run_service_pb2.CancelReceipt, mode: event_pb2.CancelMode.ValueType) -> None:
        """The receipt of a cancel came."""
        for run in receipt.runs:
            if run.disposition in (COVERED, TOMBSTONED):
                (self.stopped if mode == STOP else self.aborted).add(run.run_id)

    def see(self, event: event_pb2.Event) -> None:
        """An event came; every reader saw the same one under this number."""
        content = event.SerializeToString(deterministic=True)
        known = self.events.setdefault(event.session_id, {}).setdefault(event.seq, content)
        assert known == content, f"event {event.seq} of {event.session_id} has changed"


class Load:
    """The clients of one life of the server. ``tick`` is called at everything that they hear."""

    def __init__(self, server: Remote, told: Told, chance: random.Random, tick: Callable[[], None]) -> None:
        self._server = server
        self._told = told
        self._chance = chance
        self._tick = tick

    async def run(self) -> None:
        """Use the server until it is gone."""
        async with asyncio.TaskGroup() as clients:
            for number in range(NUM_SESSIONS):
                session_id = f"s{number}"
                clients.create_task(self._until_gone(self._converse(session_id)))
                clients.create_task(self._until_gone(self._unary(session_id)))
                clients.create_task(self._until_gone(self._watch(session_id)))

    @staticmethod
    async def _until_gone(client: object) -> None:
        try:
            await client  # type: ignore[misc]
        except grpc.aio.AioRpcError as error:
            # The second is gRPC's word for a write to a connection that has just gone.
            if error.code() != grpc.StatusCode.UNAVAILABLE and error.details() != "Internal error from Core":
                raise

    def _submission(self, session_id: str) -> Submission:
        chance = self._chance
        delivery = chance.choice([QUEUE, QUEUE, QUEUE, STEER, STEER, REPLACE])
        made = submission(session_id, chance.choice(TEXTS), f"r{len(self._told.submissions)}", delivery=delivery)
        self._told.submissions[made.run_id] = made
        return made

    def _some_run(self, session_id: str) -> str:
        ids = [run_id for run_id, made in self._told.submissions.items() if made.session_id == session_id]
        return self._chance.choice(ids[-8:]) if ids else "never-submitted"

    def _cancel(self, session_id: str) -> run_service_pb2.CancelRunsRequest:
        chance = self._chance
        request = run_service_pb2.CancelRunsRequest(mode=chance.choice([ABORT, ABORT, STOP]))
        request.rollback = chance.random() < 0.2
        match chance.randrange(3):
            case 0:
                request.scope.session_id = session_id
            case 1:
                request.scope.run_id = self._some_run(session_id)
            case _:
                known = [self._told.sequences.get(run_id, 0) for run_id in (self._some_run(session_id),)]
                request.scope.up_to.session_id = session_id
                request.scope.up_to.accept_sequence = max(1, *known)
        return request

    async def _unary(self, session_id: str) -> None:
        server, told, chance = self._server, self._told, self._chance
        await server.session(session_id)
        while True:
            match chance.randrange(10):
                case 0 | 1:
                    request = self._cancel(session_id)
                    mode = request.mode
                    response = await server.runs.CancelRuns(request)
                    told.cancel(response.receipt, mode)
                case 2:
                    cleared = await server.runs.ClearQueue(run_service_pb2.ClearQueueRequest(session_id=session_id))
                    told.cancel(cleared.receipt, ABORT)
                case 3 if told.sequences:
                    # A retry of anything that was ever sent, answered or not.
                    made = told.submissions[chance.choice(list(told.submissions))]
                    await self._submit(made)
                case _:
                    await self._submit(self._submission(session_id))
            self._tick()

    async def _submit(self, made: Submission) -> None:
        was_accepted = made.run_id in self._told.sequences
        try:
            response = await self._server.runs.SubmitRun(run_service_pb2.SubmitRunRequest(submission=made))
        except grpc.aio.AioRpcError as error:
            # A retry of what another session's client has not made yet.
            if reason(error) != "SESSION_NOT_FOUND":
                raise
            return
        assert response.receipt.is_replay or not was_accepted
        self._told.accept(response.receipt)

    async def _converse(self, session_id: str) -> None:
        await self._server.session(session_id)
        call = self._server.runs.Converse()
        after = max(self._told.events.get(session_id, {0: b""}))
        opening = run_service_pb2.OpenFrame(session_id=session_id, after_seq=after)
        await call.write(run_service_pb2.ConverseRequest(open=opening))
        modes: dict[str, event_pb2.CancelMode.ValueType] = {}
        num_open = 0
        while (response := await call.read()) is not grpc.aio.EOF:
            self._tick()
            item = response.item
            if item.HasField("event"):
                after += 1
                assert item.event.seq == after, f"{session_id}: {item.event.seq} after {after - 1}"
                self._told.see(item.event)
            elif item.HasField("error"):
                raise AssertionError(f"a frame was refused: {item.error}")
            elif item.HasField("receipt"):
                num_open -= 1
                if item.receipt.HasField("run"):
                    self._told.accept(item.receipt.run)
                elif item.receipt.HasField("cancel"):
                    self._told.cancel(item.receipt.cancel, modes[item.receipt.frame_id])
            while num_open < 2:
                num_open += 1
                frame = run_service_pb2.ConverseRequest(frame_id=f"f{len(modes)}")
                modes[frame.frame_id] = ABORT
                if self._chance.random() < 0.2:
                    frame.cancel.CopyFrom(self._cancel(session_id))
                    modes[frame.frame_id] = frame.cancel.mode
                else:
                    frame.submit.CopyFrom(self._submission(session_id))
                await self._write(call, frame)

    @staticmethod
    async def _write(call: Any, frame: run_service_pb2.ConverseRequest) -> None:
        try:
            await call.write(frame)
        except asyncio.InvalidStateError:
            # The call ended before the write began: how, is what counts.
            assert await call.code() == grpc.StatusCode.UNAVAILABLE
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "the server is gone"
            ) from None

    async def _watch(self, session_id: str) -> None:
        """A reader that always starts from the beginning: what it saw before has not changed."""
        await self._server.session(session_id)
        seq = 0
        watch = self._server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id=session_id, after_seq=0))
        async for response in watch:
            self._tick()
            if response.item.HasField("event"):
                seq += 1
                assert response.item.event.seq == seq
                self._told.see(response.item.event)

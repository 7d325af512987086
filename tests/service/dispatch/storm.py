"""Many callers at once: random submits, cancels, steers and replaces over several sessions, unary and by Converse.

What was asked and answered, and what the sessions' logs say in the end, is kept as data: the promises are properties of
it. The choices come from a seed; how the calls interleave is the machine's, and the properties hold for any order.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from tests.service.dispatch.script import provider, reply
from tests.service.harness import Harness, reason, serving, submission
from turnkeeper.v1 import error_pb2, event_pb2, run_service_pb2, session_service_pb2

NUM_SESSIONS = 3
NUM_CALLERS = 6
NUM_OPERATIONS = 40
GATES = ("red", "green")
LIMIT = 60.0

Event = event_pb2.Event
Receipt = run_service_pb2.RunReceipt
COVERED = run_service_pb2.CANCEL_DISPOSITION_COVERED
ALREADY_FINISHED = run_service_pb2.CANCEL_DISPOSITION_ALREADY_FINISHED
TOMBSTONED = run_service_pb2.CANCEL_DISPOSITION_TOMBSTONED
DELIVERIES = (
    event_pb2.DELIVERY_QUEUE,
    event_pb2.DELIVERY_QUEUE,
    event_pb2.DELIVERY_QUEUE,
    event_pb2.DELIVERY_STEER,
    event_pb2.DELIVERY_STEER,
    event_pb2.DELIVERY_REJECT,
    event_pb2.DELIVERY_REPLACE,
)


@dataclass(slots=True)
class Cancelled:
    """A cancel: its scope, what was in the session's log before it was asked and after its answer, and the answer."""

    session_id: str
    scope: str
    named: str
    up_to: int
    seq_before: int
    receipt: run_service_pb2.CancelReceipt
    seq_after: int


@dataclass(slots=True)
class Record:
    """Everything that was seen from outside."""

    receipts: dict[str, list[Receipt]] = field(default_factory=dict)
    """All acknowledgements of each run, duplicates too."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Reasons of refused submits."""
    conflicts: list[str] = field(default_factory=list)
    """The reason each duplicate with another payload was refused with."""
    cancels: list[Cancelled] = field(default_factory=list)
    logs: dict[str, list[Event]] = field(default_factory=dict)
    """Each session's log, as a subscriber read it while it grew."""
    replayed: dict[str, list[Event]] = field(default_factory=dict)
    """The same, as the next process reads it from the store."""
    views: dict[str, run_service_pb2.Run] = field(default_factory=dict)
    """Each accepted run, as the next process shows it."""
    early: list[str] = field(default_factory=list)
    """Runs that GetRun did not know right after their acknowledgement."""
    max_open: int = 0
    num_calls: int = 0

    def of(self, payload: str) -> list[Event]:
        """All events with this payload, session by session, in order."""
        return [event for log in self.logs.values() for event in log if event.WhichOneof("payload") == payload]

    def outcomes(self) -> dict[str, event_pb2.Outcome]:
        """The outcome of each run."""
        return {event.run_id: event.run_finished.outcome for event in self.of("run_finished")}


class Storm:
    """The callers."""

    def __init__(self, server: Harness, seed: int) -> None:
        self._server = server
        self._chance = random.Random(seed)
        self._number = 0
        self._known: list[tuple[str, str]] = []
        """(session_id, run_id) of submits that were begun."""
        self._payloads: dict[str, run_service_pb2.Submission] = {}
        self._talks: dict[str, _Talk] = {}
        self.record = Record()

    async def rage(self) -> None:
        """Do it all; returns when every call has been answered and every run is over."""
        sessions = [f"s{number}" for number in range(NUM_SESSIONS)]
        for session_id in sessions:
            await self._server.session(session_id)
        watchers = [asyncio.create_task(self._watch(session_id)) for session_id in sessions]
        self._talks = {session_id: _Talk(self._server, session_id) for session_id in sessions}
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*(self._caller(session_id) for session_id in sessions * (NUM_CALLERS // NUM_SESSIONS)))
            for gate in GATES:
                self._server.gates.open(gate)
            for talk in self._talks.values():
                await talk.close()
            # A last run per session: when it is over, so is all before it.
            for session_id in sessions:
                await self._submit(session_id, "the end", f"end-{session_id}")
            await asyncio.gather(*watchers)
        scripted = provider(self._server)
        self.record.max_open, self.record.num_calls = scripted.max_open, scripted.num_calls

    async def _watch(self, session_id: str) -> None:
        log = self.record.logs.setdefault(session_id, [])
        request = run_service_pb2.WatchSessionRequest(session_id=session_id, after_seq=0)
        call = self._server.runs.WatchSession(request)
        open_: set[str] = set()
        async for response in call:
            if not response.item.HasField("event"):
                continue
            event = response.item.event
            log.append(event)
            if event.HasField("run_accepted"):
                open_.add(event.run_id)
            elif event.HasField("run_finished"):
                open_.discard(event.run_id)
                if event.run_id == f"end-{session_id}" and not open_:
                    break
        call.cancel()

    async def _caller(self, session_id: str) -> None:
        actions: list[tuple[int, Callable[[str], Awaitable[None]]]] = [
            (12, self._submit_new),
            (2, self._submit_twice),
            (2, self._submit_again),
            (2, self._submit_other_payload),
            (2, self._cancel_session),
            (3, self._cancel_run),
            (2, self._cancel_unseen),
            (1, self._cancel_up_to),
            (2, self._clear_queue),
            (5, self._turn_gate),
        ]
        weights = [weight for weight, _ in actions]
        for _ in range(NUM_OPERATIONS):
            (action,) = self._chance.choices([action for _, action in actions], weights)
            await action(session_id)

    # ---- submits

    def _prompt(self) -> str:
        kind = self._chance.random()
        if kind < 0.4:
            return reply("some words", gate=self._chance.choice(GATES), gate_after=self._chance.randrange(3))
        if kind < 0.5:
            return reply("some words", fail="PROVIDER_ERROR", fail_after=self._chance.randrange(3))
        return "just an answer"

    def _new(self, session_id: str) -> run_service_pb2.Submission:
        self._number += 1
        run_id = f"{session_id}.{self._number}"
        delivery = self._chance.choice(DELIVERIES)
        payload = submission(session_id, self._prompt(), run_id, delivery=delivery)
        self._known.append((session_id, run_id))
        self._payloads[run_id] = payload
        return payload

    async def _submit_new(self, session_id: str) -> None:
        await self._send(self._new(session_id))

    async def _submit_twice(self, session_id: str) -> None:
        """The same at the same time."""
        payload = self._new(session_id)
        await asyncio.gather(*(self._send(payload) for _ in range(3)))

    async def _submit_again(self, session_id: str) -> None:
        """The same later."""
        run_ids = [run_id for run_id in self.record.receipts if run_id in self._payloads]
        if run_ids:
            await self._send(self._payloads[self._chance.choice(run_ids)])

    async def _submit_other_payload(self, session_id: str) -> None:
        run_ids = [run_id for run_id in self.record.receipts if run_id in self._payloads]
        if run_ids:
            run_id = self._chance.choice(run_ids)
            other = submission(self._payloads[run_id].session_id, "something else", run_id)
            self.record.conflicts.append(await self._refusal(other))

    async def _submit(self, session_id: str, text: str, run_id: str) -> None:
        await self._send(submission(session_id, text, run_id))

    async def _send(self, payload: run_service_pb2.Submission) -> None:
        run_id = payload.run_id
        if self._chance.random() < 0.4 and payload.session_id in self._talks and not run_id.startswith("end-"):
            answer = await self._talks[payload.session_id].submit(payload)
        else:
            answer = await _unary(self._server, payload)
        if isinstance(answer, str):
            self.record.refusals[answer] += 1
            return
        self.record.receipts.setdefault(run_id, []).append(answer)
        if self._chance.random() < 0.2:
            try:
                await self._server.run_view(run_id)
            except grpc.aio.AioRpcError:
                self.record.early.append(run_id)

    async def _refusal(self, payload: run_service_pb2.Submission) -> str:
        answer = await _unary(self._server, payload)
        return answer if isinstance(answer, str) else "accepted"

    # ---- cancels

    async def _cancel_session(self, session_id: str) -> None:
        await self._cancel(session_id, "session", run_service_pb2.CancelScope(session_id=session_id))

    async def _cancel_up_to(self, session_id: str) -> None:
        receipts = [one[0] for one in self.record.receipts.values() if one[0].session_id == session_id]
        if receipts:
            scope = run_service_pb2.CancelScope()
            scope.up_to.session_id = session_id
            scope.up_to.accept_sequence = self._chance.choice(receipts[-5:]).accept_sequence
            await self._cancel(session_id, "up_to", scope, up_to=scope.up_to.accept_sequence)

    async def _cancel_run(self, session_id: str) -> None:
        known = [run_id for of, run_id in self._known if of == session_id]
        if known:
            named = self._chance.choice(known[-8:])
            await self._cancel(session_id, "run", run_service_pb2.CancelScope(run_id=named), named=named)

    async def _cancel_unseen(self, session_id: str) -> None:
        """A cancel whose run comes later."""
        payload = self._new(session_id)
        scope = run_service_pb2.CancelScope(run_id=payload.run_id)
        await self._cancel(session_id, "unseen", scope, named=payload.run_id)
        await self._send(payload)

    async def _clear_queue(self, session_id: str) -> None:
        before = await self._last_seq(session_id)
        request = run_service_pb2.ClearQueueRequest(session_id=session_id)
        receipt = (await self._server.runs.ClearQueue(request)).receipt
        after = await self._last_seq(session_id)
        self.record.cancels.append(Cancelled(session_id, "queue", "", 0, before, receipt, after))

    async def _cancel(
        self, session_id: str, kind: str, scope: run_service_pb2.CancelScope, *, named: str = "", up_to: int = 0
    ) -> None:
        before = await self._last_seq(session_id)
        request = run_service_pb2.CancelRunsRequest(scope=scope, wait=self._chance.random() < 0.2)
        receipt = (await self._server.runs.CancelRuns(request)).receipt
        after = await self._last_seq(session_id)
        self.record.cancels.append(Cancelled(session_id, kind, named, up_to, before, receipt, after))

    async def _last_seq(self, session_id: str) -> int:
        request = session_service_pb2.GetSessionRequest(session_id=session_id)
        response: session_service_pb2.GetSessionResponse = await self._server.sessions.GetSession(request)
        return response.session.last_seq

    async def _turn_gate(self, session_id: str) -> None:
        gate = self._chance.choice(GATES)
        if self._chance.random() < 0.6:
            self._server.gates.open(gate)
        else:
            self._server.gates.hold(gate)


async def _unary(server: Harness, payload: run_service_pb2.Submission) -> Receipt | str:
    try:
        response: run_service_pb2.SubmitRunResponse = await server.runs.SubmitRun(
            run_service_pb2.SubmitRunRequest(submission=payload)
        )
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {reason(error)}"
    return response.receipt


class _Talk:
    """One Converse stream that all callers of a session share."""

    def __init__(self, server: Harness, session_id: str) -> None:
        self._call: Any = server.runs.Converse()
        self._answers: dict[str, asyncio.Future[Receipt | str]] = {}
        self._number = 0
        self._writing = asyncio.Lock()
        self._reading = asyncio.create_task(self._read())
        self._opening: run_service_pb2.OpenFrame | None = run_service_pb2.OpenFrame(session_id=session_id)

    async def submit(self, payload: run_service_pb2.Submission) -> Receipt | str:
        """Submit over the stream."""
        self._number += 1
        frame = run_service_pb2.ConverseRequest(frame_id=str(self._number), submit=payload)
        answer: asyncio.Future[Receipt | str] = asyncio.get_running_loop().create_future()
        self._answers[frame.frame_id] = answer
        await self._write(frame)
        return await answer

    async def _write(self, frame: run_service_pb2.ConverseRequest) -> None:
        async with self._writing:
            opening, self._opening = self._opening, None
            if opening is not None:
                await self._call.write(run_service_pb2.ConverseRequest(open=opening))
            await self._call.write(frame)

    async def _read(self) -> None:
        async for response in self._call:
            item = response.item
            if item.HasField("error"):
                code = {status.value[0]: status.name for status in grpc.StatusCode}[item.error.code]
                label = error_pb2.ErrorReason.Name(item.error.reason).removeprefix("ERROR_REASON_")
                self._answers[item.error.frame_id].set_result(f"{code} {label}")
            elif item.receipt.HasField("run"):
                self._answers[item.receipt.frame_id].set_result(item.receipt.run)

    async def close(self) -> None:
        """Half-close: the server ends the stream when every run submitted on it is over."""
        if self._opening is not None:
            self._call.cancel()
            await asyncio.wait({self._reading})
            return
        await self._call.done_writing()
        await self._reading


async def rage(data_dir: Path, seed: int) -> Record:
    """A storm over a server, and what its successor says of it."""
    async with serving(data_dir) as server:
        storm = Storm(server, seed)
        await storm.rage()
    record = storm.record
    async with serving(data_dir) as successor:
        for session_id in record.logs:
            record.replayed[session_id] = await successor.history(session_id)
        for run_id in record.receipts:
            record.views[run_id] = await successor.run_view(run_id)
    return record

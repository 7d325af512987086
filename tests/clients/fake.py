"""A small server whose losses a test decides: it keeps a log, runs nothing, and can hang up at any item.

It knows one session. A test writes its script: what a run's stream holds. Everything about resuming is the contract's:
events after `after_seq`, deltas from the positions that the client names.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import grpc.aio

from turnkeeper.v1.content_pb2 import ROLE_ASSISTANT, Message, Part, Text
from turnkeeper.v1.event_pb2 import (
    OUTCOME_REASON_ANSWERED,
    OUTCOME_STATUS_COMPLETED,
    OUTCOME_STATUS_FOLDED,
    Event,
    Fold,
    MessageCommitted,
    Outcome,
    RunAccepted,
    RunFinished,
    RunStarted,
)
from turnkeeper.v1.run_service_pb2 import (
    CancelReceipt,
    CancelRunsRequest,
    CancelRunsResponse,
    ConverseRequest,
    ConverseResponse,
    Delta,
    DeltaPosition,
    GetRunRequest,
    GetRunResponse,
    OpenReceipt,
    Receipt,
    Run,
    RunReceipt,
    RunRequest,
    RunResponse,
    StreamItem,
    Submission,
    SubmitRunRequest,
    SubmitRunResponse,
    WatchSessionRequest,
    WatchSessionResponse,
    WatchTenantRequest,
    WatchTenantResponse,
)
from turnkeeper.v1.run_service_pb2_grpc import RunServiceServicer, add_RunServiceServicer_to_server
from turnkeeper.v1.session_service_pb2 import (
    Approval,
    GetSessionRequest,
    GetSessionResponse,
    ListApprovalsRequest,
    ListApprovalsResponse,
    Session,
)
from turnkeeper.v1.session_service_pb2_grpc import SessionServiceServicer, add_SessionServiceServicer_to_server

Context = grpc.aio.ServicerContext[Any, Any]
SESSION = "s"
T = TypeVar("T")


def delta(
    offset: int, text: str, *, message_id: str = "m1", attempt: int = 1, part: int = 0, run_id: str = ""
) -> Delta:
    return Delta(message_id=message_id, attempt=attempt, part=part, offset=offset, text=text, run_id=run_id)


class Lost(Exception):
    """Raised by a test's hook: the connection is lost here."""


def loses(method: Callable[..., AsyncIterator[T]]) -> Callable[..., AsyncIterator[T]]:
    """Turn what a hook raises into the end of the stream that a lost connection is."""

    @functools.wraps(method)
    async def call(server: FakeServer, request: Any, context: Context) -> AsyncIterator[T]:
        try:
            async for response in method(server, request, context):
                yield response
        except Lost:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection is lost")

    return call


@dataclass
class FakeLog:
    """The session's events and its open messages; what a real server keeps on disk survives a restart here too."""

    events: list[Event] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)
    runs: dict[str, Submission] = field(default_factory=dict)
    accepted_seq: dict[str, int] = field(default_factory=dict)
    frames: list[ConverseRequest] = field(default_factory=list)
    opened: list[WatchSessionRequest] = field(default_factory=list)
    approvals: list[Approval] = field(default_factory=list)
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    def append(self, event: Event) -> Event:
        event.session_id, event.seq = SESSION, len(self.events) + 1
        self.events.append(event)
        if event.WhichOneof("payload") == "message_committed":
            committed = event.message_committed.message.message_id
            self.deltas = [left for left in self.deltas if left.message_id != committed]
        self.wake()
        return event

    def write(self, more: Delta) -> None:
        more.seq = len(self.events)
        self.deltas.append(more)
        self.wake()

    def accept(self, submission: Submission) -> RunReceipt:
        is_replay = submission.run_id in self.runs
        if not is_replay:
            self.runs[submission.run_id] = submission
            self.accepted_seq[submission.run_id] = self.append(
                Event(run_id=submission.run_id, run_accepted=RunAccepted(accept_sequence=len(self.runs)))
            ).seq
        seq = self.accepted_seq[submission.run_id]
        return RunReceipt(run_id=submission.run_id, session_id=SESSION, accepted_seq=seq, is_replay=is_replay)

    def answer(self, run_id: str, message_id: str, text: str) -> None:
        """Commit an answer and end its run."""
        message = Message(message_id=message_id, role=ROLE_ASSISTANT, run_id=run_id, parts=[Part(text=Text(text=text))])
        self.append(Event(run_id=run_id, message_committed=MessageCommitted(message=message)))
        outcome = Outcome(status=OUTCOME_STATUS_COMPLETED, reason=OUTCOME_REASON_ANSWERED, text=text)
        self.append(Event(run_id=run_id, run_finished=RunFinished(outcome=outcome)))

    def start(self, run_id: str) -> None:
        self.append(Event(run_id=run_id, run_started=RunStarted()))

    def fold(self, run_id: str, into: str) -> None:
        outcome = Outcome(status=OUTCOME_STATUS_FOLDED, fold=Fold(into_run_id=into))
        self.append(Event(run_id=run_id, run_finished=RunFinished(outcome=outcome)))

    def outcome(self, run_id: str) -> Outcome | None:
        for event in self.events:
            if event.run_id == run_id and event.WhichOneof("payload") == "run_finished":
                return event.run_finished.outcome
        return None

    @property
    def is_deleted(self) -> bool:
        return bool(self.events) and self.events[-1].WhichOneof("payload") == "session_deleted"

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so; every call, frame, event and delta is looked at."""
        async with asyncio.timeout(30):
            while not condition():
                await self.grown.wait()

    def wake(self) -> None:
        self.grown.set()
        self.grown = asyncio.Event()


class FakeServer(RunServiceServicer, SessionServiceServicer):
    """Serves a log. `before_item` is asked before each item of a stream; what it raises ends the stream."""

    def __init__(self, log: FakeLog) -> None:
        self.log = log
        self.calls: list[str] = []
        self.on_accept: Callable[[str], None] = lambda run_id: None
        self.before_item: Callable[[str, StreamItem], None] = lambda method, item: None
        self.on_frame: Callable[[ConverseRequest], StreamItem | None] = lambda frame: None
        self.refuse: Callable[[str], tuple[grpc.StatusCode, str] | None] = lambda method: None
        self._server: grpc.aio.Server | None = None
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_RunServiceServicer_to_server(self, self._server)
        add_SessionServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def GetSession(self, request: GetSessionRequest, context: Context) -> GetSessionResponse:
        await self._called("GetSession", context)
        return GetSessionResponse(session=Session(session_id=SESSION, last_seq=len(self.log.events)))

    async def ListApprovals(self, request: ListApprovalsRequest, context: Context) -> ListApprovalsResponse:
        await self._called("ListApprovals", context)
        return ListApprovalsResponse(approvals=self.log.approvals)

    async def GetRun(self, request: GetRunRequest, context: Context) -> GetRunResponse:
        await self._called("GetRun", context)
        return GetRunResponse(run=Run(run_id=request.run_id, outcome=self.log.outcome(request.run_id)))

    async def SubmitRun(self, request: SubmitRunRequest, context: Context) -> SubmitRunResponse:
        await self._called("SubmitRun", context)
        return SubmitRunResponse(receipt=self._accept(request.submission))

    async def CancelRuns(self, request: CancelRunsRequest, context: Context) -> CancelRunsResponse:
        await self._called("CancelRuns", context)
        return CancelRunsResponse(receipt=CancelReceipt())

    @loses
    async def Run(self, request: RunRequest, context: Context) -> AsyncIterator[RunResponse]:
        await self._called("Run", context)
        receipt = self._accept(request.submission)
        run_id = receipt.run_id
        yield RunResponse(items=[self._asked("Run", StreamItem(receipt=Receipt(run=receipt)))])
        runs = {run_id}
        async for item in self._tail("Run", receipt.accepted_seq - 1, [], runs):
            yield RunResponse(items=[item])
            if item.event.run_id == run_id and item.event.WhichOneof("payload") == "run_finished":
                if item.event.run_finished.outcome.status != OUTCOME_STATUS_FOLDED:
                    return
                run_id = item.event.run_finished.outcome.fold.into_run_id
                runs.add(run_id)

    @loses
    async def WatchSession(self, request: WatchSessionRequest, context: Context) -> AsyncIterator[WatchSessionResponse]:
        self.log.opened.append(request)
        await self._called("WatchSession", context)
        after = request.after_seq if request.HasField("after_seq") else len(self.log.events)
        runs = set(request.filter.run_ids)
        async for item in self._tail("WatchSession", after, list(request.positions), runs, request.is_history_only):
            yield WatchSessionResponse(items=[item])

    @loses
    async def WatchTenant(self, request: WatchTenantRequest, context: Context) -> AsyncIterator[WatchTenantResponse]:
        await self._called("WatchTenant", context)
        sent = 0
        while True:
            grown = self.log.grown
            for event in self.log.events[sent:]:
                self._asked("WatchTenant", StreamItem(event=event))
                notice = WatchTenantResponse()
                notice.run.run_id, notice.run.seq = event.run_id, event.seq
                yield notice
            sent = len(self.log.events)
            await grown.wait()

    @loses
    async def Converse(
        self, request_iterator: AsyncIterator[ConverseRequest], context: Context
    ) -> AsyncIterator[ConverseResponse]:
        await self._called("Converse", context)
        first = await anext(request_iterator)
        self.log.frames.append(first)
        session = Session(session_id=SESSION, model="scripted/echo")
        opened = Receipt(frame_id=first.frame_id, open=OpenReceipt(seq=len(self.log.events), session=session))
        after = first.open.after_seq if first.open.HasField("after_seq") else len(self.log.events)
        self.log.wake()
        out: asyncio.Queue[StreamItem | Exception | None] = asyncio.Queue()
        out.put_nowait(StreamItem(receipt=opened))
        own: set[str] = set()
        ended = asyncio.Event()
        tasks = [
            asyncio.create_task(self._frames(request_iterator, own, out, ended)),
            asyncio.create_task(self._queue_tail(after, list(first.open.positions), own, out, ended)),
        ]
        try:
            while (item := await out.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield ConverseResponse(items=[self._asked("Converse", item)])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _frames(
        self,
        frames: AsyncIterator[ConverseRequest],
        own: set[str],
        out: asyncio.Queue[StreamItem | Exception | None],
        ended: asyncio.Event,
    ) -> None:
        try:
            async for frame in frames:
                self.log.frames.append(frame)
                self.log.wake()
                answer = self.on_frame(frame)
                if answer is None and frame.WhichOneof("frame") == "submit":
                    own.add(frame.submit.run_id)
                    answer = StreamItem(receipt=Receipt(run=self._accept(frame.submit)))
                elif answer is None:
                    answer = StreamItem(receipt=Receipt(cancel=CancelReceipt()))
                if answer.WhichOneof("item") == "receipt":
                    answer.receipt.frame_id = frame.frame_id
                elif answer.WhichOneof("item") == "error":
                    answer.error.frame_id = frame.frame_id
                out.put_nowait(answer)
        except Lost as lost:
            out.put_nowait(lost)
        ended.set()
        self.log.wake()

    async def _queue_tail(
        self,
        after: int,
        positions: list[DeltaPosition],
        own: set[str],
        out: asyncio.Queue[StreamItem | Exception | None],
        ended: asyncio.Event,
    ) -> None:
        async for item in self._tail("", after, positions, set(), until=lambda: ended.is_set() and self._all_over(own)):
            out.put_nowait(item)
        out.put_nowait(None)

    def _all_over(self, own: set[str]) -> bool:
        return all(self.log.outcome(run_id) is not None for run_id in own)

    async def _tail(
        self,
        method: str,
        after: int,
        positions: list[DeltaPosition],
        runs: set[str],
        is_history_only: bool = False,
        until: Callable[[], bool] = lambda: False,
    ) -> AsyncIterator[StreamItem]:
        has = {(p.message_id, p.attempt, n): offset for p in positions for n, offset in enumerate(p.offsets)}
        sent: set[int] = set()
        while True:
            grown = self.log.grown
            for event in self.log.events[after:]:
                after = event.seq
                for more in self._new(has, sent, runs, before=event.seq):
                    yield self._asked(method, StreamItem(delta=more))
                if not runs or event.run_id in runs:
                    yield self._asked(method, StreamItem(event=event))
            for more in self._new(has, sent, runs, before=after + 1):
                yield self._asked(method, StreamItem(delta=more))
            if is_history_only or until() or self.log.is_deleted:
                return
            if grown is self.log.grown:
                await grown.wait()

    def _new(self, has: dict[tuple[str, int, int], int], sent: set[int], runs: set[str], before: int) -> list[Delta]:
        """Deltas that the reader has not: whole ones, so that a client that has half of one has to trim it."""
        new = []
        for more in self.log.deltas:
            have = has.get((more.message_id, more.attempt, more.part), 0)
            is_had = more.offset + len(more.text.encode()) <= have
            if more.seq < before and id(more) not in sent and not is_had and (not runs or more.run_id in runs):
                sent.add(id(more))
                new.append(more)
        return new

    def _accept(self, submission: Submission) -> RunReceipt:
        is_new = submission.run_id not in self.log.runs
        receipt = self.log.accept(submission)
        if is_new:
            self.on_accept(submission.run_id)
        return receipt

    def _asked(self, method: str, item: StreamItem) -> StreamItem:
        if method:
            self.before_item(method, item)
        return item

    async def _called(self, method: str, context: Context) -> None:
        self.calls.append(method)
        self.log.wake()
        refusal = self.refuse(method)
        if refusal is not None:
            await context.abort(*refusal)

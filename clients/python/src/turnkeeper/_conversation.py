"""A conversation: one session, both ways, over as many connections as it takes.

One task per conversation owns the call: it opens it, reads it, and opens it again where it was lost, saying what has
arrived. Frames that were not answered are sent again, in order. That is safe: a submission carries its run_id, a cancel
of a run names it, and a cancel of the whole session, or of its queue, lets no later frame go out before it is answered,
so that sending it again cannot reach what came after it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self, Unpack

import grpc
import grpc.aio

from turnkeeper._assembler import Item, MessageAssembler
from turnkeeper._connection import Connection, Retry
from turnkeeper._cursor import Cursor
from turnkeeper._errors import TurnkeeperError
from turnkeeper._ids import new_id
from turnkeeper._leases import LeasedCalls
from turnkeeper._options import choice, named_options
from turnkeeper._submission import CancelModeName, Prompt, SubmitOptions, cancel_request, submission
from turnkeeper._tools import AnyTool, by_name
from turnkeeper._worker import Closable
from turnkeeper.v1.event_pb2 import Event
from turnkeeper.v1.run_service_pb2 import (
    CANCEL_DISPOSITION_COVERED,
    CancelReceipt,
    ClearQueueFrame,
    ConverseRequest,
    ConverseResponse,
    FrameError,
    OpenFrame,
    Receipt,
    RunReceipt,
    StreamItem,
)
from turnkeeper.v1.session_service_pb2 import AnswerApprovalRequest, Approval, Session

# Items that wait for their reader. Reading the stream pauses behind it, unless a frame waits for its receipt.
MAX_BUFFERED = 1024
_OPEN_FRAME_ID = "open"


@dataclass
class _Pending:
    """A frame without its answer."""

    request: ConverseRequest
    answer: asyncio.Future[Receipt]
    is_barrier: bool = False
    is_sent: bool = False


@named_options
class Conversation:
    """A session, both ways. Use it as `async with client.converse(session_id) as conversation`.

    Read `items()` while you submit; one reader gets each item once.
    """

    def __init__(self, connection: Connection, frame: OpenFrame, live: set[Closable]) -> None:
        """Connect nothing yet; `async with` does, and adds itself to what its client closes."""
        self._connection = connection
        self._live = live
        self._frame = frame
        # A lost connection comes back under its name, to the calls that it was given.
        self._frame.client_name = frame.client_name or new_id()
        self._cursor = Cursor(frame.after_seq if frame.HasField("after_seq") else None)
        self._pending: dict[str, _Pending] = {}
        self._num_frames = 0
        self._buffer: deque[Item] = deque()
        self._own_runs: set[str] = set()
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._error: TurnkeeperError | None = None
        self._num_connections = 0
        self._is_finishing = self._is_half_closed = self._is_over = self._is_closed = self._is_deleted = False
        self._opened = asyncio.Event()
        self._to_write = asyncio.Event()
        self._calls = LeasedCalls(self._to_write.set)
        self._to_read = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def session_id(self) -> str:
        """The session."""
        return self._frame.session_id

    @property
    def session(self) -> Session:
        """The session as it was when the conversation was opened."""
        if self._session is None:
            raise RuntimeError("the conversation is not open: use `async with`")
        return self._session

    @property
    def last_seq(self) -> int | None:
        """The seq of the last event that arrived."""
        return self._cursor.after_seq

    @property
    def messages(self) -> MessageAssembler:
        """The session's open messages, as far as they have arrived."""
        return self._cursor.messages

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a conversation is opened once")
        self._live.add(self)
        self._task = asyncio.create_task(self._drive(), name=f"conversation {self.session_id}")
        try:
            await self._opened.wait()
            if self._error is not None:
                raise self._error
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def submit(self, prompt: Prompt, **options: Unpack[SubmitOptions]) -> RunReceipt:
        """Submit a prompt; return when it is durable, over however many connections.

        Raises:
            TurnkeeperError: The submission was refused; the conversation goes on.
        """
        request = submission(self.session_id, prompt, **options)
        self._own_runs.add(request.run_id)
        try:
            return (await self._send(ConverseRequest(submit=request))).run
        except TurnkeeperError as error:
            error.run_id = request.run_id
            raise

    async def steer(self, prompt: Prompt, **options: Unpack[SubmitOptions]) -> RunReceipt:
        """Submit a prompt that joins the run that is open, at its next step; its own run where there is none."""
        options["delivery"] = choice("delivery", options.get("delivery") or "steer", {"steer": "steer"})
        return await self.submit(prompt, **options)

    async def cancel(
        self,
        run_id: str | None = None,
        *,
        mode: CancelModeName = "abort",
        turn_id: str = "",
        rollback: bool = False,
        unwind: bool = False,
        wait: bool = False,
        hint: str = "",
    ) -> CancelReceipt:
        """Cancel a run, or all that the session has accepted so far; return when that is durable.

        With `wait` return when every run that it covers has its terminal. Frames sent meanwhile are not delayed.
        A `hint`, with mode `stop`, is told to the run's last step as the user's word.
        """
        session_id = self.session_id if run_id is None else None
        request = cancel_request(
            session_id=session_id,
            run_id=run_id,
            mode=mode,
            turn_id=turn_id,
            rollback=rollback,
            unwind=unwind,
            hint=hint,
        )
        if run_id is not None:
            request.wait = wait
            return (await self._send(ConverseRequest(cancel=request))).cancel
        receipt = (await self._send(ConverseRequest(cancel=request), is_barrier=True)).cancel
        if wait:
            await self._await_covered(receipt, mode)
        return receipt

    async def clear_queue(self) -> CancelReceipt:
        """Cancel all that the session has accepted so far but the open run."""
        request = ConverseRequest(clear_queue=ClearQueueFrame())
        return (await self._send(request, is_barrier=True)).cancel

    async def answer_approval(self, approval_id: str, *, allow: bool, comment: str = "") -> Approval:
        """Answer an approval of the session."""
        answer = AnswerApprovalRequest(
            session_id=self.session_id, approval_id=approval_id, is_allowed=allow, comment=comment
        )
        return (await self._send(ConverseRequest(answer_approval=answer))).approval.approval

    async def offer_tools(self, *tools: AnyTool) -> list[str]:
        """Offer functions to run here to the session, in place of those offered before; return their names."""
        before, self._calls.tools = self._calls.tools, by_name(tools)
        try:
            return list((await self._send(ConverseRequest(offer_tools=self._calls.offer()))).tools.names)
        except TurnkeeperError:
            self._calls.tools = before
            raise

    async def items(self) -> AsyncIterator[Item]:
        """The session's items, each once, until the conversation ends."""
        while True:
            while self._buffer:
                item = self._buffer.popleft()
                self._room.set()
                yield item
            if self._is_over:
                if self._error is not None and not self._is_closed:
                    raise self._error
                return
            self._to_read.clear()
            await self._to_read.wait()

    def finish(self) -> None:
        """Say that nothing more will be sent: `items()` ends when all runs submitted here have their terminals."""
        self._is_finishing = True
        self._to_write.set()

    async def close(self) -> None:
        """Leave at once; the runs go on. Again does nothing."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._live.discard(self)

    async def _await_covered(self, receipt: CancelReceipt, mode: CancelModeName) -> None:
        """Wait run by run: a wait for the whole session would hold back the frames behind it."""
        covered = [run for run in receipt.runs if run.disposition == CANCEL_DISPOSITION_COVERED]
        requests = [cancel_request(run_id=run.run_id, mode=mode, wait=True) for run in covered]
        answers = await asyncio.gather(*(self._send(ConverseRequest(cancel=request)) for request in requests))
        for run, answer in zip(covered, answers, strict=True):
            for found in answer.cancel.runs:
                if found.run_id == run.run_id:
                    run.outcome.CopyFrom(found.outcome)

    async def _send(self, request: ConverseRequest, *, is_barrier: bool = False) -> Receipt:
        """Send a frame until it is answered."""
        if self._is_over or self._is_closed or self._is_finishing or self._task is None:
            raise self._error or TurnkeeperError.closed()
        self._num_frames += 1
        request.frame_id = f"f{self._num_frames}"
        pending = _Pending(request, asyncio.get_running_loop().create_future(), is_barrier)
        self._pending[request.frame_id] = pending
        self._to_write.set()
        self._room.set()
        return await pending.answer

    async def _drive(self) -> None:
        """Keep the conversation connected until it is over. The one task; `close` awaits it."""
        retry = Retry(self._connection)
        try:
            while not self._is_over:
                try:
                    await self._connected(retry)
                except TurnkeeperError as error:
                    await retry.wait(error)
        except TurnkeeperError as error:
            self._error = error
        except Exception as fault:
            self._error = TurnkeeperError(grpc.StatusCode.UNKNOWN, f"a fault of this client: {fault!r}")
            self._error.__cause__ = fault
        finally:
            self._is_over = True
            await self._calls.close()
            lost = self._error or TurnkeeperError.closed()
            for pending in self._pending.values():
                if not pending.answer.done():
                    pending.answer.set_exception(lost)
            self._pending.clear()
            self._opened.set()
            self._to_read.set()

    async def _connected(self, retry: Retry) -> None:
        """Live through one connection."""
        self._num_connections += 1
        self._is_half_closed = False
        self._calls.results.clear()
        for pending in self._pending.values():
            pending.is_sent = False
        call = self._connection.runs.Converse(metadata=self._connection.metadata)
        writer = asyncio.create_task(self._write(call), name=f"writer of conversation {self.session_id}")
        try:
            while (response := await self._connection.read(call, ConverseResponse)) is not None:
                retry.connected()
                for item in response.items:
                    self._take(item)
                await self._wait_for_room()
        finally:
            call.cancel()
            writer.cancel()
            await asyncio.wait([writer])
        if not (self._is_half_closed or self._is_deleted):
            raise TurnkeeperError(grpc.StatusCode.UNAVAILABLE, "the server ended the conversation")
        self._is_over = True

    async def _write(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        """Write the frames of one connection. What breaks here is seen, with its status, by the reader."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            await call.write(ConverseRequest(frame_id=_OPEN_FRAME_ID, open=self._open_frame()))
            if self._calls.tools and self._num_connections > 1:
                await call.write(ConverseRequest(offer_tools=self._calls.offer()))
            while True:
                self._to_write.clear()
                while self._calls.results:
                    await call.write(ConverseRequest(tool_result=self._calls.results.popleft()))
                while (pending := self._next_unsent()) is not None:
                    pending.is_sent = True
                    await call.write(pending.request)
                if self._may_half_close():
                    self._is_half_closed = True
                    await call.done_writing()
                    return
                await self._to_write.wait()

    def _open_frame(self) -> OpenFrame:
        frame = OpenFrame()
        frame.CopyFrom(self._frame)
        if self._cursor.after_seq is not None:
            frame.after_seq = self._cursor.after_seq
        frame.positions.extend(self._cursor.messages.positions())
        return frame

    def _next_unsent(self) -> _Pending | None:
        for pending in self._pending.values():
            if not pending.is_sent:
                return pending
            if pending.is_barrier:
                return None
        return None

    def _may_half_close(self) -> bool:
        """Only the connection that runs were submitted on waits for them, and not where they may call tools here."""
        is_waiting = self._own_runs and (self._num_connections > 1 or self._calls.tools)
        return self._is_finishing and not self._pending and not is_waiting

    async def _wait_for_room(self) -> None:
        while len(self._buffer) >= MAX_BUFFERED and not self._pending:
            self._room.clear()
            await self._room.wait()

    def _take(self, item: StreamItem) -> None:
        match item.WhichOneof("item"):
            case "receipt":
                self._answered(item.receipt)
            case "error":
                self._refused(item.error)
            case "tool_invocation":
                self._calls.invoke(item.tool_invocation)
            case "tool_invocation_cancelled":
                self._calls.take_back(item.tool_invocation_cancelled)
            case _:
                for new in self._cursor.take(item):
                    self._note(new)
                    self._buffer.append(new)
                    self._to_read.set()

    def _note(self, item: Item) -> None:
        match item.WhichOneof("payload") if isinstance(item, Event) else None:
            case "run_finished":
                assert isinstance(item, Event)
                self._own_runs.discard(item.run_id)
                self._to_write.set()
            case "session_deleted":
                self._is_deleted = True

    def _answered(self, receipt: Receipt) -> None:
        if receipt.WhichOneof("result") == "open":
            if self._session is None:
                self._session = receipt.open.session
            if self._cursor.after_seq is None:
                self._cursor.after_seq = receipt.open.seq
            self._opened.set()
            return
        if receipt.WhichOneof("result") == "run" and receipt.run.HasField("outcome"):
            self._own_runs.discard(receipt.run.run_id)
        pending = self._resolve(receipt.frame_id)
        if pending is not None and not pending.answer.done():
            pending.answer.set_result(receipt)

    def _refused(self, refusal: FrameError) -> None:
        error = TurnkeeperError.from_frame(refusal)
        if error.is_resumable or refusal.frame_id == _OPEN_FRAME_ID:
            # The frame stays pending, for the next connection; a refused opening ends this one too.
            raise error
        pending = self._resolve(refusal.frame_id)
        if pending is not None and pending.request.WhichOneof("frame") == "submit":
            self._own_runs.discard(pending.request.submit.run_id)
        if pending is not None and not pending.answer.done():
            pending.answer.set_exception(error)

    def _resolve(self, frame_id: str) -> _Pending | None:
        self._to_write.set()
        return self._pending.pop(frame_id, None)

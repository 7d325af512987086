"""Converse: one session both ways, for as long as the client likes.

Two tasks of one group: one takes frames, one writes what is new. A bad frame is answered and the stream goes on; frames
are carried out in the order they came, so accept order is frame order; only a cancel that waits is set aside.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from turnkeeper.v1 import run_service_pb2 as pb
from turnkeeper.v1 import session_service_pb2, tool_service_pb2
from turnkeeper_service.errors import Reason, Refused, invalid, refusal_of
from turnkeeper_service.events.log import LogEntry
from turnkeeper_service.events.reader import Reader, ReadFilter
from turnkeeper_service.ids import short_id
from turnkeeper_service.runs.runs import Runs
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.runs.session.session import Session
from turnkeeper_service.store.errors import StoreError
from turnkeeper_service.tools.remote.leases import Holder

from .call import Call, Malformed
from .requests import RUN_FINISHED, check_cancel, folding, read_filter
from .sessions import check_answer
from .status import frame_error
from .streams import Streams, positions_of, start_of, until_cancelled
from .tools import ClientLink, check_offer, grace_of, take_answer
from .validate import Findings, Validator, require_id

Frames = AsyncIterator["pb.ConverseRequest | Malformed"]
MAX_FRAME_ID = 128


class Conversation:
    """One Converse stream."""

    def __init__(self, runs: Runs, validator: Validator, streams: Streams, call: Call) -> None:
        self._runs = runs
        self._validator = validator
        self._streams = streams
        self._call = call
        self._submitted: dict[str, Run] = {}
        self._follow: Callable[[LogEntry], bool] = folding(None)
        self._is_half_closed = False
        self._waits: set[asyncio.Task[None]] = set()
        self._client_name = ""
        self._holder: Holder | None = None
        self._link: ClientLink | None = None

    async def serve(self, frames: Frames) -> None:
        """Serve the stream to its end. Raises Refused where it cannot even be opened."""
        first = await anext(aiter(frames), None)
        if isinstance(first, Malformed):
            raise first.refused
        if first is None or first.WhichOneof("frame") != "open":
            raise Refused(Reason.ERROR_REASON_FIRST_FRAME_NOT_OPEN, "the first frame has to open the stream")
        opening = first.open
        self._client_name = opening.client_name or short_id("client")
        found = Findings()
        session_id = found.attempt(lambda: require_id("open.session_id", opening.session_id), "")
        if opening.after_seq < 0:
            found.add("open.after_seq", "is negative")
        filter_ = found.attempt(lambda: read_filter(opening.filter, "open."), ReadFilter())
        if opening.HasField("create_with"):
            self._validator.settings(opening.create_with, "open.create_with.", found)
        found.refuse()
        self._follow = folding(filter_.run_ids)
        await self._create(session_id, opening)
        async with self._runs.table.pin(self._call.tenant, session_id) as session:
            try:
                with self._runs.disconnects.watching(session, self._call.actor):
                    await self._attend(first, frames, session, filter_)
            except BaseException:
                for run in self._submitted.values():
                    self._runs.disconnects.lost(run)
                raise

    async def _attend(self, first: pb.ConverseRequest, frames: Frames, session: Session, filter_: ReadFilter) -> None:
        """Take frames and write what is new."""
        opening = first.open
        after = start_of(session, opening.after_seq if opening.HasField("after_seq") else None)
        view = await self._runs.get_session(self._call.tenant, session.session_id)
        reader = self._runs.reader(
            session, after, positions=positions_of(list(opening.positions)), filter_=filter_, on_entry=self._seen
        )
        receipt = pb.Receipt(frame_id=first.frame_id, open=pb.OpenReceipt(session=view, seq=after))
        await reader.inject(pb.StreamItem(receipt=receipt).SerializeToString())
        taking = asyncio.get_running_loop().create_task(self._take(frames, session, reader), name="converse frames")

        def taken(done: asyncio.Task[None]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                reader.abort(error)

        taking.add_done_callback(taken)
        try:
            await self._streams.pump(reader, self._call)
        finally:
            self._withdraw()
            await until_cancelled(taking, *self._waits)

    async def _create(self, session_id: str, opening: pb.OpenFrame) -> None:
        """Make the session where the client wants it made and it is not there."""
        if not opening.HasField("create_with"):
            return
        try:
            await self._runs.create_session(self._call.tenant, session_id, opening.create_with)
        except Refused as refused:
            if refused.reason != Reason.ERROR_REASON_SESSION_EXISTS:
                raise

    def _seen(self, entry: LogEntry) -> bool:
        """Every event of the stream: the last terminal of a half-closed stream ends it."""
        self._follow(entry)
        if entry.kind == RUN_FINISHED:
            self._submitted.pop(entry.run_id, None)
            return self._is_half_closed and not self._submitted and not self._waits
        return False

    async def _take(self, frames: Frames, session: Session, reader: Reader) -> None:
        async for frame in frames:
            if isinstance(frame, Malformed):
                await self._refuse(reader, "", frame.refused)
                continue
            try:
                await self._carry_out(frame, session, reader)
            except Refused as refused:
                await self._refuse(reader, frame.frame_id[:MAX_FRAME_ID], refused)
            except StoreError as error:
                # If it has failed for good, the log ends, and the stream with it.
                await self._refuse(reader, frame.frame_id[:MAX_FRAME_ID], refusal_of(error))
        self._is_half_closed = True
        self._withdraw()
        self._end_if_done(reader)

    def _withdraw(self) -> None:
        """This stream brings no more results. Idempotent."""
        if self._holder is not None and self._link is not None:
            self._runs.remote.disconnect(self._holder, self._link)

    def _end_if_done(self, reader: Reader) -> None:
        if self._is_half_closed and not self._submitted and not self._waits:
            reader.finish()

    @staticmethod
    async def _refuse(reader: Reader, frame_id: str, refused: Refused) -> None:
        await reader.inject(pb.StreamItem(error=frame_error(frame_id, refused)).SerializeToString())

    async def _carry_out(self, frame: pb.ConverseRequest, session: Session, reader: Reader) -> None:
        if len(frame.frame_id) > MAX_FRAME_ID:
            raise invalid("frame_id", f"is longer than {MAX_FRAME_ID} characters")
        receipt = pb.Receipt(frame_id=frame.frame_id)
        match frame.WhichOneof("frame"):
            case "submit":
                await self._submit(frame, session, reader)
                return
            case "cancel":
                self._check_scope(frame.cancel, session)
                if frame.cancel.wait:
                    self._wait(frame, reader)
                    return
                receipt.cancel.CopyFrom(await self._runs.cancel(self._call.tenant, self._call.actor, frame.cancel))
            case "clear_queue":
                cleared = await self._runs.clear_queue(self._call.tenant, self._call.actor, session.session_id)
                receipt.cancel.CopyFrom(cleared)
            case "open":
                if frame.open.session_id != session.session_id:
                    raise _mismatch("open.session_id", session)
                raise invalid("open", "the stream is open already")
            case "offer_tools":
                receipt.tools.names.extend(self._offer(frame.offer_tools, session, reader))
            case "tool_result":
                if self._holder is None:
                    raise invalid("tool_result", "this stream offers no tools")
                is_late, call_id = take_answer(self._runs, self._holder, frame.tool_result)
                receipt.tool_result.tool_call_id, receipt.tool_result.is_late = call_id, is_late
            case "answer_approval":
                receipt.approval.approval.CopyFrom(await self._answer(frame.answer_approval, session))
            case _:
                raise Refused(Reason.ERROR_REASON_UNKNOWN_FRAME, "the frame holds nothing that this server knows")
        await reader.inject(pb.StreamItem(receipt=receipt).SerializeToString())

    def _offer(self, offer: tool_service_pb2.OfferTools, session: Session, reader: Reader) -> list[str]:
        """Offer the tools of this client to its session."""
        tools = check_offer(offer, "offer_tools.")
        remote = self._runs.remote
        if self._holder is None:
            self._link = ClientLink(reader)
            self._holder = remote.connect(
                self._call.tenant,
                self._client_name,
                session.session_id,
                self._link,
                tools,
                grace=grace_of(offer),
            )
        else:
            remote.offer(self._holder, tools, grace_of(offer))
        return [tool.name for tool in tools]

    async def _answer(
        self, answer: session_service_pb2.AnswerApprovalRequest, session: Session
    ) -> session_service_pb2.Approval:
        if answer.session_id not in ("", session.session_id):
            raise _mismatch("answer_approval.session_id", session)
        answer.session_id = session.session_id
        check_answer(answer, "answer_approval.")
        return await self._runs.approvals.answer(self._call.tenant, self._call.actor, answer)

    async def _submit(self, frame: pb.ConverseRequest, session: Session, reader: Reader) -> None:
        """Accept a prompt; its receipt comes before anything that its model says."""
        submission = frame.submit
        if submission.session_id not in ("", session.session_id):
            raise _mismatch("submit.session_id", session)
        submission.session_id = session.session_id
        self._validator.submission(submission, "submit.")
        await reader.room()
        is_told = False

        def tell(run: Run | None, accepted: pb.RunReceipt) -> None:
            nonlocal is_told
            is_told = True
            if run is not None and not run.finished.done():
                self._submitted[run.run_id] = run
            receipt = pb.Receipt(frame_id=frame.frame_id, run=accepted)
            reader.put(pb.StreamItem(receipt=receipt).SerializeToString())

        accepted, run = await self._runs.submit(self._call.tenant, self._call.actor, submission, on_accepted=tell)
        if not is_told:
            tell(run, accepted)

    @staticmethod
    def _check_scope(cancel: pb.CancelRunsRequest, session: Session) -> None:
        """A stream is one session: so are its cancels."""
        check_cancel(cancel, "cancel.")
        scope = cancel.scope
        match scope.WhichOneof("scope"):
            case "session_id" if scope.session_id != session.session_id:
                raise _mismatch("cancel.scope.session_id", session)
            case "up_to" if scope.up_to.session_id != session.session_id:
                raise _mismatch("cancel.scope.up_to.session_id", session)
            case "tenant":
                raise invalid("cancel.scope.tenant", "is not a scope of one session")
            case "run_id":
                if cancel.session_id not in ("", session.session_id):
                    raise _mismatch("cancel.session_id", session)
                cancel.session_id = session.session_id

    def _wait(self, frame: pb.ConverseRequest, reader: Reader) -> None:
        """Carry out a cancel that waits, beside the frames that follow."""
        task = asyncio.get_running_loop().create_task(self._cancel(frame, reader), name="converse cancel")
        self._waits.add(task)

        def ended(_: asyncio.Task[None]) -> None:
            self._waits.discard(task)
            self._end_if_done(reader)

        task.add_done_callback(ended)

    async def _cancel(self, frame: pb.ConverseRequest, reader: Reader) -> None:
        try:
            done = await self._runs.cancel(self._call.tenant, self._call.actor, frame.cancel)
        except Refused as refused:
            await self._refuse(reader, frame.frame_id, refused)
            return
        receipt = pb.Receipt(frame_id=frame.frame_id, cancel=done)
        await reader.inject(pb.StreamItem(receipt=receipt).SerializeToString())


def _mismatch(path: str, session: Session) -> Refused:
    return invalid(path, f"this stream is session {session.session_id!r}", reason=Reason.ERROR_REASON_SESSION_MISMATCH)

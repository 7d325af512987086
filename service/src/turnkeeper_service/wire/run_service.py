"""RunService: maps messages; the logic is in `runs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from turnkeeper.v1 import run_service_pb2 as pb
from turnkeeper_service.errors import Refused
from turnkeeper_service.events.reader import ReadFilter, length_delimited
from turnkeeper_service.principal import Role
from turnkeeper_service.process.clock import Clock
from turnkeeper_service.runs.runs import Runs
from turnkeeper_service.runs.session.run import Run

from .call import Call
from .converse import Conversation
from .pages import number, page_size, to_token
from .requests import check_cancel, folding, read_filter
from .run_stream import RunStream
from .streams import ITEM, Streams, positions_of, start_of
from .validate import Findings, Validator, check_id, require_id

ROLES: Mapping[str, Role] = {
    "SubmitRun": "user",
    "Run": "user",
    "GetRun": "read",
    "ListRuns": "read",
    "CancelRuns": "user",
    "ClearQueue": "user",
    "SpawnTurn": "user",
    "WatchSession": "read",
    "WatchTenant": "read",
    "Converse": "user",
}


class RunServicer:
    """Runs of the caller's tenant."""

    def __init__(self, runs: Runs, validator: Validator, streams: Streams, clock: Clock) -> None:
        self._runs = runs
        self._validator = validator
        self._streams = streams
        self._clock = clock

    def methods(self) -> Mapping[str, Callable[..., Any]]:
        """The methods that are implemented."""
        return {
            "SubmitRun": self.submit,
            "Run": self.run,
            "GetRun": self.get,
            "ListRuns": self.list,
            "CancelRuns": self.cancel,
            "ClearQueue": self.clear_queue,
            "WatchSession": self.watch_session,
            "WatchTenant": self.watch_tenant,
            "Converse": self.converse,
        }

    async def submit(self, request: pb.SubmitRunRequest, call: Call) -> pb.SubmitRunResponse:
        """SubmitRun."""
        self._validator.submission(request.submission)
        receipt, _ = await self._runs.submit(call.tenant, call.actor, request.submission)
        return pb.SubmitRunResponse(receipt=receipt)

    async def run(self, request: pb.RunRequest, call: Call) -> None:
        """Run."""
        self._validator.submission(request.submission)
        is_followed = request.follow_fold if request.HasField("follow_fold") else True
        stream = RunStream(self._runs, call, is_followed=is_followed)
        run: Run | None = None
        is_sent = False
        try:
            receipt, run = await self._runs.submit(
                call.tenant, call.actor, request.submission, on_accepted=stream.begin
            )
            try:
                await stream.serve(self._streams, receipt)
            except Refused as refused:
                # The run is over and its session deleted: the receipt has said all there is.
                if not receipt.HasField("outcome") or code_is_other(refused):
                    raise
                item = pb.StreamItem(receipt=pb.Receipt(run=receipt)).SerializeToString()
                await call.write(length_delimited(ITEM, item))
            is_sent = True
        finally:
            stream.close()
            if run is not None and not is_sent:
                self._runs.disconnects.lost(run)

    async def get(self, request: pb.GetRunRequest, call: Call) -> pb.GetRunResponse:
        """GetRun."""
        return pb.GetRunResponse(run=await self._runs.get_run(call.tenant, require_id("run_id", request.run_id)))

    async def list(self, request: pb.ListRunsRequest, call: Call) -> pb.ListRunsResponse:
        """ListRuns."""
        session_id = request.session_id
        query = ("runs", call.tenant, session_id, str(request.is_open_only))
        found = Findings()
        check_id(found, "session_id", session_id)
        after = found.attempt(lambda: number(request.page_token, *query), 0)
        limit = found.attempt(lambda: page_size(request.page_size), 0)
        found.refuse()
        runs, has_more = await self._runs.list_runs(
            call.tenant, session_id, after, limit, open_only=request.is_open_only
        )
        response = pb.ListRunsResponse(runs=runs)
        if has_more:
            response.next_page_token = to_token(str(runs[-1].accept_sequence), *query)
        return response

    async def cancel(self, request: pb.CancelRunsRequest, call: Call) -> pb.CancelRunsResponse:
        """CancelRuns."""
        check_cancel(request)
        return pb.CancelRunsResponse(receipt=await self._runs.cancel(call.tenant, call.actor, request))

    async def clear_queue(self, request: pb.ClearQueueRequest, call: Call) -> pb.ClearQueueResponse:
        """ClearQueue."""
        session_id = require_id("session_id", request.session_id)
        return pb.ClearQueueResponse(receipt=await self._runs.clear_queue(call.tenant, call.actor, session_id))

    async def watch_session(self, request: pb.WatchSessionRequest, call: Call) -> None:
        """WatchSession."""
        session_id = request.session_id
        found = Findings()
        check_id(found, "session_id", session_id)
        if request.after_seq < 0:
            found.add("after_seq", "is negative")
        wanted = found.attempt(lambda: read_filter(request.filter), ReadFilter())
        found.refuse()
        async with self._runs.table.pin(call.tenant, session_id) as session:
            after = start_of(session, request.after_seq if request.HasField("after_seq") else None)
            until = session.log.published_seq if request.is_history_only else None
            # Who only reads what was is not there for what comes.
            is_there = self._runs.disconnects.watching(session, call.actor) if until is None else nullcontext()
            with is_there:
                await call.begin()
                reader = self._runs.reader(
                    session,
                    after,
                    positions=positions_of(list(request.positions)),
                    filter_=wanted,
                    until=until,
                    on_entry=folding(wanted.run_ids),
                )
                await self._streams.pump(reader, call)

    async def watch_tenant(self, request: pb.WatchTenantRequest, call: Call) -> None:
        """WatchTenant."""
        reader = self._runs.feed.attach(call.tenant)
        tracked = self._streams.enter(reader)
        try:
            await call.begin()
            if request.with_current:
                for session in self._runs.table:
                    if session.tenant == call.tenant and session.runs:
                        notice = pb.WatchTenantResponse()
                        notice.time.FromNanoseconds(int(self._clock.time() * 1e9))
                        notice.session.session_id = session.session_id
                        notice.session.title = session.settings.title
                        notice.session.seq = session.log.published_seq
                        await call.write(notice)
            while True:
                for notice in await reader.next():
                    await call.write(notice)
                self._streams.sent(tracked)
        finally:
            self._streams.leave(tracked)
            reader.close()

    async def converse(self, frames: Any, call: Call) -> None:
        """Converse."""
        await Conversation(self._runs, self._validator, self._streams, call).serve(frames)


def code_is_other(refused: Refused) -> bool:
    """Whether a refusal is anything but a session that is gone."""
    return not 20 <= refused.reason < 30

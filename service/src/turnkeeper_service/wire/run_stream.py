"""The stream of a call of Run: the receipt of a run, then its events and deltas up to its terminal."""

from __future__ import annotations

from turnkeeper.v1 import event_pb2
from turnkeeper.v1 import run_service_pb2 as pb
from turnkeeper_service.events.log import LogEntry
from turnkeeper_service.events.reader import Reader, ReadFilter
from turnkeeper_service.runs.runs import Runs
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.runs.session.session import Session

from .call import Call
from .requests import RUN_FINISHED
from .streams import Streams


class RunStream:
    """Follows one run, and with ``is_followed`` the run that it is folded into."""

    def __init__(self, runs: Runs, call: Call, *, is_followed: bool) -> None:
        self._runs = runs
        self._call = call
        self._is_followed = is_followed
        self._run_ids: set[str] = set()
        self._session: Session | None = None
        self._reader: Reader | None = None
        self._is_closed = False

    def begin(self, run: Run, receipt: pb.RunReceipt) -> None:
        """Read from now on, when nothing of the run has been shown: so all that its model says comes as deltas."""
        if not self._is_closed:
            self._session = run.session
            self._session.pin()
            self._reader = self._open(run.session, receipt)

    async def serve(self, streams: Streams, receipt: pb.RunReceipt) -> None:
        """Write it all. Raises Refused where the session is gone, or ends under it."""
        async with self._runs.table.pin(self._call.tenant, receipt.session_id) as session:
            reader = self._reader = self._reader or self._open(session, receipt)
            with self._runs.disconnects.watching(session, self._call.actor):
                await streams.pump(reader, self._call)

    def close(self) -> None:
        """Read no more. Idempotent."""
        self._is_closed = True
        if self._reader is not None:
            self._reader.close()
        if self._session is not None:
            self._session.unpin()
            self._session = None

    def _open(self, session: Session, receipt: pb.RunReceipt) -> Reader:
        self._run_ids.add(receipt.run_id)
        reader = self._runs.reader(
            session,
            max(0, receipt.accepted_seq - 1),
            filter_=ReadFilter(run_ids=self._run_ids, without_session_events=True),
            on_entry=self._ends,
        )
        reader.put(pb.StreamItem(receipt=pb.Receipt(run=receipt)).SerializeToString())
        return reader

    def _ends(self, entry: LogEntry) -> bool:
        if entry.kind != RUN_FINISHED or entry.run_id not in self._run_ids:
            return False
        outcome = event_pb2.Event.FromString(entry.payload).run_finished.outcome
        if self._is_followed and outcome.status == event_pb2.OUTCOME_STATUS_FOLDED:
            self._run_ids.add(outcome.fold.into_run_id)
            return False
        return True

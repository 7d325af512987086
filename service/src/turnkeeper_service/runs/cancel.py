"""Cancelling (U-11): the core decides what is covered, the cancel is made durable, then it acts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from turnkeeper.v1 import event_pb2, run_service_pb2
from turnkeeper_service.clock import microseconds
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.errors import Reason, Refused, run_not_found, store_unavailable
from turnkeeper_service.store.answers import Laid
from turnkeeper_service.store.base import StoreError, TombstoneRow
from turnkeeper_service.store.reading import reading

from .durable import durable
from .line import Line
from .run import Run
from .scheduler import Cancel, CancelResult, Covered
from .session import Session
from .table import SessionTable

COVERED = run_service_pb2.CANCEL_DISPOSITION_COVERED
ALREADY_FINISHED = run_service_pb2.CANCEL_DISPOSITION_ALREADY_FINISHED
TOMBSTONED = run_service_pb2.CANCEL_DISPOSITION_TOMBSTONED
TOMBSTONE_SECONDS = 86_400.0


def reason_name(reason: event_pb2.OutcomeReason.ValueType) -> str:
    """The reason without its prefix."""
    return event_pb2.OutcomeReason.Name(reason).removeprefix("OUTCOME_REASON_")


def cancel_of(request: event_pb2.RunCancelRequested) -> Cancel:
    """A cancel request as the core takes it."""
    return Cancel(
        reason_name(request.reason),
        actor=request.actor,
        mode="stop" if request.mode == event_pb2.CANCEL_MODE_STOP else "abort",
        superseded_by=request.superseded_by_run_id or None,
    )


def _request_of(cancel: Cancel, template: event_pb2.RunCancelRequested | None) -> event_pb2.RunCancelRequested:
    request = event_pb2.RunCancelRequested(
        reason=event_pb2.OutcomeReason.Value(f"OUTCOME_REASON_{cancel.reason}"),
        actor=cancel.actor,
        mode=event_pb2.CANCEL_MODE_STOP if cancel.mode == "stop" else event_pb2.CANCEL_MODE_ABORT,
        superseded_by_run_id=cancel.superseded_by or "",
    )
    if template is not None:
        request.is_rollback, request.is_unwind = template.is_rollback, template.is_unwind
        request.turn_id, request.hint = template.turn_id, template.hint
    return request


class Canceller:
    """Cancels runs, seen and not yet seen."""

    def __init__(self, line: Line, table: SessionTable) -> None:
        self._line = line
        self._table = table

    async def cancel_session(
        self,
        tenant: str,
        session_id: str,
        request: event_pb2.RunCancelRequested,
        *,
        up_to: int | None = None,
        spare_open: bool = False,
        wait: bool = False,
    ) -> run_service_pb2.CancelReceipt:
        """Cancel what a session accepted so far. Raises Refused SESSION_NOT_FOUND."""
        async with self._table.pin(tenant, session_id) as session:
            found = self._line.core.cancel_session(
                session.key, cancel_of(request), up_to=up_to, spare_open=spare_open, spare_bootstrap=spare_open
            )
            return await self._carry_out(tenant, found, request, wait=wait)

    async def cancel_tenant(
        self, tenant: str, request: event_pb2.RunCancelRequested, *, wait: bool = False
    ) -> run_service_pb2.CancelReceipt:
        """Cancel what all sessions of a tenant accepted so far."""
        found = self._line.core.cancel_tenant(tenant, cancel_of(request))
        return await self._carry_out(tenant, found, request, wait=wait)

    async def cancel_run(
        self,
        tenant: str,
        run_id: str,
        request: event_pb2.RunCancelRequested,
        *,
        session_id: str = "",
        wait: bool = False,
    ) -> run_service_pb2.CancelReceipt:
        """Cancel one run; one that is not known yet will be cancelled when it comes. Raises Refused."""
        while (run := self._line.runs.get((tenant, run_id))) is None:
            row = await self._line.store.get_run(tenant, run_id)
            if row is not None and row.outcome is not None:
                if session_id not in ("", row.session_id):
                    raise run_not_found(run_id)
                with reading(f"run {run_id}"):
                    return _receipt(run_id, ALREADY_FINISHED, event_pb2.Outcome.FromString(row.outcome))
            if await self._lay_tombstone(tenant, run_id, session_id, request):
                return _receipt(run_id, TOMBSTONED)
            # It was accepted meanwhile, and may be over by now.
        if session_id not in ("", run.session.session_id):
            raise run_not_found(run_id)
        if request.turn_id and (run.turn is None or run.turn.plan.turn_id != request.turn_id):
            raise Refused(
                Reason.ERROR_REASON_TURN_NOT_FOUND,
                f"run {run_id!r} has no turn {request.turn_id!r}",
                resource=("turnkeeper.dev/Turn", request.turn_id),
            )
        found = self._line.core.cancel_run(run.session.key, run_id, cancel_of(request))
        if not found.covered and not found.concluded:
            # Its terminal is written and on its way to the disk.
            outcome = await durable(run.finished, self._line.store)
            return _receipt(run_id, ALREADY_FINISHED, outcome)
        return await self._carry_out(tenant, found, request, wait=wait)

    def cover_in(
        self, draft: Draft, covered: Sequence[Covered], template: event_pb2.RunCancelRequested | None = None
    ) -> Callable[[], None]:
        """Write the cancels of runs of the draft's session into it; the result acts, once it is durable."""
        acts: list[tuple[Run, Covered]] = []
        for one in covered:
            run = self._line.runs[(one.run.tenant, one.run.run_id)]
            request = _request_of(one.cancel, template)
            is_stronger = run.cancel is not None and (run.cancel.mode, request.mode) == (
                event_pb2.CANCEL_MODE_STOP,
                event_pb2.CANCEL_MODE_ABORT,
            )
            if run.cancel is None or is_stronger:
                run.cancel = request
                self.write_cancel(run, request, draft)
                acts.append((run, one))
        return lambda: self._act(acts)

    @staticmethod
    def write_cancel(run: Run, request: event_pb2.RunCancelRequested, draft: Draft) -> None:
        """Write a run's cancel into a draft."""
        draft.commit.cancel_runs.append((run.run_id, request.SerializeToString()))
        event = event_pb2.Event(run_id=run.run_id)
        event.run_cancel_requested.CopyFrom(request)
        draft.event(event)

    def _act(self, acts: Sequence[tuple[Run, Covered]]) -> None:
        for run, one in acts:
            self._line.note_cancel(run)
            if one.was in ("queued", "waiting"):
                self._line.close_cancelled(run)
            elif one.was != "reserved" and one.cancel.mode == "abort":
                run.stop_timer("stop")
                self._line.abort(run)
            elif one.was != "reserved":
                self.arm_stop(run)

    def arm_stop(self, run: Run) -> None:
        """A stop that takes too long becomes an abort (U-11)."""
        grace = self._line.options.stop_grace
        self._line.arm(run, "stop", grace, lambda: self._escalate(run))

    def _escalate(self, run: Run) -> None:
        if run.cancel is None or self._line.is_cut:
            return
        request = event_pb2.RunCancelRequested()
        request.CopyFrom(run.cancel)
        request.mode = event_pb2.CANCEL_MODE_ABORT
        found = self._line.core.cancel_run(run.session.key, run.run_id, cancel_of(request))
        self.submit(found, request)

    def submit(self, found: CancelResult, template: event_pb2.RunCancelRequested | None) -> list[asyncio.Future[None]]:
        """Make what was covered durable, a commit per session."""
        by_session: dict[tuple[str, str], list[Covered]] = {}
        for one in found.covered:
            by_session.setdefault((one.run.tenant, one.run.session_id), []).append(one)
        futures: dict[asyncio.Future[None], None] = {}
        for covered in by_session.values():
            runs = [self._line.runs[(one.run.tenant, one.run.run_id)] for one in covered]
            session: Session = runs[0].session
            draft = session.draft()
            act = self.cover_in(draft, covered, template)
            if draft.events:
                draft.on_durable.append(act)
                future = session.submit(draft)
                futures[future] = None
                for run in runs:
                    # Commits are durable in order: what waits for this one has waited for a weaker one before it.
                    run.cancel_durable = future
            for run in runs:
                if run.cancel_durable is not None:
                    futures[run.cancel_durable] = None
        self._line.begin(found.starts)
        return list(futures)

    async def _carry_out(
        self, tenant: str, found: CancelResult, template: event_pb2.RunCancelRequested, *, wait: bool
    ) -> run_service_pb2.CancelReceipt:
        covered = [self._line.runs[(one.run.tenant, one.run.run_id)] for one in found.covered]
        concluded = [self._line.runs[(ref.tenant, ref.run_id)] for ref in found.concluded]
        futures = self.submit(found, template)
        for future in futures:
            await durable(future, self._line.store)
        awaited = concluded + covered if wait else concluded
        outcomes = {run.run_id: await durable(run.finished, self._line.store) for run in awaited}
        receipt = run_service_pb2.CancelReceipt()
        ended = set(concluded)
        for run in sorted(covered + concluded, key=lambda run: run.sequence):
            disposition = ALREADY_FINISHED if run in ended else COVERED
            receipt.runs.add(run_id=run.run_id, disposition=disposition, outcome=outcomes.get(run.run_id))
        return receipt

    async def _lay_tombstone(
        self, tenant: str, run_id: str, session_id: str, request: event_pb2.RunCancelRequested
    ) -> bool:
        """Remember a cancel whose run was not seen yet; False if there is such a run by now."""
        if session_id:
            async with self._table.pin(tenant, session_id):
                pass
        limit = self._line.options.max_tombstones
        now = microseconds(self._line.clock.time())
        row = TombstoneRow(tenant, run_id, session_id, now, request.SerializeToString())
        # A task of its own: whoever asked may leave.
        laying = self._line.owner.spawn(f"tombstone of {run_id}", self._lay(row, limit))
        laid = await durable(laying, self._line.store)
        if laid is None:
            raise store_unavailable()
        if laid is Laid.FULL:
            raise Refused(
                Reason.ERROR_REASON_TENANT_LIMIT,
                f"{limit} cancels wait for runs that were not seen yet",
                metadata={"limit": str(limit)},
                limit="max_tombstones_per_tenant",
                retry_after=60.0,
            )
        return laid is Laid.LAID

    async def _lay(self, row: TombstoneRow, limit: int) -> Laid | None:
        """None if the store has failed, which everybody hears of."""
        try:
            return await self._line.store.lay_tombstone(row, limit=limit)
        except StoreError:
            return None

    def tombstone(self, laid: Sequence[TombstoneRow], session_id: str) -> event_pb2.RunCancelRequested | None:
        """The cancel, of those that waited for a run of this session, that it meets now."""
        oldest = microseconds(self._line.clock.time()) - microseconds(TOMBSTONE_SECONDS)
        for row in laid:
            if row.session_id in ("", session_id) and row.created_us > oldest:
                with reading(f"the cancel of run {row.run_id}"):
                    return event_pb2.RunCancelRequested.FromString(row.cancel)
        return None


def _receipt(
    run_id: str, disposition: run_service_pb2.CancelDisposition.ValueType, outcome: event_pb2.Outcome | None = None
) -> run_service_pb2.CancelReceipt:
    receipt = run_service_pb2.CancelReceipt()
    receipt.runs.add(run_id=run_id, disposition=disposition, outcome=outcome)
    return receipt

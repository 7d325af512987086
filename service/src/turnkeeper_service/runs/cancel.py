"""Cancelling (U-11): the core decides what is covered, the cancel is made durable, then it acts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from turnkeeper.v1 import event_pb2, run_service_pb2
from turnkeeper_service.clock import microseconds
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.errors import Reason, Refused, run_not_found, store_unavailable
from turnkeeper_service.store.base import Commit, StoreError, TombstoneRow

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
        self._tombstones: dict[tuple[str, str], TombstoneRow] = {}
        """Tombstones seen by this process that have not met their run."""
        self._num_tombstones: dict[str, int] = {}

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
        run = self._line.runs.get((tenant, run_id))
        if run is None:
            row = await self._line.store.get_run(tenant, run_id)
            run = self._line.runs.get((tenant, run_id))
            if run is None and row is not None and row.outcome is not None:
                if session_id not in ("", row.session_id):
                    raise run_not_found(run_id)
                return _receipt(run_id, ALREADY_FINISHED, event_pb2.Outcome.FromString(row.outcome))
        if run is None:
            return await self._lay_tombstone(tenant, run_id, session_id, request)
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
            return _receipt(run_id, ALREADY_FINISHED, await self._outcome(run))
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
        try:
            for future in futures:
                await asyncio.shield(future)
        except StoreError:
            raise store_unavailable() from None
        outcomes = {run.run_id: await self._outcome(run) for run in (concluded + covered if wait else concluded)}
        receipt = run_service_pb2.CancelReceipt()
        ended = set(concluded)
        for run in sorted(covered + concluded, key=lambda run: run.sequence):
            disposition = ALREADY_FINISHED if run in ended else COVERED
            receipt.runs.add(run_id=run.run_id, disposition=disposition, outcome=outcomes.get(run.run_id))
        return receipt

    @staticmethod
    async def _outcome(run: Run) -> event_pb2.Outcome:
        try:
            return await asyncio.shield(run.finished)
        except (StoreError, asyncio.CancelledError):
            if run.finished.done():
                raise store_unavailable() from None
            raise

    async def _lay_tombstone(
        self, tenant: str, run_id: str, session_id: str, request: event_pb2.RunCancelRequested
    ) -> run_service_pb2.CancelReceipt:
        """Remember a cancel whose run was not seen yet."""
        if session_id:
            async with self._table.pin(tenant, session_id):
                pass
        count = await self.count_tombstones(tenant)
        run = self._line.runs.get((tenant, run_id))
        if run is not None:
            return await self.cancel_run(tenant, run_id, request, session_id=session_id)
        if (tenant, run_id) in self._tombstones:
            return _receipt(run_id, TOMBSTONED)
        limit = self._line.options.max_tombstones
        if count >= limit:
            raise Refused(
                Reason.ERROR_REASON_TENANT_LIMIT,
                f"{limit} cancels wait for runs that were not seen yet",
                metadata={"limit": str(limit)},
                limit="max_tombstones_per_tenant",
                retry_after=60.0,
            )
        self._num_tombstones[tenant] = self._num_tombstones.get(tenant, 0) + 1
        now = microseconds(self._line.clock.time())
        row = TombstoneRow(tenant, run_id, session_id, now, request.SerializeToString())
        self._tombstones[(tenant, run_id)] = row
        try:
            await asyncio.shield(self._line.store.commit(Commit(tenant, session_id, insert_tombstones=[row])))
        except StoreError:
            raise store_unavailable() from None
        return _receipt(run_id, TOMBSTONED)

    async def count_tombstones(self, tenant: str) -> int:
        """How many tombstones of a tenant wait."""
        if tenant not in self._num_tombstones:
            count = await self._line.store.count_tombstones(tenant)
            self._num_tombstones.setdefault(tenant, count)
        return self._num_tombstones[tenant]

    async def tombstone(
        self, tenant: str, submission: run_service_pb2.Submission
    ) -> event_pb2.RunCancelRequested | None:
        """The cancel that waits for this run; it has met it now."""
        key = (tenant, submission.run_id)
        if key not in self._tombstones and await self.count_tombstones(tenant):
            row = await self._line.store.get_tombstone(*key)
            if row is not None:
                self._tombstones.setdefault(key, row)
        laid = self._tombstones.get(key)
        if laid is None or laid.session_id not in ("", submission.session_id) or self._is_old(laid):
            return None
        return event_pb2.RunCancelRequested.FromString(laid.cancel)

    def _is_old(self, laid: TombstoneRow) -> bool:
        return laid.created_us + microseconds(TOMBSTONE_SECONDS) <= microseconds(self._line.clock.time())

    def met(self, tenant: str, run_id: str) -> None:
        """A tombstone has met its run durably."""
        if self._tombstones.pop((tenant, run_id), None) is not None:
            self._num_tombstones.pop(tenant, None)

    def swept(self) -> None:
        """The store has removed old tombstones: they are counted again."""
        self._num_tombstones.clear()
        for key in [key for key, laid in self._tombstones.items() if self._is_old(laid)]:
            del self._tombstones[key]


def _receipt(
    run_id: str, disposition: run_service_pb2.CancelDisposition.ValueType, outcome: event_pb2.Outcome | None = None
) -> run_service_pb2.CancelReceipt:
    receipt = run_service_pb2.CancelReceipt()
    receipt.runs.add(run_id=run_id, disposition=disposition, outcome=outcome)
    return receipt

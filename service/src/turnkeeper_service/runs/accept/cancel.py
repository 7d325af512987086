"""Cancelling (U-11): the core decides what is covered, the cancel is made durable, then it acts."""

from __future__ import annotations

from collections.abc import Sequence

from turnkeeper.v1 import event_pb2, run_service_pb2
from turnkeeper_service.errors import Reason, Refused, run_not_found, store_unavailable
from turnkeeper_service.process.clock import microseconds
from turnkeeper_service.runs.conductor import Conductor
from turnkeeper_service.runs.parts import Parts
from turnkeeper_service.runs.scheduler import Cancelled, Step
from turnkeeper_service.runs.session.cancels import cancel_of
from turnkeeper_service.runs.session.durable import durable
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.runs.session.table import SessionTable
from turnkeeper_service.store.answers import Laid
from turnkeeper_service.store.base import TombstoneRow
from turnkeeper_service.store.errors import StoreError
from turnkeeper_service.store.reading import reading

COVERED = run_service_pb2.CANCEL_DISPOSITION_COVERED
ALREADY_FINISHED = run_service_pb2.CANCEL_DISPOSITION_ALREADY_FINISHED
TOMBSTONED = run_service_pb2.CANCEL_DISPOSITION_TOMBSTONED
TOMBSTONE_SECONDS = 86_400.0


class Canceller:
    """Cancels runs, seen and not yet seen."""

    def __init__(self, parts: Parts, conductor: Conductor, table: SessionTable) -> None:
        self._parts = parts
        self._conductor = conductor
        self._table = table

    async def cancel_session(
        self,
        tenant: str,
        session_id: str,
        request: event_pb2.RunCancelRequested,
        *,
        up_to: int | None = None,
        wait: bool = False,
    ) -> run_service_pb2.CancelReceipt:
        """Cancel what a session accepted so far. Raises Refused SESSION_NOT_FOUND."""
        async with self._table.pin(tenant, session_id) as session:
            ending = [
                run
                for run in self._parts.ending.values()
                if run.session is session and (up_to is None or run.sequence <= up_to)
            ]
            step = self._parts.core.cancel_session(session.key, cancel_of(request), up_to=up_to)
            return await self._carry_out(step, ending, wait=wait)

    async def clear_queue(
        self, tenant: str, session_id: str, request: event_pb2.RunCancelRequested
    ) -> run_service_pb2.CancelReceipt:
        """Cancel what a session accepted so far but the open run. Raises Refused SESSION_NOT_FOUND."""
        async with self._table.pin(tenant, session_id) as session:
            # What had a turn was open, and is left alone here.
            ending = [run for run in self._parts.ending.values() if run.session is session and run.driven is None]
            return await self._carry_out(self._parts.core.clear_queue(session.key, cancel_of(request)), ending)

    async def cancel_tenant(
        self, tenant: str, request: event_pb2.RunCancelRequested, *, wait: bool = False
    ) -> run_service_pb2.CancelReceipt:
        """Cancel what all sessions of a tenant accepted so far."""
        ending = [run for run in self._parts.ending.values() if run.session.tenant == tenant]
        return await self._carry_out(self._parts.core.cancel_tenant(tenant, cancel_of(request)), ending, wait=wait)

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
        while (run := self._parts.runs.get((tenant, run_id))) is None:
            row = await self._parts.store.get_run(tenant, run_id)
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
        if request.turn_id and (run.driven is None or run.driven.turn_id != request.turn_id):
            raise Refused(
                Reason.ERROR_REASON_TURN_NOT_FOUND,
                f"run {run_id!r} has no turn {request.turn_id!r}",
                resource=("turnkeeper.dev/Turn", request.turn_id),
            )
        step = self._parts.core.cancel_run(run.session.key, run_id, cancel_of(request))
        if not (step.answer.covered or step.answer.finished or step.answer.lent):
            # Its terminal is written and on its way to the disk.
            outcome = await durable(run.finished, self._parts.store)
            return _receipt(run_id, ALREADY_FINISHED, outcome)
        return await self._carry_out(step, wait=wait)

    async def _carry_out(
        self, step: Step[Cancelled], ending: Sequence[Run] = (), *, wait: bool = False
    ) -> run_service_pb2.CancelReceipt:
        """Make a cancel durable, and say what became of what it met.

        What was ``ending`` before, which the core may not know any more, counts as finished once its terminal is
        durable: a process that is lost before runs it again.
        """
        runs = self._parts.runs
        found = step.answer
        covered = [runs[(one.run.tenant, one.run.run_id)] for one in found.covered]
        # A steer that is lent to a turn is folded or given back before anything else happens to it.
        finished = [runs[(ref.tenant, ref.run_id)] for ref in (*found.finished, *found.lent)]
        finished += [run for run in ending if run not in finished]
        commits = list(self._conductor.perform(step).values())
        # Commits are durable in order: what waits for the last one has waited for a weaker one before it.
        commits += [run.cancel_durable for run in covered if run.cancel_durable is not None]
        for commit in dict.fromkeys(commits):
            await durable(commit, self._parts.store)
        awaited = finished + covered if wait else finished
        outcomes = {run.run_id: await durable(run.finished, self._parts.store) for run in awaited}
        receipt = run_service_pb2.CancelReceipt()
        ended = set(finished)
        for run in sorted(covered + finished, key=lambda run: run.sequence):
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
        limit = self._parts.options.max_tombstones
        now = microseconds(self._parts.clock.time())
        row = TombstoneRow(tenant, run_id, session_id, now, request.SerializeToString())
        # A task of its own: whoever asked may leave.
        laying = self._parts.owner.spawn(f"tombstone of {run_id}", self._lay(row, limit))
        laid = await durable(laying, self._parts.store)
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
            return await self._parts.store.lay_tombstone(row, limit=limit)
        except StoreError:
            return None

    def tombstone(self, laid: Sequence[TombstoneRow], session_id: str) -> event_pb2.RunCancelRequested | None:
        """The cancel, of those that waited for a run of this session, that it meets now."""
        oldest = microseconds(self._parts.clock.time()) - microseconds(TOMBSTONE_SECONDS)
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

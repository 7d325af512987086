"""The face of everything about sessions and runs: what the wire calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2, session_service_pb2, tool_service_pb2
from turnkeeper_service.events.log import LogEntry
from turnkeeper_service.events.reader import Position, Reader, ReadFilter
from turnkeeper_service.events.tenant import NoticeFeed
from turnkeeper_service.process.clock import Clock
from turnkeeper_service.process.tasks import TaskOwner
from turnkeeper_service.providers.facts.catalog import ModelCatalog
from turnkeeper_service.providers.facts.prices import PriceList
from turnkeeper_service.providers.policy.fallback import CoolDowns
from turnkeeper_service.providers.registry import ProviderRegistry
from turnkeeper_service.runs.accept.accept import Acceptance, Acceptor
from turnkeeper_service.runs.accept.cancel import Canceller
from turnkeeper_service.runs.accept.lifecycle import SessionLifecycle
from turnkeeper_service.runs.accept.retention import Retention
from turnkeeper_service.runs.desks.approvals import ApprovalDesk
from turnkeeper_service.runs.desks.detached_tools import DetachedTools
from turnkeeper_service.runs.desks.disconnects import Disconnects
from turnkeeper_service.runs.desks.late_results import LateResults
from turnkeeper_service.runs.desks.todos import todo_tool
from turnkeeper_service.runs.recovery.recovery import Recovery
from turnkeeper_service.runs.session.partials import PartialFlusher
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.runs.session.session import Session
from turnkeeper_service.runs.session.table import SessionTable
from turnkeeper_service.runs.turns.models import ModelDesk
from turnkeeper_service.runs.turns.titles import TitleMaker
from turnkeeper_service.runs.turns.toolbox import SessionToolbox
from turnkeeper_service.runs.views.event_metrics import Observer, observe
from turnkeeper_service.runs.views.notices import notices_of
from turnkeeper_service.runs.views.overview import Overview
from turnkeeper_service.runs.views.tool_list import ToolList
from turnkeeper_service.runs.views.views import receipt_of_row
from turnkeeper_service.store.answers import Boot
from turnkeeper_service.store.base import RunRow, SessionRow, Store
from turnkeeper_service.store.errors import StoreClosedError
from turnkeeper_service.store.reading import reading
from turnkeeper_service.store.slots import ALL_SLOTS
from turnkeeper_service.tools.base import OfferedTool, ToolServers
from turnkeeper_service.tools.remote.remote import RemoteTools

from .conductor import Conductor
from .options import RunOptions
from .parts import Checkpoints, Parts
from .planning import TurnPlanner
from .scheduler import CoreScheduler, Limits, Stats
from .terminals import Terminals

__all__ = ["RunOptions", "Runs"]


KEPT_SECONDS = 86_400.0
"""How long tombstones, and the ids of deleted sessions and their runs, are kept (U-11, U-18)."""


class Runs:
    """Sessions and runs of all tenants."""

    def __init__(
        self,
        store: Store,
        boot: Boot,
        providers: ProviderRegistry,
        prices: PriceList,
        catalog: ModelCatalog,
        cool_downs: CoolDowns,
        clock: Clock,
        limits: Limits,
        options: RunOptions,
        owner: TaskOwner,
        *,
        checkpoints: Checkpoints | None = None,
        observer: Observer | None = None,
        tools: Mapping[str, OfferedTool] | None = None,
        tool_servers: ToolServers | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._owner = owner
        self.epoch = boot.epoch
        self.feed = NoticeFeed()
        core = self._core = CoreScheduler(limits, clock, epoch=boot.epoch, last_sequence=boot.last_sequence)
        self._flusher = PartialFlusher(store, clock, options.partial_flush_interval, options.partial_flush_bytes)
        parts = self.parts = Parts(core, store, clock, options, owner, providers.bounds, checkpoints)
        self.terminals = Terminals(parts, observer)
        conductor = self._conductor = Conductor(parts, self.terminals, observer)
        self.table = SessionTable(store, self._make_session)
        self._overview = Overview(parts, self.table, self._make_session)
        self._canceller = Canceller(parts, conductor, self.table)
        self._acceptor = Acceptor(parts, conductor, self.table, self._canceller)
        self.remote = RemoteTools(clock)
        self.approvals = ApprovalDesk(
            parts, timeout=options.approval_timeout, is_allowed_by_default=options.is_allowed_by_default
        )
        own = todo_tool(self.table) if options.has_todos else {}
        toolbox = SessionToolbox(self.remote, {**own, **(tools or {})}, tool_servers)
        self._models = ModelDesk(providers, prices, catalog, cool_downs)
        self._tool_list = ToolList(self.table, self._models, toolbox, options.default_model)
        self.late = LateResults(parts, self.table)
        planner = TurnPlanner(parts, self._models, toolbox, self.approvals, DetachedTools(parts, self.late))
        conductor.driven_by(planner, TitleMaker(parts, conductor, self._models))
        self._lifecycle = SessionLifecycle(parts, conductor, self.table)
        self._retention = Retention(parts, self._lifecycle)
        self.disconnects = Disconnects(parts, conductor)
        self._recovery = Recovery(
            parts, conductor, self.table, planner, self._lifecycle, self.approvals, self.disconnects
        )
        self._observer = observer
        if observer is not None:
            observer.watch_queue(self._num_waiting)
            observer.watch_turns(lambda: core.stats().running_turns)

    def _num_waiting(self) -> int:
        """Runs that stand in line, or wait for a permit."""
        stats = self._core.stats()
        return len(self.parts.runs) - stats.running_turns - stats.parked_turns

    @reading("a session")
    def _make_session(self, row: SessionRow) -> Session:
        return Session(
            row,
            self._store,
            self._clock,
            self.epoch,
            on_growth=self._flusher.follow(row.tenant, row.session_id, self.epoch),
            on_published=self._published,
            on_idle=lambda session: self.table.idle(session),
            on_fault=self._owner.fault,
        )

    def _published(self, session: Session, events: Sequence[event_pb2.Event]) -> None:
        if self._observer is not None:
            self._observer.commits()
        observe(self._observer, session.session_id, events)
        if self.feed.is_watched(session.tenant):
            for notice in notices_of(session, events):
                self.feed.publish(session.tenant, notice)

    # ---- sessions

    async def create_session(
        self, tenant: str, session_id: str, settings: session_service_pb2.SessionSettings
    ) -> tuple[session_service_pb2.Session, bool]:
        """Create a session; also whether an earlier call had made it. Raises Refused."""
        session, is_replay = await self._lifecycle.create(tenant, session_id, settings)
        return self._overview.session(session), is_replay

    async def get_session(self, tenant: str, session_id: str) -> session_service_pb2.Session:
        """A session. Raises Refused SESSION_NOT_FOUND."""
        async with self.table.pin(tenant, session_id) as session:
            return self._overview.session(session)

    async def list_sessions(self, tenant: str, after: str, limit: int) -> tuple[list[session_service_pb2.Session], str]:
        """A page of sessions and where the next one starts. Raises ValueError where none starts there."""
        return await self._overview.sessions(tenant, after, limit)

    async def update_session(
        self, tenant: str, session_id: str, settings: session_service_pb2.SessionSettings, paths: Sequence[str]
    ) -> session_service_pb2.Session:
        """Change settings. Raises Refused."""
        return self._overview.session(await self._lifecycle.update(tenant, session_id, settings, paths))

    async def delete_session(self, tenant: str, session_id: str, actor: str, *, force: bool) -> None:
        """Delete a session. Raises Refused."""
        await self._lifecycle.delete(tenant, session_id, actor, force=force)

    async def list_messages(
        self, tenant: str, session_id: str, context_id: str, after_seq: int, limit: int
    ) -> tuple[list[content_pb2.Message], bool]:
        """A page of messages in order, and whether there are more. Raises Refused SESSION_NOT_FOUND."""
        return await self._overview.messages(tenant, session_id, context_id, after_seq, limit)

    async def list_tools(self, tenant: str, session_id: str, model: str) -> tool_service_pb2.ListToolsResponse:
        """The tools of a session, also those that its model is not told of. Raises Refused SESSION_NOT_FOUND."""
        return await self._tool_list.of(tenant, session_id, model)

    def why_no_model(self, model: str) -> str:
        """Why no provider answers for ``provider/model``, and which models there are; empty where one does."""
        return self._models.why_none(model)

    # ---- runs

    async def submit(
        self,
        tenant: str,
        principal: str,
        submission: run_service_pb2.Submission,
        *,
        on_accepted: Callable[[Run, run_service_pb2.RunReceipt], None] | None = None,
    ) -> tuple[run_service_pb2.RunReceipt, Run | None]:
        """Accept a prompt whose shape was checked; the receipt, and the run where it is not over. Raises Refused.

        ``on_accepted`` is given by a stream that is to show the run: called with the receipt where the run is new,
        before anything that its model says can be shown, and it may be called when the stream is gone.
        """

        def accepted_now(run: Run) -> None:
            if on_accepted is not None:
                on_accepted(run, self._overview.receipt(run, is_replay=False))

        try:
            accepted: Acceptance = await self._acceptor.accept(tenant, principal, submission, on_accepted=accepted_now)
        except asyncio.CancelledError:
            # The submitting stream is lost while its accept is on its way to the disk.
            run = self.parts.runs.get((tenant, submission.run_id))
            if on_accepted is not None and run is not None:
                self.disconnects.lost(run)
            raise
        if accepted.run is not None:
            return self._overview.receipt(accepted.run, is_replay=accepted.is_replay), accepted.run
        assert accepted.row is not None
        return receipt_of_row(accepted.row), None

    async def summarize(self, tenant: str, principal: str, session_id: str, run_id: str) -> Run | RunRow:
        """Accept a run that summarises a session. Raises Refused."""
        submission = run_service_pb2.Submission(session_id=session_id, run_id=run_id)
        accepted = await self._acceptor.accept(tenant, principal, submission, event_pb2.RUN_KIND_SUMMARY)
        found = accepted.run or accepted.row
        assert found is not None
        return found

    async def get_run(self, tenant: str, run_id: str) -> run_service_pb2.Run:
        """A run, with what holds it. Raises Refused RUN_NOT_FOUND."""
        return await self._overview.find_run(tenant, run_id)

    async def list_runs(
        self, tenant: str, session_id: str, after_sequence: int, limit: int, *, open_only: bool
    ) -> tuple[list[run_service_pb2.Run], bool]:
        """A page of a session's runs in accept order, and whether there are more. Raises Refused SESSION_NOT_FOUND."""
        return await self._overview.runs(tenant, session_id, after_sequence, limit, open_only=open_only)

    def active_runs(
        self, tenant: str, after: tuple[int, int] | None, limit: int
    ) -> tuple[list[Run], tuple[int, int] | None]:
        """A page of open runs, of one tenant or, with "", of all, and what comes after it."""
        return self._overview.active(tenant, after, limit)

    async def cancel(
        self, tenant: str, actor: str, request: run_service_pb2.CancelRunsRequest
    ) -> run_service_pb2.CancelReceipt:
        """Cancel a scope; returns when it is durable, with ``wait`` when its runs are over. Raises Refused."""
        wanted = event_pb2.RunCancelRequested(
            reason=event_pb2.OUTCOME_REASON_USER,
            actor=actor,
            mode=request.mode or event_pb2.CANCEL_MODE_ABORT,
            turn_id=request.turn_id,
            is_rollback=request.rollback,
            is_unwind=request.unwind,
            hint=request.hint,
        )
        scope = request.scope
        match scope.WhichOneof("scope"):
            case "run_id":
                return await self._canceller.cancel_run(
                    tenant, scope.run_id, wanted, session_id=request.session_id, wait=request.wait
                )
            case "up_to":
                return await self._canceller.cancel_session(
                    tenant, scope.up_to.session_id, wanted, up_to=scope.up_to.accept_sequence, wait=request.wait
                )
            case "tenant":
                return await self._canceller.cancel_tenant(tenant, wanted, wait=request.wait)
            case _:
                return await self._canceller.cancel_session(tenant, scope.session_id, wanted, wait=request.wait)

    async def clear_queue(self, tenant: str, actor: str, session_id: str) -> run_service_pb2.CancelReceipt:
        """Cancel all accepted so far but the open run. Raises Refused SESSION_NOT_FOUND."""
        wanted = event_pb2.RunCancelRequested(
            reason=event_pb2.OUTCOME_REASON_QUEUE_CLEARED, actor=actor, mode=event_pb2.CANCEL_MODE_ABORT
        )
        return await self._canceller.clear_queue(tenant, session_id, wanted)

    async def cancel_all(self, tenant: str, actor: str, mode: event_pb2.CancelMode.ValueType) -> int:
        """Cancel all runs of a tenant, or of all where it is ""; returns how many are covered."""
        wanted = event_pb2.RunCancelRequested(
            reason=event_pb2.OUTCOME_REASON_ADMIN, actor=actor, mode=mode or event_pb2.CANCEL_MODE_ABORT
        )
        tenants = [tenant] if tenant else sorted({key[0] for key in self.parts.runs})
        covered = 0
        for one in tenants:
            receipt = await self._canceller.cancel_tenant(one, wanted)
            covered += sum(run.disposition == run_service_pb2.CANCEL_DISPOSITION_COVERED for run in receipt.runs)
        return covered

    async def list_approvals(
        self, tenant: str, session_id: str, after_seq: int, limit: int
    ) -> tuple[list[session_service_pb2.Approval], int]:
        """A page of a session's waiting approvals, and the seq that the next comes after. Raises Refused."""
        async with self.table.pin(tenant, session_id):
            return self._overview.approvals(self.approvals.of(tenant, session_id, after_seq), limit)

    # ---- reading

    def reader(
        self,
        session: Session,
        after: int,
        *,
        positions: Mapping[str, Position] | None = None,
        filter_: ReadFilter | None = None,
        until: int | None = None,
        on_entry: Callable[[LogEntry], bool] | None = None,
    ) -> Reader:
        """A reader of a pinned session's log."""
        return Reader(
            session.log,
            session.fetch,
            after,
            positions=positions,
            filter_=filter_,
            until=until,
            on_entry=on_entry,
        )

    # ---- the process

    def stats(self) -> Stats:
        """Counts of the core."""
        return self._core.stats()

    async def recover(self, slots: Collection[int] = ALL_SLOTS) -> int:
        """Restore what the last owner of these slots left open; returns the number of runs."""
        return await self._recovery.recover(slots)

    async def sweep(self) -> int:
        """Remove tombstones and deleted sessions that are a day old; returns the number of rows."""
        return await self._store.sweep(before_us=int((self._clock.time() - KEPT_SECONDS) * 1e6))

    async def delete_idle(self, seconds: float) -> int:
        """Delete sessions that nothing has happened in for so long; returns how many."""
        return await self._retention.delete_idle(seconds)

    async def drain(self, timeout: float) -> None:
        """Take no more runs, let running turns end, cut them after ``timeout`` seconds (U-17)."""
        self._conductor.drain()
        deadline = self._owner.spawn("drain deadline", self._clock.sleep(timeout))
        still = self._owner.spawn("drain", self._conductor.still())
        await asyncio.wait({deadline, still}, return_when=asyncio.FIRST_COMPLETED)
        for task in (deadline, still):
            task.cancel()
        await asyncio.wait({deadline, still})

    def fail(self, reason: BaseException) -> None:
        """The store is lost: everybody who waits or reads hears it; nothing is written any more (U-14)."""
        self.parts.is_failed = True
        self._conductor.cut()
        self.remote.close(reason)
        self.feed.end(reason)
        for session in self.table:
            session.log.end(reason)

    async def close(self, reason: BaseException) -> None:
        """Cut what still runs, without a terminal, and end all readers. Idempotent."""
        self._conductor.cut()
        self.remote.close(reason)
        await self._owner.close(timeout=self.parts.options.cancel_grace + 1)
        self._flusher.close()
        for run in list(self.parts.runs.values()):
            if not run.finished.done():
                run.finished.cancel()
            if not run.accepted.done():
                # Whether it reaches the disk is not known; the same run_id will tell.
                run.accepted.set_exception(StoreClosedError("the server closes"))
        self.feed.end(reason)
        for session in self.table:
            session.log.end(reason)

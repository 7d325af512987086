"""Recovery (U-16): after a restart every open run is put back in its place, or closed, in accept order."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import cast

from turnkeeper.v1 import event_pb2, run_service_pb2
from turnkeeper_service.engine.plan import Resume
from turnkeeper_service.store.base import RunRow, RunState, SessionState, Store
from turnkeeper_service.store.reading import reading

from .accept import bytes_in_line
from .approvals import ApprovalDesk
from .cancel import Canceller, cancel_of
from .disconnects import Disconnects
from .floor import FloorDriver
from .lifecycle import SessionLifecycle
from .line import Line
from .run import Run
from .scheduler import Delivery, kind_of
from .session import Session
from .table import SessionTable
from .told import Told

READ_AT_ONCE = 256
"""Runs whose sessions and events are read at the same time: the store answers many faster than one by one."""


class Recovery:
    """Goes through what the last process left open."""

    def __init__(
        self,
        line: Line,
        table: SessionTable,
        store: Store,
        canceller: Canceller,
        driver: FloorDriver,
        lifecycle: SessionLifecycle,
        approvals: ApprovalDesk,
        disconnects: Disconnects,
    ) -> None:
        self._line = line
        self._table = table
        self._store = store
        self._canceller = canceller
        self._driver = driver
        self._lifecycle = lifecycle
        self._approvals = approvals
        self._disconnects = disconnects

    async def recover(self) -> int:
        """Restore all open runs, then let them go on, in accept order; returns how many there were."""
        runs: list[Run] = []
        rows = await self._store.open_runs()
        for start in range(0, len(rows), READ_AT_ONCE):
            chunk = rows[start : start + READ_AT_ONCE]
            async with AsyncExitStack() as pins:
                sessions = await asyncio.gather(
                    *(pins.enter_async_context(self._table.pin(row.tenant, row.session_id)) for row in chunk)
                )
                restored = [self._restore(session, row) for session, row in zip(sessions, chunk, strict=True)]
                begun = (run for run, row in zip(restored, chunk, strict=True) if row.state != RunState.QUEUED)
                await asyncio.gather(*map(self._find_resume, begun))
            runs += restored
        for run in runs:
            if run.key in self._line.runs:
                self._go_on(run)
        for deleting in await self._store.deleting_sessions():
            async with self._table.pin(deleting.tenant, deleting.session_id) as session:
                self._lifecycle.start(session, "")
        return len(runs)

    def _restore(self, session: Session, row: RunRow) -> Run:
        with reading(f"run {row.run_id}"):
            submission = run_service_pb2.Submission.FromString(row.submission)
            accepted_seq, _, principal = row.details.decode().partition("\n")
            cancel = None if row.cancel is None else event_pb2.RunCancelRequested.FromString(row.cancel)
        run = Run(
            session,
            submission,
            kind=cast("event_pb2.RunKind.ValueType", row.kind),
            delivery=cast("event_pb2.Delivery.ValueType", row.delivery),
            fingerprint=row.fingerprint,
            principal=principal,
            created_us=row.created_us,
        )
        run.accepted_seq = int(accepted_seq or 0)
        run.sequence, run.started_us = row.accept_sequence, row.started_us
        run.accepted.set_result(None)
        run.cancel = cancel
        is_steer = row.steers is not None and row.steers in session.runs and row.state == RunState.QUEUED
        delivery: Delivery = "steer" if is_steer else "queue"
        is_aborted = run.cancel is not None and (
            run.cancel.mode != event_pb2.CANCEL_MODE_STOP or row.state == RunState.QUEUED
        )
        self._line.core.restore(
            session.key,
            run.run_id,
            run.sequence,
            kind=kind_of(run.kind),
            delivery=delivery,
            num_bytes=bytes_in_line(submission),
            steers=row.steers if is_steer else None,
            cancelled=cancel_of(run.cancel) if is_aborted and run.cancel is not None else None,
        )
        run.steers = row.steers if is_steer else None
        self._line.add(run)
        return run

    async def _find_resume(self, run: Run) -> None:
        """Read from the run's events where its turn stands."""
        session = run.session
        rows = await self._store.read_run_events(session.tenant, session.session_id, run.run_id)
        told = Told()
        with reading(f"the log of run {run.run_id}"):
            events = [event_pb2.Event.FromString(row.payload) for row in rows]
        for event in events:
            told.take(event)
        run.resume_turn_id = told.turn_id
        step, message_id, attempt = told.step, told.message_id, told.attempt
        partial: dict[int, tuple[int, bytearray]] = {}
        for piece in await self._store.read_partials(session.tenant, run.run_id):
            if piece.message_id == message_id and piece.attempt == attempt:
                kept = partial.setdefault(piece.part, (piece.kind, bytearray()))
                if piece.offset == len(kept[1]):
                    kept[1].extend(piece.content)
        run.resume = Resume(
            step=step if message_id else step + 1,
            message_id=message_id,
            attempt=attempt,
            partial=[(kind, bytes(content).decode()) for _, (kind, content) in sorted(partial.items())],
            message_ids=told.message_ids,
            calls=list(told.calls.values()),
            # A batch that was under way gives its signature when it is whole.
            signatures=told.signatures[:-1] if told.calls else told.signatures,
            is_awaiting=told.is_awaiting,
            has_hint=told.has_hint,
            num_reprompts=told.num_reprompts,
            num_losses=self._losses(run, told),
            usage=told.usage,
            # One that is to stop takes its last step without tools.
            holders=told.holders if run.cancel is None else {},
            errors=told.errors,
            retry_at=told.retry_at if message_id else 0.0,
            summary_id=told.summary_id,
            covered_ids=told.covered_ids,
        )

    def _losses(self, run: Run, told: Told) -> int:
        """How often a process was lost during what the run does next, this time included (U-16)."""
        if run.kind == event_pb2.RUN_KIND_SUMMARY:
            return told.num_summaries
        # While it waited for its next attempt, nothing was under way.
        is_waiting = told.retry_at > self._line.clock.time()
        return told.losses + (not is_waiting) if told.message_id else 0

    def _go_on(self, run: Run) -> None:
        self._disconnects.lost(run)
        is_aborted = run.cancel is not None and run.cancel.mode != event_pb2.CANCEL_MODE_STOP
        if run.session.state == SessionState.DELETING and not is_aborted:
            # The deletion goes on: nothing of its session makes another request (U-18).
            request = event_pb2.RunCancelRequested(
                reason=event_pb2.OUTCOME_REASON_SESSION_DELETED, mode=event_pb2.CANCEL_MODE_ABORT
            )
            found = self._line.core.cancel_run(run.session.key, run.run_id, cancel_of(request))
            self._canceller.submit(found, request)
            is_aborted = True
        if run.resume is not None and is_aborted:
            # Its turn had begun: what there is of it is kept, marked (U-16).
            self._line.core.dispatch(run.session.key, run.run_id)
            self._driver.close_begun(run)
            return
        for state in run.resume.calls if run.resume is not None else ():
            if state.asked is not None and state.asked.decision is None and state.result is None:
                self._approvals.restore(run, state.call, state.asked)
        self._line.dispatch(run)
        if run.resume is not None and run.cancel is not None:
            self._line.core.cancel_run(run.session.key, run.run_id, cancel_of(run.cancel))
            self._canceller.arm_stop(run)

"""Recovery (U-16): after a restart every open run is put back in its place, or closed, in accept order."""

from __future__ import annotations

from typing import cast

from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2
from turnkeeper_service.engine.plan import Resume
from turnkeeper_service.engine.turn import FloorTurn
from turnkeeper_service.engine.usage import add_step
from turnkeeper_service.store.base import RunRow, RunState, Store

from .cancel import Canceller, cancel_of
from .floor import FloorDriver, RunScheduling
from .lifecycle import SessionLifecycle
from .line import Line
from .run import Run
from .scheduler import Delivery
from .session import Session
from .table import SessionTable


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
    ) -> None:
        self._line = line
        self._table = table
        self._store = store
        self._canceller = canceller
        self._driver = driver
        self._lifecycle = lifecycle

    async def recover(self) -> int:
        """Restore all open runs, then let them go on, in accept order; returns how many there were."""
        runs: list[Run] = []
        for row in await self._store.open_runs():
            async with self._table.pin(row.tenant, row.session_id) as session:
                run = self._restore(session, row)
                if row.state != RunState.QUEUED:
                    await self._find_resume(run)
                runs.append(run)
        for run in runs:
            if run.key in self._line.runs:
                self._go_on(run)
        for deleting in await self._store.deleting_sessions():
            async with self._table.pin(deleting.tenant, deleting.session_id) as session:
                self._lifecycle.start(session, "")
        return len(runs)

    def _restore(self, session: Session, row: RunRow) -> Run:
        submission = run_service_pb2.Submission.FromString(row.submission)
        accepted_seq, _, principal = row.details.decode().partition("\n")
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
        if row.cancel is not None:
            run.cancel = event_pb2.RunCancelRequested.FromString(row.cancel)
        is_steer = row.steers is not None and row.steers in session.runs and row.state == RunState.QUEUED
        delivery: Delivery = "steer" if is_steer else "queue"
        is_aborted = run.cancel is not None and (
            run.cancel.mode != event_pb2.CANCEL_MODE_STOP or row.state == RunState.QUEUED
        )
        self._line.core.restore(
            session.key,
            run.run_id,
            run.sequence,
            delivery=delivery,
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
        step, message_id, attempt, losses = 0, "", 1, 0
        usage = content_pb2.RunUsage()
        message_ids: list[str] = []
        model = ""
        for row in rows:
            event = event_pb2.Event.FromString(row.payload)
            payload = event.WhichOneof("payload")
            if payload == "run_started":
                run.resume_turn_id = event.turn_id
            elif payload == "step_started":
                step, model = event.step_started.step, event.step_started.model
                message_id, attempt, losses = event.step_started.message_id, 1, 0
            elif payload == "attempt_discarded":
                attempt = event.attempt_discarded.attempt + 1
                losses += event.attempt_discarded.cause == "PROCESS_LOST"
            elif payload == "step_finished":
                add_step(usage, model, event.step_finished.usage)
                message_id = ""
            elif payload == "message_committed":
                message_ids.append(event.message_committed.message.message_id)
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
            message_ids=message_ids,
            num_losses=losses + 1 if message_id else 0,
            usage=usage,
        )

    def _go_on(self, run: Run) -> None:
        policy = run.submission.on_disconnect
        if policy.HasField("cancel_after"):
            after = policy.cancel_after.seconds + policy.cancel_after.nanos / 1e9
            run.set_timer("disconnect", self._line.clock.call_later(after, lambda: self.cancel_lost(run)))
        is_aborted = run.cancel is not None and run.cancel.mode != event_pb2.CANCEL_MODE_STOP
        if run.resume is not None and is_aborted:
            # Its turn had begun: what there is of it is kept, marked (U-16).
            self._line.core.dispatch(run.session.key, run.run_id)
            self._close_started(run)
            return
        self._line.dispatch(run)
        if run.resume is not None and run.cancel is not None:
            self._line.core.cancel_run(run.session.key, run.run_id, cancel_of(run.cancel))
            self._canceller.arm_stop(run)

    def _close_started(self, run: Run) -> None:
        turn = FloorTurn(self._driver.plan(run), run.session, RunScheduling(self._line, run), self._line.clock)
        draft = run.session.draft()
        turn.cut(draft, content_pb2.MESSAGE_STATUS_CANCELLED)
        outcome = self._line.cancelled_outcome(run)
        outcome.text, outcome.message_id, outcome.num_steps = turn.text, turn.message_id, turn.num_steps
        outcome.usage.CopyFrom(turn.usage)
        if run.cancel is not None and run.cancel.is_rollback and turn.message_ids:
            draft.context_change(run.run_id, turn.message_ids, False)
        self._line.close(run, draft, outcome, turn_id=turn.plan.turn_id)
        run.session.submit(draft)

    def cancel_lost(self, run: Run) -> None:
        """The submitter of a run was lost for too long."""
        if self._line.is_cut or self._line.is_draining or run.finished.done():
            return
        request = event_pb2.RunCancelRequested(
            reason=event_pb2.OUTCOME_REASON_USER, actor=f"{run.principal} (disconnected)"
        )
        found = self._line.core.cancel_run(run.session.key, run.run_id, cancel_of(request))
        self._canceller.submit(found, request)

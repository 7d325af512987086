"""Recovery (U-16): after a restart every session is put back as it was left, in the order of its oldest open run."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from typing import cast

from turnkeeper.v1 import event_pb2, run_service_pb2
from turnkeeper_service.engine.plan import Resume
from turnkeeper_service.ids import turn_number_of
from turnkeeper_service.process.clock import seconds_of
from turnkeeper_service.runs.accept.accept import bytes_in_line
from turnkeeper_service.runs.accept.lifecycle import SessionLifecycle, deletion_of
from turnkeeper_service.runs.conductor import Conductor
from turnkeeper_service.runs.desks.approvals import ApprovalDesk
from turnkeeper_service.runs.desks.disconnects import Disconnects
from turnkeeper_service.runs.parts import Parts
from turnkeeper_service.runs.planning import TurnPlanner
from turnkeeper_service.runs.scheduler import Image, Key, RunImage, TurnImage, kind_of
from turnkeeper_service.runs.session.cancels import cancel_of
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.runs.session.session import Session
from turnkeeper_service.runs.session.table import SessionTable
from turnkeeper_service.runs.turns import outcomes
from turnkeeper_service.runs.turns.driven_turn import DrivenTurn
from turnkeeper_service.store.base import RunRow, RunState, SessionState
from turnkeeper_service.store.reading import reading

from .replayed import ReplayedTurn

RUNS_AT_ONCE = 1000
"""Rows of open runs in one read of the store."""
SESSIONS_AT_ONCE = 256
"""Sessions whose events are read at the same time: the store answers many faster than one by one."""


class Recovery:
    """Goes through what the last process left open."""

    def __init__(
        self,
        parts: Parts,
        conductor: Conductor,
        table: SessionTable,
        planner: TurnPlanner,
        lifecycle: SessionLifecycle,
        approvals: ApprovalDesk,
        disconnects: Disconnects,
    ) -> None:
        self._parts = parts
        self._conductor = conductor
        self._table = table
        self._planner = planner
        self._lifecycle = lifecycle
        self._approvals = approvals
        self._disconnects = disconnects

    async def recover(self, slots: Collection[int]) -> int:
        """Restore the sessions of these slots that have open runs, and go on with deletions; returns how many runs.

        At any time, beside others that are served; of slots that have just become this owner's.
        """
        sessions = await self._open_sessions(slots)
        pending = list(sessions.items())
        for start in range(0, len(pending), SESSIONS_AT_ONCE):
            chunk = pending[start : start + SESSIONS_AT_ONCE]
            async with AsyncExitStack() as pins:
                found = await asyncio.gather(*(pins.enter_async_context(self._table.pin(*key)) for key, _ in chunk))
                runs = [self._runs(session, rows) for session, (_, rows) in zip(found, chunk, strict=True)]
                begun = [
                    run
                    for of_session, (_, rows) in zip(runs, chunk, strict=True)
                    for run, row in zip(of_session, rows, strict=True)
                    if row.state != RunState.QUEUED
                ]
                turn_ids = dict(
                    zip((run.key for run in begun), await asyncio.gather(*map(self._replay, begun)), strict=True)
                )
                for session, of_session in zip(found, runs, strict=True):
                    self._restore(session, of_session, turn_ids)
        for row in await self._parts.store.deleting_sessions(slots):
            async with self._table.pin(row.tenant, row.session_id) as session:
                self._lifecycle.start(session, "")
        return sum(map(len, sessions.values()))

    async def _open_sessions(self, slots: Collection[int]) -> dict[Key, list[RunRow]]:
        """The open runs by session, in the order of the oldest run of each."""
        sessions: dict[Key, list[RunRow]] = {}
        after = 0
        while rows := await self._parts.store.open_runs(slots, after_sequence=after, limit=RUNS_AT_ONCE):
            for row in rows:
                sessions.setdefault((row.tenant, row.session_id), []).append(row)
            after = rows[-1].accept_sequence
        return sessions

    def _runs(self, session: Session, rows: Sequence[RunRow]) -> list[Run]:
        runs = []
        for row in rows:
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
            run.sequence, run.started_us, run.steers = row.accept_sequence, row.started_us, row.steers
            run.accepted.set_result(None)
            run.cancel = cancel
            self._parts.add(run)
            runs.append(run)
        return runs

    def _restore(self, session: Session, runs: Sequence[Run], turn_ids: dict[Key, str]) -> None:
        """Put a session back in one step; whatever had begun goes on."""
        for run in runs:
            if run.key in turn_ids and turn_number_of(turn_ids[run.key]) is None:
                self._end_foreign(run, turn_ids[run.key])
        open_runs = [run for run in runs if run.key in self._parts.runs]
        turns = tuple(
            TurnImage(
                turn_number_of(turn_ids[run.key]) or 0,
                run.run_id,
                run.sequence,
                role="summary" if run.kind == event_pb2.RUN_KIND_SUMMARY else "prompt",
            )
            for run in open_runs
            if run.key in turn_ids
        )
        images = tuple(self._image(run, is_open=run.key in turn_ids) for run in open_runs)
        closing = cancel_of(deletion_of("")) if session.state == SessionState.DELETING else None
        self._conductor.perform(self._parts.core.restore(session.key, Image(images, turns, closing=closing)))
        for run in open_runs:
            if run.key not in self._parts.runs:
                continue
            self._conductor.stands(run)
            self._disconnects.lost(run)
            for state in run.resume.calls if run.resume is not None else ():
                if state.asked is not None and state.asked.decision is None and state.result is None:
                    self._approvals.restore(run, state.call, state.asked)

    def _image(self, run: Run, *, is_open: bool) -> RunImage:
        core, clock = self._parts.core, self._parts.clock
        submission = run.submission
        created = run.created_us / 1e6
        start_deadline = run_deadline = None
        if submission.HasField("start_timeout") and not is_open:
            start_deadline = core.at(created + seconds_of(submission.start_timeout), clock)
        timeout = self._parts.run_timeout(run)
        if timeout is not None and is_open:
            run_deadline = core.at((run.started_us or run.created_us) / 1e6 + timeout, clock)
        is_stop = run.cancel is not None and run.cancel.mode == event_pb2.CANCEL_MODE_STOP and is_open
        return RunImage(
            run.run_id,
            run.sequence,
            kind=kind_of(run.kind),
            opened=is_open,
            steers=run.steers,
            cut=None if run.cancel is None else "stop" if is_stop else "abort",
            cancel=None if run.cancel is None else cancel_of(run.cancel),
            size=bytes_in_line(submission),
            start_deadline=start_deadline,
            run_deadline=run_deadline,
            run_timeout=timeout,
        )

    def _end_foreign(self, run: Run, turn_id: str) -> None:
        """End a run whose turn an older version had begun: what there is of it is kept, marked."""
        driven = run.driven = DrivenTurn(self._conductor, run, 0, turn_id)
        driven.turn = self._planner.turn(run, turn_id, driven)
        driven.concluded("cancelled" if run.cancel is not None else "failed", outcomes.OLDER_VERSION)
        draft = run.session.draft()
        driven.write_end(draft)
        self._conductor.terminals.write(run, draft, driven.outcome(), turn_id=turn_id)
        run.session.submit(draft)
        self._parts.runs.pop(run.key)

    async def _replay(self, run: Run) -> str:
        """Read from a run's events where its turn stands; the turn's id."""
        session = run.session
        rows = await self._parts.store.read_run_events(session.tenant, session.session_id, run.run_id)
        turn = ReplayedTurn()
        with reading(f"the log of run {run.run_id}"):
            events = [event_pb2.Event.FromString(row.payload) for row in rows]
        for event in events:
            turn.take(event)
        step, message_id, attempt = turn.step, turn.message_id, turn.attempt
        partial: dict[int, tuple[int, bytearray]] = {}
        for piece in await self._parts.store.read_partials(session.tenant, run.run_id):
            if piece.message_id == message_id and piece.attempt == attempt:
                kept = partial.setdefault(piece.part, (piece.kind, bytearray()))
                if piece.offset == len(kept[1]):
                    kept[1].extend(piece.content)
        run.resume = Resume(
            step=step if message_id else step + 1,
            message_id=message_id,
            attempt=attempt,
            partial=[(kind, bytes(content).decode()) for _, (kind, content) in sorted(partial.items())],
            message_ids=turn.message_ids,
            calls=list(turn.calls.values()),
            # A batch that was under way gives its signature when it is whole.
            signatures=turn.signatures[:-1] if turn.calls else turn.signatures,
            is_awaiting=turn.is_awaiting,
            has_hint=turn.has_hint,
            num_reprompts=turn.num_reprompts,
            num_losses=self._losses(run, turn),
            usage=turn.usage,
            # One that is to stop takes its last step without tools.
            holders=turn.holders if run.cancel is None else {},
            errors=turn.errors,
            retry_at=turn.retry_at if message_id else 0.0,
            summary_id=turn.summary_id,
            covered_ids=turn.covered_ids,
        )
        return turn.turn_id

    def _losses(self, run: Run, turn: ReplayedTurn) -> int:
        """How often a process was lost during what the run does next, this time included (U-16)."""
        if run.kind == event_pb2.RUN_KIND_SUMMARY:
            return turn.num_summaries
        # While it waited for its next attempt, nothing was under way.
        is_waiting = turn.retry_at > self._parts.clock.time()
        return turn.losses + (not is_waiting) if turn.message_id else 0

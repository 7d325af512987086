"""Drives a run whose floor turn begins: run the turn, fix its outcome, commit it, hand the floor on (U-10).

On every way out, success, error, cancel, deadline or fault, the same three things happen in the same order: conclude,
commit, finish. Only a cut drain and a lost store leave a run without its terminal, for recovery to find.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from turnkeeper.v1 import content_pb2, event_pb2, session_service_pb2
from turnkeeper_service.clock import seconds_of
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.engine.plan import TurnCancelledError, TurnEnd
from turnkeeper_service.engine.scheduling import Concluding, FoldedRun, FoldPoint
from turnkeeper_service.engine.summary import ContextExhaustedError
from turnkeeper_service.engine.summary_turn import SummaryTurn
from turnkeeper_service.engine.turn import FloorTurn
from turnkeeper_service.providers.base import ProviderError
from turnkeeper_service.store.base import StoreError
from turnkeeper_service.tools.base import ToolAnswer

from .late import LateResults
from .line import Line
from .planning import TurnPlanner
from .run import Run
from .scheduler import RunRef
from .titles import TitleMaker

log = structlog.get_logger(__name__)

COMPLETED = event_pb2.OUTCOME_STATUS_COMPLETED
FAILED = event_pb2.OUTCOME_STATUS_FAILED
MAX_LOSSES = 2
"""A step is run again at most so often after its process was lost (U-16)."""


@dataclass(slots=True)
class _End:
    """How a floor turn ended, before a cancel that came first has its say."""

    status: event_pb2.OutcomeStatus.ValueType
    reason: event_pb2.OutcomeReason.ValueType
    errors: list[event_pb2.RunError] = field(default_factory=list)
    is_concluded: bool = False
    is_cancelled: bool = False
    failure: ProviderError | None = None


class _Folding:
    """A STEER run that a fold point gave to a turn."""

    def __init__(self, line: Line, run: Run) -> None:
        self._line = line
        self._run = run
        self.run_id = run.run_id
        self.prompt = run.prompt

    def fold(self, draft: Draft, fold: event_pb2.Fold) -> None:
        """Write its terminal (U-22)."""
        outcome = event_pb2.Outcome(status=event_pb2.OUTCOME_STATUS_FOLDED, fold=fold)
        outcome.message_id = fold.message_id
        self._line.close(self._run, draft, outcome)


class RunScheduling:
    """The engine's view of the core, for one run."""

    def __init__(self, line: Line, run: Run) -> None:
        self._line = line
        self._run = run

    def _folding(self, refs: Sequence[RunRef]) -> list[FoldedRun]:
        return [_Folding(self._line, self._line.runs[(ref.tenant, ref.run_id)]) for ref in refs]

    @property
    def is_leaving(self) -> bool:
        """Whether the server drains."""
        return self._line.is_draining

    def fold_point(self) -> FoldPoint:
        """Before a step. Raises TurnCancelledError where an abort covers the run."""
        run = self._run
        found = self._line.core.partition(run.session.key, run.run_id, limit=self._most())
        if found.cancel is not None and found.cancel.mode == "abort":
            raise TurnCancelledError
        hint = run.cancel.hint if run.cancel is not None else ""
        return FoldPoint(self._folding(found.fold), found.cancel is not None, hint)

    def _most(self) -> int | None:
        """How many STEER runs a fold point takes, by the session's settings as they are now.

        A server that goes away takes none: they fold after the restart.
        """
        if self._line.is_draining:
            return 0
        mode = self._run.session.settings.steering_mode or self._line.options.steering_mode
        return 1 if mode == session_service_pb2.STEERING_MODE_ONE else None

    def park(self) -> None:
        """Give the permit back."""
        self._line.park(self._run)

    def wake(self) -> None:
        """Ask for it again."""
        self._line.wake(self._run)

    def permit(self) -> Awaitable[object] | None:
        """A wait for it; None where the turn has it."""
        return self._run.permit.wait() if self._run.permit is not None else None

    def conclude_answer(self, *, steer: bool) -> Concluding:
        """Propose that the answer ends the run."""
        steer = steer and not self.is_leaving
        found = self._line.core.conclude(
            self._run.session.key, self._run.run_id, answer=True, steer=steer, limit=self._most()
        )
        return Concluding(
            is_concluded=found.status != "steered",
            is_cancelled=found.status == "cancelled",
            is_stopped=found.cancel is not None and found.cancel.mode == "stop",
            fold=self._folding(found.fold),
        )


def roll_back(run: Run, turn: FloorTurn | SummaryTurn, draft: Draft) -> None:
    """Take a turn's messages out of the context; what its summaries stood for comes back (U-11)."""
    before = [message_id for message_id in turn.covered_ids if message_id not in turn.message_ids]
    if before:
        draft.context_change(run.run_id, before, True)
    if turn.message_ids:
        draft.context_change(run.run_id, turn.message_ids, False)


class FloorDriver:
    """Drives floor turns."""

    def __init__(
        self,
        line: Line,
        planner: TurnPlanner,
        titles: TitleMaker,
        late: LateResults,
    ) -> None:
        self._line = line
        self._planner = planner
        self._late = late
        self._titles = titles

    def turn(self, run: Run) -> FloorTurn | SummaryTurn:
        """The floor turn of a run that begins or goes on."""
        return self._planner.turn(run, RunScheduling(self._line, run), self._detach)

    def _detach(self, run: Run, turn_id: str, work: asyncio.Task[ToolAnswer], call: content_pb2.ToolCall) -> None:
        """Take over a tool that ignores its cancel; what it says in the end is recorded and never applied (U-12)."""
        if not work.done():
            log.warning("a tool ignores its cancel and is detached", run_id=run.run_id, tool=call.name)
        if not work.cancelled():
            self._line.owner.spawn(f"tool {call.name}", self._reap(run, turn_id, work, call))

    async def _reap(self, run: Run, turn_id: str, work: asyncio.Task[ToolAnswer], call: content_pb2.ToolCall) -> None:
        """Wait for a tool that was detached. What it raises is nobody's any more."""
        try:
            await asyncio.wait({work})
        finally:
            if not work.done():
                # The server closes; its owner decides how long it waits for us.
                work.cancel()
                await asyncio.wait({work})
        if work.cancelled() or work.exception() is not None:
            return
        result = work.result().result
        result.tool_call_id, result.name = call.tool_call_id, call.name
        self._late.record(run.session.tenant, run.session.session_id, run.run_id, turn_id, result)

    def close_begun(self, run: Run) -> None:
        """End a cancelled run whose turn a lost process had begun and this one has not."""
        turn = self.turn(run)
        draft = run.session.draft()
        turn.cut(draft, content_pb2.MESSAGE_STATUS_CANCELLED)
        outcome = self._line.cancelled_outcome(run)
        outcome.text, outcome.message_id, outcome.num_steps = turn.text, turn.message_id, turn.num_steps
        outcome.usage.CopyFrom(turn.usage)
        if run.cancel is not None and run.cancel.is_rollback:
            roll_back(run, turn, draft)
        self._line.close(run, draft, outcome, turn_id=turn.plan.turn_id)
        run.session.submit(draft)

    async def drive(self, run: Run) -> None:
        """Drive a run from the start of its floor turn to its terminal."""
        line = self._line
        turn = self.turn(run)
        run.turn = turn
        if run.started_us is None:
            run.started_us = int(line.clock.time() * 1e6)
        early = self._refusal(run)
        if early is not None:
            await self._conclude(run, turn, early)
            return
        self._titles.begin(run, turn.plan.model, turn.plan.session_hash)
        self._arm_deadline(run)
        work = asyncio.get_running_loop().create_task(self._work(turn), name=f"turn {turn.plan.turn_id}")
        run.work = work
        try:
            either: set[asyncio.Future[Any]] = {work, run.detached}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # The server goes away: no terminal, recovery goes on from here (U-17).
            work.cancel()
            await asyncio.wait({work}, timeout=line.options.cancel_grace)
            if work.done() and not work.cancelled():
                work.exception()
            raise
        run.stop_timer("grace")
        run.stop_timer("deadline")
        if not work.done():
            log.warning("work ignores its cancel and is detached", run_id=run.run_id)
            turn.abandon()
            line.owner.adopt(work)
        if line.is_cut:
            if work.done() and not work.cancelled():
                # Looked at, since what it says is of no use any more: recovery goes on from the store.
                work.exception()
            return
        end = self._end(run, turn, work)
        if end is not None:
            await self._conclude(run, turn, end)

    async def _work(self, turn: FloorTurn | SummaryTurn) -> TurnEnd:
        """All of the turn that waits for anything: a cancel and the deadline cut whatever it is."""
        await self._planner.prepare(turn.plan)
        return await turn.run()

    def _refusal(self, run: Run) -> _End | None:
        """Why the run ends without a model call, None if it does not."""
        wanted = run.submission.preconditions.for_agent_id
        if wanted and wanted != run.session.settings.agent_id:
            return self._failed(
                event_pb2.OUTCOME_REASON_FLOOR_CHANGED, "Floor changed", f"{wanted!r} has not the floor"
            )
        if run.resume is not None and run.resume.num_losses > MAX_LOSSES:
            detail = f"the process was lost {run.resume.num_losses} times during this step"
            return self._failed(event_pb2.OUTCOME_REASON_PROCESS_LOST, "Process lost", detail)
        return None

    def _arm_deadline(self, run: Run) -> None:
        if run.submission.HasField("run_timeout"):
            timeout = seconds_of(run.submission.run_timeout)
        elif run.session.settings.HasField("run_timeout"):
            timeout = seconds_of(run.session.settings.run_timeout)
        elif self._line.options.run_timeout is not None:
            timeout = self._line.options.run_timeout
        else:
            return
        passed = self._line.clock.time() - (run.started_us or 0) / 1e6

        def passed_deadline() -> None:
            run.is_deadline_passed = True
            self._line.abort(run)

        self._line.arm(run, "deadline", timeout - passed, passed_deadline)

    @staticmethod
    def _failed(reason: event_pb2.OutcomeReason.ValueType, title: str, detail: str, http_status: int = 0) -> _End:
        error = event_pb2.RunError(reason=reason, title=title, detail=detail, http_status=http_status)
        return _End(FAILED, reason, [error])

    def _end(self, run: Run, turn: FloorTurn | SummaryTurn, work: asyncio.Task[TurnEnd]) -> _End | None:
        """How the turn ended; None where the store is lost and nothing can be written."""
        is_cut = not work.done() or work.cancelled()
        error = None if is_cut else work.exception()
        if error is None and not is_cut:
            end = work.result()
            return _End(
                end.status,
                end.reason,
                list(end.errors),
                is_concluded=end.status == COMPLETED,
                is_cancelled=end.is_cancelled,
            )
        if is_cut or isinstance(error, TurnCancelledError):
            if run.is_deadline_passed:
                return self._failed(event_pb2.OUTCOME_REASON_RUN_DEADLINE, "Run deadline", "the run took too long")
            return self._failed(event_pb2.OUTCOME_REASON_INTERNAL, "Turn cut", "the turn was cut without a cancel")
        if isinstance(error, StoreError):
            if self._line.store.failure.done():
                return None
            # Only a read failed: the store still takes the terminal.
            log.error("a turn could not read its session", run_id=run.run_id, detail=str(error))
            return self._failed(event_pb2.OUTCOME_REASON_INTERNAL, "Session not readable", str(error))
        if isinstance(error, ContextExhaustedError):
            return self._failed(event_pb2.OUTCOME_REASON_CONTEXT_EXHAUSTED, "Context exhausted", str(error))
        if isinstance(error, ProviderError):
            reason = event_pb2.OutcomeReason.Value(f"OUTCOME_REASON_{error.reason}")
            end_ = self._failed(reason, error.title, error.detail, error.status or 0)
            end_.failure = error
            end_.errors[0].turn_id = turn.plan.turn_id
            return end_
        log.error("a turn failed by a fault", run_id=run.run_id, exc_info=error)
        return self._failed(event_pb2.OUTCOME_REASON_INTERNAL, "Internal error", type(error).__name__)

    async def _conclude(self, run: Run, turn: FloorTurn | SummaryTurn, end: _End) -> None:
        """Fix the outcome in the core and commit history, usage and terminal together."""
        line = self._line
        if not end.is_concluded:
            concluded = line.core.conclude(run.session.key, run.run_id, answer=False)
            end.is_cancelled = concluded.status == "cancelled"
        if end.is_cancelled:
            outcome = line.cancelled_outcome(run)
            outcome.errors.extend(turn.errors)
        else:
            errors = [*turn.errors, *end.errors]
            outcome = event_pb2.Outcome(status=end.status, reason=end.reason, errors=errors)
        draft = run.session.draft()
        self._write_turn(run, turn, end, draft)
        outcome.text, outcome.message_id = turn.text, turn.message_id
        outcome.finish_reason = turn.finish_reason
        outcome.num_steps = turn.num_steps
        outcome.usage.CopyFrom(turn.usage)
        if outcome.status == COMPLETED and isinstance(turn, FloorTurn):
            outcome.output_json = turn.output_json
        if run.cancel is not None and run.cancel.is_rollback and end.is_cancelled:
            roll_back(run, turn, draft)
        line.close(run, draft, outcome, turn_id=turn.plan.turn_id)
        # The floor is free and the next run begins before anybody sees this terminal (U-10).
        draft.on_durable.append(lambda: line.begin(line.core.finish(run.session.key, run.run_id)))
        await run.session.submit(draft)

    def _write_turn(self, run: Run, turn: FloorTurn | SummaryTurn, end: _End, draft: Draft) -> None:
        if end.status == COMPLETED or end.reason in (
            event_pb2.OUTCOME_REASON_TOOL,
            event_pb2.OUTCOME_REASON_TOOL_LOOP,
        ):
            turn.write_end(draft)
            return
        status = content_pb2.MESSAGE_STATUS_CANCELLED if end.is_cancelled else content_pb2.MESSAGE_STATUS_FAILED
        error = None
        if not end.is_cancelled and end.errors:
            error = content_pb2.ErrorText(title=end.errors[0].title, detail=end.errors[0].detail)
        if turn.has_started:
            turn.cut(draft, status, error, end.failure)
        elif run.kind == event_pb2.RUN_KIND_PROMPT:
            # What was meant for another agent is none of this one's either.
            is_meant = end.reason != event_pb2.OUTCOME_REASON_FLOOR_CHANGED
            Line.unstarted_rows(run, draft, status, in_context=is_meant and not end.is_cancelled, error=error)

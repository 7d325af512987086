"""A turn that the core has begun, and the task that takes its steps.

The turn proposes, the conductor concludes: whatever way the task ends, also one that was cancelled before its first
instruction, its turn is concluded once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import structlog

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.abstract_turn import Turn
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.engine.plan import TurnCancelledError
from turnkeeper_service.engine.scheduling import FoldedRun, FoldPoint, WaitKind
from turnkeeper_service.engine.turn_end import TurnEnd
from turnkeeper_service.engine.turn_ends import by_error
from turnkeeper_service.runs.performing import Concluding
from turnkeeper_service.runs.scheduler import RunRef
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.store.errors import StoreError

from . import outcomes
from .lanes import Lane
from .turn_wait import TurnWait

log = structlog.get_logger(__name__)

CUT_SHORT_BY_A_STOP = frozenset({"backoff"})
"""Waits that nothing but time ends."""


class _Folding:
    """A STEER run that a fold point lent to a turn."""

    def __init__(self, conductor: Concluding, run: Run) -> None:
        self._conductor = conductor
        self._run = run
        self.run_id = run.run_id

    @property
    def prompt(self) -> Sequence[content_pb2.Part]:
        """What was asked."""
        return self._run.prompt

    @property
    def is_lost(self) -> bool:
        """Whether that could not be read."""
        return self._run.is_lost

    async def read(self) -> None:
        """Have its prompt in memory. One that cannot be read fails its own run and no other."""
        parts = self._conductor.parts
        try:
            await parts.shelf.read(self._run)
        except StoreError as error:
            if parts.store.failure.done():
                raise
            log.error("a prompt in line could not be read", run_id=self.run_id, detail=str(error))

    def fail(self, draft: Draft) -> None:
        """Write the terminal of one whose prompt is lost."""
        self._conductor.terminals.write(self._run, draft, outcomes.of_end(outcomes.PROMPT_LOST))

    def fold(self, draft: Draft, fold: event_pb2.Fold) -> None:
        """Write its terminal (U-22)."""
        outcome = event_pb2.Outcome(status=event_pb2.OUTCOME_STATUS_FOLDED, fold=fold)
        outcome.message_id = fold.message_id
        self._conductor.terminals.write(self._run, draft, outcome)


class DrivenTurn:
    """A turn from its beginning to its end. Implements the engine's Scheduling."""

    def __init__(self, conductor: Concluding, run: Run, key: int, turn_id: str) -> None:
        self._conductor = conductor
        self.run = run
        self.key = key
        """The core's number of it."""
        self.turn_id = turn_id
        self.turn: Turn | None = None
        """What takes its steps; None where it could not even be planned."""
        self.task: asyncio.Task[None] | None = None
        self.fault: Exception | None = None
        """Why it could not be planned."""
        self.is_over = self.is_cancelled = False
        """Whether it is concluded, and by a cancel."""
        self._end = outcomes.CUT
        self._waits: dict[int, TurnWait] = {}
        self._permit: asyncio.Future[None] | None = None
        """While it is without a permit."""
        self._lent: Sequence[Run] = ()
        """What a fold point lent and no draft holds yet."""

    def __repr__(self) -> str:
        return f"DrivenTurn({self.turn_id!r}, {self.run.run_id!r})"

    @property
    def is_busy(self) -> bool:
        """Whether it takes steps, or its terminal is on its way."""
        return self.task is not None and self._permit is None

    # ---- what the turn asks

    def fold_point(self, *, is_lending: bool = True) -> FoldPoint:
        """Before a step. Raises TurnCancelledError where an abort covers the turn."""
        core, run = self._conductor.core, self.run
        step = core.fold_point(run.session.key, self.key, self._conductor.parts.most_steers(run) if is_lending else 0)
        point = step.answer
        self._conductor.perform(step)
        hint = run.cancel.hint if run.cancel is not None else ""
        return FoldPoint(self._folding(point.steers), point.stop, hint, point.leave)

    def _folding(self, refs: Sequence[RunRef]) -> list[FoldedRun]:
        runs = self._conductor.parts.runs
        self._lent = [runs[(ref.tenant, ref.run_id)] for ref in refs]
        return [_Folding(self._conductor, run) for run in self._lent]

    def taken(self) -> None:
        """The draft with what was lent is being submitted."""
        if self._lent:
            self._lent = ()
            self._conductor.perform(self._conductor.core.taken(self.run.session.key, self.key))

    def strands(self, count: int) -> None:
        """So many calls come under way."""
        self._conductor.perform(self._conductor.core.strands(self.run.session.key, self.key, count))

    def strand_ends(self) -> bool:
        """One of them is over."""
        step = self._conductor.core.strand_ends(self.run.session.key, self.key)
        self._parked(is_parked=not step.answer)
        self._conductor.perform(step)
        return self._permit is not None

    def wait(self, kind: WaitKind, label: str, seconds: float | None = None) -> TurnWait:
        """A strand waits."""
        step = self._conductor.core.wait(self.run.session.key, self.key, kind, label, seconds)
        wait = TurnWait(self.wait_ends, step.answer.id, kind, is_parked=step.answer.parked)
        # It is known before what follows from it happens: it may be over in the step that began it.
        self.waits_for(wait)
        self._conductor.perform(step)
        return wait

    def waits_for(self, wait: TurnWait) -> None:
        """Take a wait that the core has begun."""
        self._waits[wait.wait_id] = wait
        self._parked(is_parked=wait.is_parked)

    def wait_ends(self, wait_id: int) -> None:
        """What a strand waited for has come."""
        if self._waits.pop(wait_id, None) is not None and not self.is_over:
            self._conductor.perform(self._conductor.core.waited(self.run.session.key, self.key, wait_id))

    def _parked(self, *, is_parked: bool) -> None:
        if is_parked and self._permit is None:
            self._permit = asyncio.get_running_loop().create_future()

    def permit(self) -> Awaitable[object] | None:
        """A wait for the permit; None where the turn has it."""
        return asyncio.shield(self._permit) if self._permit is not None else None

    def lane(self, model: str) -> AbstractAsyncContextManager[None] | None:
        """Its place among the calls to a provider."""
        provider = model.partition("/")[0]
        bounds = self._conductor.parts.bounds.get(provider)
        return Lane(self._conductor, self, provider, bounds) if bounds is not None else None

    def conclude(self, end: TurnEnd, *, may_step: bool = False) -> Sequence[FoldedRun] | None:
        """Propose an end."""
        lent = self._conductor.conclude(self.run, self.key, end, may_step=may_step)
        return None if lent is None else self._folding(lent)

    # ---- what the core says

    def begin(self) -> None:
        """Its task takes the first step, or the next one after a restart."""
        turn = self.turn
        assert turn is not None
        held = self._conductor.parts.reach("turn", self.run.run_id)

        async def drive() -> None:
            if held is not None:
                await held
            await self._conductor.prepare(self.run, turn)
            await turn.run()

        self.task = self._conductor.parts.owner.start(f"run {self.run.run_id}", drive(), self._ended)

    def go_on(self) -> None:
        """It has its permit again."""
        permit, self._permit = self._permit, None
        if permit is not None and not permit.done():
            permit.set_result(None)

    def stop(self) -> None:
        """It looks at its next fold point; what only time ends, ends now."""
        for wait in [one for one in self._waits.values() if one.kind in CUT_SHORT_BY_A_STOP]:
            self.wait_ends(wait.wait_id)
            wait.resolve()

    def came(self, wait_id: int, what: str) -> None:
        """The time of a wait is over, or a provider takes its call: the core has ended the wait."""
        wait = self._waits.pop(wait_id, None)
        if wait is not None:
            wait.is_granted = what == "in"
            wait.resolve()

    def abort(self) -> None:
        """Cut it; its end is proposed when its task has ended."""
        if self.task is None:
            self._propose(None)
        else:
            self.task.cancel()

    def detach(self) -> None:
        """It ignores its cancel: let go of its task, and conclude without it (U-12)."""
        if self.turn is not None:
            self.turn.abandon()
        if self.task is not None:
            self.task.set_name(f"detached turn {self.turn_id}")
        self._propose(None)

    # ---- its end

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Its task has ended, whatever way."""
        error = None if task.cancelled() else task.exception()
        if self.is_over:
            if self.task is not None and self.task.get_name().startswith("detached "):
                log.info("detached work has ended", task=task.get_name(), error=type(error).__name__ if error else None)
            elif error is not None:
                log.error("a turn went on behind its end", run_id=self.run.run_id, exc_info=error)
        elif task.cancelled() or isinstance(error, TurnCancelledError):
            self._propose(None)
        else:
            self._propose(error or AssertionError("the turn has ended without an end"))

    def _propose(self, error: BaseException | None) -> None:
        """Propose the end of a turn that did not end by itself; None: it was cut."""
        if self.is_over or not self._conductor.may_end(self.run, error):
            return
        end = outcomes.CUT if error is None else by_error(error, self.turn_id)
        if error is not None and end.reason == event_pb2.OUTCOME_REASON_INTERNAL and not isinstance(error, StoreError):
            log.error("a turn failed by a fault", run_id=self.run.run_id, exc_info=error)
        try:
            self._conductor.conclude(self.run, self.key, end, is_cut=error is None)
        except Exception as fault:
            self._conductor.parts.owner.fault(f"end of {self.run.run_id}", fault)

    def fail(self, error: Exception) -> None:
        """It could not even be planned."""
        self._propose(error)

    def let_go(self) -> None:
        """Its end is durable, or it has never been: nobody asks for its steps any more."""
        self.turn = None

    def concluded(self, word: str, proposed: TurnEnd) -> None:
        """The core has decided how it ends, where a cancel, a deadline or a stop came first."""
        self.is_over = True
        for run in self._lent:
            # They stand in line again.
            self._conductor.stands(run)
        self._lent = ()
        self.is_cancelled = word == "cancelled"
        self._end = proposed
        if word == "deadline":
            self._end = outcomes.RUN_DEADLINE
        elif word == "stopped" and proposed.reason != event_pb2.OUTCOME_REASON_TOOL_ENDED:
            self._end = replace(proposed, reason=event_pb2.OUTCOME_REASON_STOPPED)

    def write_end(self, draft: Draft) -> None:
        """Write the last of what it leaves: its answer, or what there is of it, marked."""
        turn, end, is_cancelled = self.turn, self._end, self.is_cancelled
        if turn is not None and turn.has_started and end.is_whole and not is_cancelled:
            turn.write_end(draft)
            return
        status = content_pb2.MESSAGE_STATUS_CANCELLED if is_cancelled else content_pb2.MESSAGE_STATUS_FAILED
        error = None if is_cancelled else outcomes.error_text(end)
        if turn is not None and turn.has_started:
            turn.cut(draft, status, error, None if is_cancelled else end.failure)
        else:
            # What was meant for another agent is none of this one's either.
            is_meant = end.reason != event_pb2.OUTCOME_REASON_FLOOR_CHANGED
            outcomes.unstarted_rows(self.run, draft, status, in_context=is_meant and not is_cancelled, error=error)
        if is_cancelled and self.run.cancel is not None and self.run.cancel.is_rollback:
            self._roll_back(draft)

    def outcome(self) -> event_pb2.Outcome:
        """What its run's terminal says."""
        turn, end, is_cancelled = self.turn, self._end, self.is_cancelled
        outcome = (
            outcomes.cancelled(self.run) if is_cancelled else event_pb2.Outcome(status=end.status, reason=end.reason)
        )
        if turn is not None:
            outcome.errors.extend(turn.errors)
            outcome.text, outcome.message_id = turn.text, turn.message_id
            outcome.finish_reason = turn.finish_reason
            outcome.num_steps = turn.num_steps
            outcome.usage.CopyFrom(turn.usage)
            if outcome.status == event_pb2.OUTCOME_STATUS_COMPLETED:
                outcome.output_json = turn.output_json
        if not is_cancelled:
            outcome.errors.extend(end.errors)
        return outcome

    def _roll_back(self, draft: Draft) -> None:
        """Take its messages out of the context; what its summaries stood for comes back (U-11)."""
        turn = self.turn
        if turn is None:
            return
        context_id = turn.plan.context.context_id
        before = [message_id for message_id in turn.covered_ids if message_id not in turn.message_ids]
        if before:
            draft.context_change(self.run.run_id, context_id, before, True)
        if turn.message_ids:
            draft.context_change(self.run.run_id, context_id, turn.message_ids, False)

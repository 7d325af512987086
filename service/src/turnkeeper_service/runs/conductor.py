"""Performs what the core decides: the one place where effects become commits, tasks and timers.

A step of the core answers with effects in binding order. Facts go into the draft of their step, one per session; acts
follow its submit, and what cuts a turn follows its durability. Nothing here waits, so nothing can be decided later and
written earlier: what the core decided is in a submitted draft before anything else can happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import structlog

from turnkeeper.v1 import event_pb2
from turnkeeper_service.engine.abstract_turn import Turn
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.engine.turn import FloorTurn
from turnkeeper_service.engine.turn_end import COMPLETED, TurnEnd
from turnkeeper_service.ids import turn_id_of
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.runs.session.session import Session
from turnkeeper_service.runs.turns import outcomes
from turnkeeper_service.runs.turns.driven_turn import DrivenTurn
from turnkeeper_service.runs.turns.lanes import Errands
from turnkeeper_service.runs.turns.titles import TitleMaker
from turnkeeper_service.store.errors import StoreError

from .alarm import Alarm
from .facts import Facts
from .parts import Parts
from .planning import TurnPlanner
from .scheduler import (
    Abort,
    Act,
    Begin,
    Came,
    Detach,
    Errand,
    Fact,
    GoOn,
    Key,
    Resume,
    RunOver,
    RunRef,
    Step,
    Stop,
    TurnRef,
)
from .terminals import Terminals

log = structlog.get_logger(__name__)

RESERVATION_SECONDS = 30.0
"""So long after its commit a run is dispatched, or it is closed (U-9)."""


Durable = Abort | Detach | Begin
"""Acts that follow the durability of what says so."""


class TurnObserver(Protocol):
    """Who counts turns that begin."""

    def run_started(self, waited_seconds: float) -> None:
        """A run's floor turn begins, so long after its accept."""
        ...


class Conductor:
    """Performs the steps of the core. All methods are called on the event loop's thread, and none of them waits."""

    def __init__(self, parts: Parts, terminals: Terminals, observer: TurnObserver | None) -> None:
        self.parts = parts
        self.core = parts.core
        self.terminals = terminals
        self._observer = observer
        self._facts = Facts(self.parts, terminals, self._durably_over)
        self._alarm = Alarm(parts.core, parts.clock, self._due)
        self._turns: dict[int, DrivenTurn] = {}
        self._errands = Errands()
        self._planner: TurnPlanner | None = None
        self._titles: TitleMaker | None = None
        self._still: asyncio.Future[None] | None = None

    def driven_by(self, planner: TurnPlanner, titles: TitleMaker) -> None:
        """Say who plans turns, and who makes titles beside them."""
        self._planner, self._titles = planner, titles

    # ---- steps

    def perform(
        self, step: Step[Any], draft: tuple[Session, Draft] | None = None
    ) -> Mapping[Key, asyncio.Future[None]]:
        """Do what a step leads to; the draft, of its session, holds what else the commit has. Returns the commits.

        Whoever needs the answer of the step takes note of it before: it may be over in the step that began it.
        """
        if step.wake_at is not None:
            self._alarm.wake_at(step.wake_at)
        commits: dict[Key, asyncio.Future[None]] = {}
        if step.effects or draft is not None:
            self._perform(step.effects, draft, commits)
        if self._still is not None:
            self._look_whether_still()
        return commits

    def _perform(
        self,
        effects: Sequence[Fact | Act],
        draft: tuple[Session, Draft] | None,
        commits: dict[Key, asyncio.Future[None]],
    ) -> None:
        given = None if draft is None else draft[0].key
        by_session: dict[Key, tuple[list[Fact], list[Durable]]] = {} if given is None else {given: ([], [])}
        acts: list[Act] = []
        for effect in effects:
            facts, after = by_session.setdefault(effect.key, ([], []))  # type: ignore[union-attr]
            if isinstance(effect, Fact):
                facts.append(effect)
            elif isinstance(effect, (Abort, Detach)) or (isinstance(effect, Begin) and effect.turn.id in self._turns):
                after.append(effect)
            else:
                acts.append(effect)
        for key, (facts, after) in by_session.items():
            future = self._commit(facts, after, draft if key == given else None)
            if future is not None:
                commits[key] = future
        for act in acts:
            self._act(act)

    def _commit(
        self, facts: Sequence[Fact], after: Sequence[Durable], draft: tuple[Session, Draft] | None
    ) -> asyncio.Future[None] | None:
        """Write one session's facts and submit them; what has to be durable first comes behind."""
        acts = [partial(self._act, act) for act in after]
        try:
            future = self._facts.submit(facts, draft, acts)
        except Exception as error:
            if draft is not None or not any(isinstance(fact, RunOver) for fact in facts):
                raise
            # Its run ends all the same, by as little as there can be wrong with; only if that fails is all lost.
            log.error("the end of a run could not be written", run_id=_run_of(facts), exc_info=error)
            future = self._facts.submit(facts, None, acts, is_barest=True)
        if future is None and after:
            # A deadline writes nothing. What it cuts may not have begun, or not be cut by then, durably.
            self.parts.runs[(after[0].turn.tenant, after[0].turn.run.run_id)].session.behind_all(acts)
        return future

    def _act(self, act: Act) -> None:
        match act:
            case Begin(turn):
                self._begin(turn)
            case GoOn(turn):
                self._go_on(self._turns[turn.id])
            case Stop(turn):
                self._turns[turn.id].stop()
            case Came(turn, wait, what):
                self._turns[turn.id].came(wait, what)
            case Resume(turn):
                self._drive(turn)
            case Abort(turn):
                self._abort(turn)
            case Detach(turn):
                driven = self._turns.get(turn.id)
                if driven is not None:
                    log.warning("work ignores its cancel and is detached", run_id=driven.run.run_id)
                    driven.detach()
            case Errand(errand, what):
                self._errands.tell(errand, what)
            case _:
                raise AssertionError(f"nobody performs {act!r}")

    # ---- turns

    def _abort(self, ref: TurnRef) -> None:
        """Cut a turn, unless it has ended before the cancel was durable."""
        driven = self._turns.get(ref.id)
        run = self.parts.runs.get((ref.tenant, ref.run.run_id))
        if driven is None and run is not None and run.driven is None:
            # It was cut before the crash, and nobody drives it yet.
            driven = self._drive(ref)
        if driven is not None:
            driven.abort()

    def _drive(self, ref: TurnRef) -> DrivenTurn:
        """Make ready what drives a turn. One that cannot be planned fails when it is to begin."""
        run = self.parts.runs[(ref.tenant, ref.run.run_id)]
        self.parts.shelf.leave(run)
        driven = DrivenTurn(self, run, ref.id, turn_id_of(run.session.slot, ref.id))
        self._turns[ref.id] = run.driven = driven
        assert self._planner is not None
        try:
            driven.turn = self._planner.turn(run, driven.turn_id, driven)
        except Exception as error:
            driven.fault = error
        return driven

    def may_start(self, run: Run) -> bool:
        """Whether a prompt may begin in the commit that accepts it: nothing has to be waited for first."""
        assert self._planner is not None
        checkpoints, wanted = self.parts.checkpoints, run.submission.preconditions.for_agent_id
        is_held = checkpoints is not None and checkpoints.is_held(run.run_id)
        if run.kind != event_pb2.RUN_KIND_PROMPT or is_held or wanted:
            return False
        try:
            return self._planner.may_begin(run)
        except Exception as error:
            # Its turn will meet it too, and fail by it.
            log.error("a turn could not be looked at", run_id=run.run_id, exc_info=error)
            return False

    def start_within(self, ref: TurnRef, draft: Draft) -> None:
        """Write the first step of a turn into the commit that accepts its run; it is taken once that is durable."""
        driven = self._drive(ref)
        if driven.fault is not None:
            raise driven.fault
        assert isinstance(driven.turn, FloorTurn)
        driven.turn.begin(draft)

    def take_back(self, run: Run) -> None:
        """The commit that accepts a run was not submitted: there is no trace of it, nor of its turn."""
        if run.driven is not None:
            self._turns.pop(run.driven.key, None)
            run.driven = None
        self.parts.forget(run)
        if not self.parts.is_cut:
            self.perform(self.core.abandon(run.session.key, run.run_id))

    def _begin(self, ref: TurnRef) -> None:
        driven = self._turns.get(ref.id)
        if driven is None:
            driven = self._drive(ref)
        run = driven.run
        if run.cancel is not None and run.cancel.mode != event_pb2.CANCEL_MODE_STOP:
            # Cut before its accept was durable: what follows from that ends it.
            return
        run.started_us = int(self.parts.clock.time() * 1e6)
        if self._observer is not None:
            self._observer.run_started(self.parts.clock.time() - run.created_us / 1e6)
        self._start(driven)

    def _go_on(self, driven: DrivenTurn) -> None:
        if driven.task is None:
            self._start(driven)
        else:
            driven.go_on()

    def _start(self, driven: DrivenTurn) -> None:
        """Let a turn take its first step, or the next one after a restart, unless its run ends without a model call."""
        run, turn = driven.run, driven.turn
        if turn is None:
            driven.fail(driven.fault or AssertionError("the turn was not planned"))
            return
        end = outcomes.refusal(run)
        if end is not None:
            self.conclude(run, driven.key, end)
            return
        try:
            driven.begin()
        except Exception as error:
            driven.fail(error)

    async def prepare(self, run: Run, turn: Turn) -> None:
        """Have a title made beside a turn, and read what it needs before its first step. Raises StoreError."""
        assert self._planner is not None
        await self.parts.shelf.read(run)
        if self._titles is not None:
            self._titles.begin(run, turn.plan.model, turn.plan.session_hash)
        await self._planner.prepare(turn.plan)

    def conclude(
        self, run: Run, key: int, end: TurnEnd, *, may_step: bool = False, is_cut: bool = False
    ) -> Sequence[RunRef] | None:
        """Propose the end of a turn: None where it is over and submitted, else what is folded first."""
        step = self.core.conclude(
            run.session.key,
            key,
            "cut" if is_cut else "answer" if end.status == COMPLETED else "failed",
            may_step=may_step,
            most=self.parts.most_steers(run),
        )
        answer = step.answer
        if answer.status == "goes_on":
            assert answer.fold is not None
            lent = answer.fold.steers
            self.perform(step)
            return lent
        assert answer.status == "concluded", answer.status
        assert answer.end is not None
        self._turns.pop(key).concluded(answer.end, end)
        self.perform(step)
        return None

    def may_end(self, run: Run, error: BaseException | None) -> bool:
        """Whether a turn that did not end by itself gets its end now; else it is left to recovery."""
        if self.parts.is_cut:
            return False
        if isinstance(error, StoreError):
            if self.parts.store.failure.done():
                return False
            # Only a read failed: the store still takes the terminal.
            log.error("a turn could not read its session", run_id=run.run_id, detail=str(error))
        return True

    # ---- what follows durability

    def _durably_over(self, run: Run) -> None:
        """The terminal of the open run is durable: the floor is free before anybody sees it (U-10)."""
        if not self.parts.is_cut:
            self.perform(self.core.finish(run.session.key, run.run_id))

    def dispatch(self, run: Run) -> None:
        """Let the core decide about a run whose accept is durable."""
        held = self.parts.reach("dispatch", run.run_id)
        if held is None:
            self._dispatch(run)
            return

        async def later() -> None:
            await held
            self._dispatch(run)

        self.perform(self.core.arm_reservation(run.session.key, run.run_id, RESERVATION_SECONDS))
        self.parts.owner.spawn(f"dispatch {run.run_id}", later())

    def _dispatch(self, run: Run) -> None:
        if run.key not in self.parts.runs or self.parts.is_cut:
            return
        step = self.core.dispatch(run.session.key, run.run_id)
        run.steers = step.answer.steers
        self.perform(step)
        self.stands(run)

    def stands(self, run: Run) -> None:
        """Where a durable run was left in line, its prompt need not stay in memory."""
        if run.driven is None and not run.is_ending and run.key in self.parts.runs:
            self.parts.shelf.put(run)

    def expect(self, errand: int) -> asyncio.Future[str]:
        """What becomes of an errand that waits for its place."""
        return self._errands.expect(errand)

    # ---- time, and the end of the process

    def _due(self) -> None:
        """Deadlines have passed: each is a step of its own."""
        try:
            for _, step in self.core.due():
                self.perform(step)
        except Exception as error:
            self.parts.owner.fault("deadlines", error)

    def drain(self) -> None:
        """Begin nothing any more (U-17)."""
        if self.parts.is_serving:
            self.perform(self.core.drain("draining"))

    def cut(self) -> None:
        """Take no step any more: what is open is left to recovery. Idempotent."""
        self._alarm.stop()
        self.parts.shelf.stop()
        if not self.parts.is_cut:
            self.core.drain("cut")

    async def still(self) -> None:
        """Wait until no turn runs; those that wait for somebody do not (U-17)."""
        self._still = asyncio.get_running_loop().create_future()
        self._look_whether_still()
        try:
            await self._still
        finally:
            self._still = None

    def _look_whether_still(self) -> None:
        still = self._still
        is_over = not any(run.driven is not None and run.driven.is_busy for run in self.parts.runs.values())
        if still is not None and is_over and not still.done():
            still.set_result(None)


def _run_of(facts: Sequence[Fact]) -> str:
    return next((fact.run.run_id for fact in facts if isinstance(fact, RunOver)), "")

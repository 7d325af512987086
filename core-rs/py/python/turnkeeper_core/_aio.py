"""The scheduler for asyncio programs: a turn is an ``async with`` block.

``AsyncScheduler`` drives the core from one event loop. Each call is a step of the core, whose effects say which blocks
begin, go on or end; one timer stands for all deadlines, nothing polls, and when the last block is left nothing is kept.
"""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, TypeVar

from turnkeeper_core._core import (
    Abort,
    Act,
    Begin,
    Came,
    Cancel,
    Cancelled,
    Closed,
    Fact,
    GoOn,
    Limits,
    RunOver,
    Scheduler,
    Snapshot,
    Stats,
    Step,
    Stop,
)
from turnkeeper_core._core import Hold as HoldView
from turnkeeper_core._literals import Delivery, Kind
from turnkeeper_core._turn import RunCancelled, RunExpired, RunFolded, Turn

_Key = tuple[str, str, str]
_T = TypeVar("_T")


class _Block:
    """One ``async with``: waits for its start, and is left exactly once."""

    def __init__(
        self,
        scheduler: "AsyncScheduler",
        key: _Key,
        kind: Kind,
        delivery: Delivery,
        require_idle: bool,
        expected_open_run_id: str | None,
        start_timeout: float | None,
        run_timeout: float | None,
    ) -> None:
        self._scheduler = scheduler
        self._key = key
        self._kind: Kind = kind
        self._delivery: Delivery = delivery
        self._require_idle = require_idle
        self._expected = expected_open_run_id
        self._start_timeout = start_timeout
        self._run_timeout = run_timeout
        self.turn: Turn | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._abort: Exception | None = None
        # None: the turn begins. An exception is a result here, so that nobody has to retrieve it.
        self._start: asyncio.Future[Exception | None] | None = None

    async def __aenter__(self) -> Turn:
        if self._task is not None:
            raise RuntimeError("a turn is entered once")
        self._task = asyncio.current_task()
        if self._task is None:
            raise RuntimeError("a turn needs a task")
        self._cancelling = self._task.cancelling()
        self._start = asyncio.get_running_loop().create_future()
        scheduler = self._scheduler
        step = scheduler.core.accept(
            *self._key,
            scheduler.now(),
            kind=self._kind,
            delivery=self._delivery,
            require_idle=self._require_idle,
            expected_open_run_id=self._expected,
            start_timeout=self._start_timeout,
            run_timeout=self._run_timeout,
            may_start=True,
        )
        self.turn = turn = Turn(scheduler, *self._key, step.answer.sequence)
        scheduler._blocks[self._key] = self
        try:
            if scheduler._perform(step).starts is None:
                scheduler._perform(scheduler.core.dispatch(*self._key, scheduler.now()))
            failed = self._start.result() if self._start.done() else await self._start
        except BaseException as error:
            self._withdraw()
            if self._is_ours(error) and self._abort is not None:
                raise self._abort from error
            raise
        if failed is not None:
            raise failed
        return turn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        turn = self.turn
        if turn is None:
            raise RuntimeError("the turn was not entered")
        self._leave(turn, is_failed=error is not None)
        if self._abort is None:
            return
        if error is None:
            # The body may have ended before the cancellation reached it, which must not hit what comes after the block.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as late:
                if not self._is_ours(late):
                    raise
                return
        if self._is_ours(error):
            raise self._abort from error

    def begin(self, turn_id: int) -> None:
        if self.turn is not None and self._start is not None and not self._start.done():
            self.turn._id = turn_id
            self._start.set_result(None)

    def end(self, error: Exception) -> None:
        """The run is over and never began."""
        del self._scheduler._blocks[self._key]
        if self._start is not None and not self._start.done():
            self._start.set_result(error)

    def stop(self, cancel: Cancel | None) -> None:
        if self.turn is not None:
            self.turn.cancel = cancel
            self.turn.cancelled.set()

    def abort(self, cancel: Cancel | None) -> None:
        self.stop(cancel)
        if self._abort is None and self._task is not None:
            run_id = self._key[2]
            self._abort = RunExpired(run_id) if cancel is None else RunCancelled(run_id, cancel)
            self._task.cancel()

    def _is_ours(self, error: BaseException | None) -> bool:
        """Whether the cancellation of the task came from the scheduler alone (as in ``asyncio.timeout``)."""
        if self._abort is None or self._task is None:
            return False
        return self._task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError)

    def _leave(self, turn: Turn, *, is_failed: bool) -> None:
        scheduler, at = self._scheduler, turn._at
        del scheduler._blocks[self._key]
        if turn._is_over:
            scheduler._finish(self._key)
        elif not turn._is_concluded:
            turn._is_concluded = True
            proposal: Final = "failed" if is_failed else "answer"
            scheduler._perform(scheduler.core.conclude(*at, turn._id, proposal, scheduler.now(), may_step=False))

    def _withdraw(self) -> None:
        """The task does not wait any more: its run is cancelled, and ended if it has just begun."""
        scheduler, turn = self._scheduler, self.turn
        if turn is not None and turn._id:
            self._leave(turn, is_failed=True)
        elif self._key in scheduler._blocks:
            scheduler._perform(scheduler.core.cancel_run(*self._key, Cancel("TASK_CANCELLED"), scheduler.now()))


class AsyncScheduler:
    """The scheduler as one event loop uses it. Not thread-safe, as nothing of asyncio is.

    Example::

        scheduler = AsyncScheduler()
        async with scheduler.turn("session", "run") as turn:
            ...  # one at a time per session, in the order of arrival
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        epoch: int = 0,
        last_sequence: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.core: Final = Scheduler(limits, epoch=epoch, last_sequence=last_sequence)
        self.now: Final = clock
        self._blocks: dict[_Key, _Block] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def turn(
        self,
        session_id: str,
        run_id: str,
        *,
        tenant: str = "default",
        kind: Kind = "prompt",
        delivery: Delivery = "queue",
        require_idle: bool = False,
        expected_open_run_id: str | None = None,
        start_timeout: float | None = None,
        run_timeout: float | None = None,
    ) -> _Block:
        """Stand in the session's line, and hold its floor for the length of the block.

        Entering raises what ``Scheduler.accept`` raises, RunCancelled if the run is cancelled before it starts,
        RunExpired if it takes too long until then, and RunFolded if another turn takes it in. Cancelling the task that
        waits cancels the run. A block that is cancelled by the scheduler, or takes too long, has its task cancelled,
        and ends with RunCancelled or RunExpired.

        Args: session_id: The session whose floor is wanted. run_id: Its name, unique in the session while it is here.
        tenant: Owner of the session. kind: What the run does. delivery: How it reaches the session. require_idle:
        Refuse unless nothing else is in the session. expected_open_run_id: Refuse unless this run is open.
        start_timeout: Seconds until the block has to begin. run_timeout: Seconds that it may take from then.
        """
        key = (tenant, session_id, run_id)
        return _Block(self, key, kind, delivery, require_idle, expected_open_run_id, start_timeout, run_timeout)

    def cancel_session(
        self, session_id: str, cancel: Cancel, *, tenant: str = "default", up_to: int | None = None
    ) -> Cancelled:
        """Cancel all that the session accepted so far, or up to a sequence."""
        return self._perform(self.core.cancel_session(tenant, session_id, cancel, self.now(), up_to=up_to))

    def clear_queue(
        self, session_id: str, cancel: Cancel, *, tenant: str = "default", up_to: int | None = None
    ) -> Cancelled:
        """The same, but for the block that runs and for runs of kind bootstrap."""
        return self._perform(self.core.clear_queue(tenant, session_id, cancel, self.now(), up_to=up_to))

    def cancel_run(self, session_id: str, run_id: str, cancel: Cancel, *, tenant: str = "default") -> Cancelled:
        """Cancel one run."""
        return self._perform(self.core.cancel_run(tenant, session_id, run_id, cancel, self.now()))

    def cancel_tenant(self, tenant: str, cancel: Cancel) -> Cancelled:
        """Cancel all that the tenant's sessions accepted so far."""
        return self._perform(self.core.cancel_tenant(tenant, cancel, self.now()))

    def drain(self) -> None:
        """Start nothing any more; blocks that wait, or leave a parked one, go on waiting until they are cancelled."""
        self._perform(self.core.drain("draining", self.now()))

    def holds(self, session_id: str, run_id: str, *, tenant: str = "default") -> list[HoldView]:
        """Why a run is not over: each reason, since when and until when."""
        return self.core.holds(tenant, session_id, run_id)

    def snapshot(self, session_id: str, *, tenant: str = "default") -> Snapshot | None:
        """The session as it is, None if it has no work."""
        return self.core.snapshot(tenant, session_id)

    def stats(self) -> Stats:
        """Counts over all sessions."""
        return self.core.stats()

    def _perform(self, step: Step[_T]) -> _T:
        """Do what a step says, in its order; what that leads to comes after it."""
        for effect in step.effects:
            self._do(effect)
        if step.wake_at is not None:
            self._wake_at(step.wake_at)
        if self._timer is not None and self.core.next_due() is None:
            self._timer.cancel()
            self._timer = None
        return step.answer

    def _do(self, effect: Fact | Act) -> None:
        match effect:
            case Begin(turn):
                if block := self._blocks.get((*turn.key, turn.run.run_id)):
                    block.begin(turn.id)
            case GoOn(turn):
                if (block := self._blocks.get((*turn.key, turn.run.run_id))) and block.turn:
                    block.turn._go_on()
            case Came(turn, wait, "due"):
                if (block := self._blocks.get((*turn.key, turn.run.run_id))) and block.turn:
                    block.turn._come(wait)
            case Stop(turn, _, cancel):
                if block := self._blocks.get((*turn.key, turn.run.run_id)):
                    block.stop(cancel)
            case Abort(turn, _, cancel):
                if block := self._blocks.get((*turn.key, turn.run.run_id)):
                    block.abort(cancel)
            case Closed(run, _, cancel, into):
                if block := self._blocks.get((*run.key, run.run_id)):
                    if into is not None:
                        block.end(RunFolded(run.run_id, into.run.run_id))
                    else:
                        block.end(RunExpired(run.run_id) if cancel is None else RunCancelled(run.run_id, cancel))
            case RunOver(run):
                key = (*run.key, run.run_id)
                if (block := self._blocks.get(key)) and block.turn:
                    block.turn._is_over = True
                else:
                    self._finish(key)

    def _finish(self, key: _Key) -> None:
        """The floor is free: nobody waits for anything to be durable here."""
        self._perform(self.core.finish(*key, self.now()))

    def _wake_at(self, when: float) -> None:
        if self._timer is None or when < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            loop = asyncio.get_running_loop()
            self._timer_at = when
            self._timer = loop.call_later(max(0.0, when - self.now()), self._due)

    def _due(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _, step in self.core.due(self.now()):
            self._perform(step)
        if (when := self.core.next_due()) is not None:
            self._wake_at(when)

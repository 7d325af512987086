"""The scheduler for asyncio programs: a turn is an ``async with`` block.

``AsyncScheduler`` drives the core from one event loop. Each call is a step of the core, whose answer says which waiting
blocks may begin; nothing runs in the background, nothing polls, and when the last block is left nothing is kept.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final

from turnkeeper_core._core import Cancel, CancelResult, Covered, Limits, RunRef, Scheduler, Snapshot, Stats
from turnkeeper_core._literals import Delivery, Kind

_Key = tuple[str, str, str]


class RunCancelled(Exception):
    """The run was cancelled by the scheduler: before its block began, or while it ran."""

    def __init__(self, run_id: str, cancel: Cancel) -> None:
        super().__init__(run_id, cancel)
        self.run_id = run_id
        self.cancel = cancel

    def __str__(self) -> str:
        return f"run {self.run_id} was cancelled: {self.cancel.reason}"


class RunFolded(Exception):
    """The run was taken into the turn of another one, and has none of its own."""

    def __init__(self, run_id: str, into_run_id: str) -> None:
        super().__init__(run_id, into_run_id)
        self.run_id = run_id
        self.into_run_id = into_run_id

    def __str__(self) -> str:
        return f"run {self.run_id} was folded into {self.into_run_id}"


class Turn:
    """A run that has the floor of its session until its block is left."""

    def __init__(self, scheduler: "AsyncScheduler", tenant: str, session_id: str, run_id: str, sequence: int) -> None:
        self.tenant: Final = tenant
        self.session_id: Final = session_id
        self.run_id: Final = run_id
        self.sequence: Final = sequence
        self.cancelled: Final = asyncio.Event()
        self.cancel: Cancel | None = None
        self._scheduler = scheduler
        self._concluded = False
        self._goes_on: asyncio.Future[None] | None = None

    def raise_if_cancelled(self) -> None:
        """Raise RunCancelled if a cancel reached the turn; a stop is only seen here and in ``cancelled``."""
        if self.cancel is not None:
            raise RunCancelled(self.run_id, self.cancel)

    def fold(self, limit: int | None = None) -> list[RunRef]:
        """Take the STEER runs bound to this turn; their blocks end with RunFolded."""
        core = self._scheduler.core
        partition = core.partition(self.tenant, self.session_id, self.run_id, limit=limit)
        return self._scheduler._folded(self.run_id, partition.fold)

    @asynccontextmanager
    async def parked(self) -> AsyncIterator[None]:
        """Give the permit back for the length of a block that waits for somebody else; the floor is kept.

        Leaving the block waits for the permit, ahead of turns that have not begun. A block that is cancelled does not:
        its turn ends without one.
        """
        scheduler = self._scheduler
        at = (self.tenant, self.session_id, self.run_id)
        scheduler._begin(scheduler.core.park(*at, scheduler.now()))
        try:
            yield
        except Exception:
            await self._wake(at)
            raise
        await self._wake(at)

    async def _wake(self, at: _Key) -> None:
        if self._scheduler.core.wake(*at, self._scheduler.now()) == "running":
            return
        self._goes_on = asyncio.get_running_loop().create_future()
        try:
            await self._goes_on
        finally:
            self._goes_on = None

    def _go_on(self) -> None:
        if self._goes_on is not None and not self._goes_on.done():
            self._goes_on.set_result(None)

    def conclude(self, limit: int | None = None) -> list[RunRef]:
        """Propose the answer as final: empty if it is, else the STEER runs that came first and go on in this turn."""
        conclusion = self._scheduler.core.conclude(self.tenant, self.session_id, self.run_id, answer=True, limit=limit)
        self._concluded = conclusion.status != "steered"
        return self._scheduler._folded(self.run_id, conclusion.fold)


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
    ) -> None:
        self._scheduler = scheduler
        self._key = key
        self._kind: Kind = kind
        self._delivery: Delivery = delivery
        self._require_idle = require_idle
        self._expected = expected_open_run_id
        self._turn: Turn | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._abort: Cancel | None = None
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
        accepted = scheduler.core.accept(
            *self._key,
            scheduler.now(),
            kind=self._kind,
            delivery=self._delivery,
            require_idle=self._require_idle,
            expected_open_run_id=self._expected,
        )
        self._turn = turn = Turn(scheduler, *self._key, accepted.sequence)
        scheduler._blocks[self._key] = self
        try:
            scheduler._covered(accepted.replaced)
            scheduler._begin(accepted.starts)
            scheduler._begin(scheduler.core.dispatch(*self._key, scheduler.now()).starts)
            failed = self._start.result() if self._start.done() else await self._start
        except BaseException as error:
            self._withdraw()
            if self._is_ours(error) and self._abort is not None:
                raise RunCancelled(turn.run_id, self._abort) from error
            raise
        if failed is not None:
            del scheduler._blocks[self._key]
            raise failed
        return turn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        turn = self._turn
        if turn is None:
            raise RuntimeError("the turn was not entered")
        self._leave(turn)
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
            raise RunCancelled(turn.run_id, self._abort) from error

    def begin(self) -> None:
        if self._start is not None and not self._start.done():
            self._start.set_result(None)
        elif self._turn is not None:
            self._turn._go_on()

    def end(self, error: Exception) -> None:
        if self._start is not None and not self._start.done():
            self._start.set_result(error)

    def cover(self, covered: Covered) -> None:
        """Pass a cancel on: to one that waits for its start as the end of the wait, to a running one as asked."""
        turn = self._turn
        if turn is None or self._task is None:
            return
        if covered.was not in ("running", "parked", "woken"):
            self.end(RunCancelled(turn.run_id, covered.cancel))
            return
        turn.cancel = covered.cancel
        turn.cancelled.set()
        if covered.cancel.mode == "abort" and self._abort is None:
            self._abort = covered.cancel
            self._task.cancel()

    def _is_ours(self, error: BaseException | None) -> bool:
        """Whether the cancellation of the task came from the scheduler alone (as in ``asyncio.timeout``)."""
        if self._abort is None or self._task is None:
            return False
        return self._task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError)

    def _leave(self, turn: Turn) -> None:
        scheduler = self._scheduler
        if not turn._concluded:
            turn._concluded = True
            scheduler.core.conclude(*self._key, answer=False)
        starts = scheduler.core.finish(*self._key, scheduler.now())
        del scheduler._blocks[self._key]
        scheduler._begin(starts)

    def _withdraw(self) -> None:
        """The task does not wait any more: its run is cancelled, or ended if it has just begun."""
        scheduler = self._scheduler
        result = scheduler.core.cancel_run(*self._key, Cancel("TASK_CANCELLED"), scheduler.now())
        if self._turn is not None and any(covered.was == "running" for covered in result.covered):
            self._leave(self._turn)
        else:
            del scheduler._blocks[self._key]
        scheduler._begin(result.starts)


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
    ) -> _Block:
        """Stand in the session's line, and hold its floor for the length of the block.

        Entering raises what ``Scheduler.accept`` raises, RunCancelled if the run is cancelled before it starts, and
        RunFolded if another turn takes it in. Cancelling the task that waits cancels the run. A block that is cancelled
        by the scheduler has its task cancelled, and ends with RunCancelled.

        Args:
            session_id: The session whose floor is wanted.
            run_id: Its name, unique in the session while it is here.
            tenant: Owner of the session.
            kind: What the run does.
            delivery: How it reaches the session.
            require_idle: Refuse unless nothing else is in the session.
            expected_open_run_id: Refuse unless this run is open.
        """
        key = (tenant, session_id, run_id)
        return _Block(self, key, kind, delivery, require_idle, expected_open_run_id)

    def cancel_session(
        self,
        session_id: str,
        cancel: Cancel,
        *,
        tenant: str = "default",
        up_to: int | None = None,
        spare_open: bool = False,
        spare_bootstrap: bool = False,
    ) -> CancelResult:
        """Cancel all that the session accepted so far, or up to a sequence."""
        result = self.core.cancel_session(
            tenant,
            session_id,
            cancel,
            self.now(),
            up_to=up_to,
            spare_open=spare_open,
            spare_bootstrap=spare_bootstrap,
        )
        return self._cancelled(result)

    def cancel_run(self, session_id: str, run_id: str, cancel: Cancel, *, tenant: str = "default") -> CancelResult:
        """Cancel one run."""
        return self._cancelled(self.core.cancel_run(tenant, session_id, run_id, cancel, self.now()))

    def cancel_tenant(self, tenant: str, cancel: Cancel) -> CancelResult:
        """Cancel all that the tenant's sessions accepted so far."""
        return self._cancelled(self.core.cancel_tenant(tenant, cancel, self.now()))

    def drain(self) -> None:
        """Start nothing any more; blocks that wait, or leave a parked one, go on waiting until they are cancelled."""
        self.core.drain()

    def snapshot(self, session_id: str, *, tenant: str = "default") -> Snapshot | None:
        """The session as it is, None if it has no work."""
        return self.core.snapshot(tenant, session_id)

    def stats(self) -> Stats:
        """Counts over all sessions."""
        return self.core.stats()

    def _cancelled(self, result: CancelResult) -> CancelResult:
        self._covered(result.covered)
        self._begin(result.starts)
        return result

    def _covered(self, runs: Iterable[Covered]) -> None:
        for covered in runs:
            if block := self._blocks.get(_key(covered.run)):
                block.cover(covered)

    def _begin(self, starts: Iterable[RunRef]) -> None:
        for run in starts:
            if block := self._blocks.get(_key(run)):
                block.begin()

    def _folded(self, into_run_id: str, runs: list[RunRef]) -> list[RunRef]:
        for run in runs:
            if block := self._blocks.get(_key(run)):
                block.end(RunFolded(run.run_id, into_run_id))
        return runs


def _key(run: RunRef) -> _Key:
    return (run.tenant, run.session_id, run.run_id)

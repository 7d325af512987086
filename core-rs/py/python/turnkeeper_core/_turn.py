"""A turn as its ``async with`` block sees it, and the ways in which the scheduler ends it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol, TypeVar

from turnkeeper_core._core import Cancel, RunRef, Scheduler, Step

_Key = tuple[str, str, str]
_T = TypeVar("_T")


class _Driver(Protocol):
    """What a turn needs of the scheduler that it belongs to."""

    @property
    def core(self) -> Scheduler: ...

    @property
    def now(self) -> Callable[[], float]: ...

    def _perform(self, step: Step[_T]) -> _T: ...


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


class RunExpired(TimeoutError):
    """The run did not begin, or did not end, in the time that it had."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id

    def __str__(self) -> str:
        return f"the time of run {self.run_id} is over"


class Hold:
    """Something that keeps a run from being over, beyond its block; the next run of the session waits for it too."""

    def __init__(self, scheduler: _Driver, key: _Key, number: int) -> None:
        self._scheduler = scheduler
        self._key = key
        self._number = number

    def release(self) -> bool:
        """Let go. False: it was released before, or its time was over."""
        scheduler = self._scheduler
        return scheduler._perform(scheduler.core.release(*self._key, self._number, scheduler.now()))


class Turn:
    """A run that has the floor of its session until its block is left."""

    def __init__(self, scheduler: _Driver, tenant: str, session_id: str, run_id: str, sequence: int) -> None:
        self.tenant: Final = tenant
        self.session_id: Final = session_id
        self.run_id: Final = run_id
        self.sequence: Final = sequence
        self.cancelled: Final = asyncio.Event()
        self.cancel: Cancel | None = None
        self._scheduler = scheduler
        self._id = 0
        self._is_concluded = False
        self._is_over = False
        self._goes_on: asyncio.Future[None] | None = None
        self._limits: dict[int, asyncio.Timeout] = {}

    def raise_if_cancelled(self) -> None:
        """Raise RunCancelled if a cancel reached the turn; a stop is only seen here and in ``cancelled``."""
        if self.cancel is not None:
            raise RunCancelled(self.run_id, self.cancel)

    def fold(self, limit: int | None = None) -> list[RunRef]:
        """Take the STEER runs bound to this turn; their blocks end with RunFolded.

        Raises BadStateError after its end.
        """
        scheduler = self._scheduler
        point = scheduler._perform(scheduler.core.fold_point(*self._at, self._id, scheduler.now(), most=limit))
        return self._taken(point.steers)

    def conclude(self, limit: int | None = None) -> list[RunRef]:
        """Propose the answer as final: empty if it is, else the STEER runs that came first and go on in this turn."""
        scheduler = self._scheduler
        if self._is_concluded:
            return []
        step = scheduler.core.conclude(*self._at, self._id, "answer", scheduler.now(), most=limit)
        conclusion = scheduler._perform(step)
        if conclusion.fold is not None:
            return self._taken(conclusion.fold.steers)
        self._is_concluded = True
        return []

    def hold(self, label: str, timeout: float | None = None) -> Hold:
        """Keep the run from being over until the hold is released, or its time (seconds) is over."""
        scheduler = self._scheduler
        now = scheduler.now()
        deadline = None if timeout is None else now + timeout
        step = scheduler.core.hold(*self._key, label, now, deadline=deadline)
        return Hold(scheduler, self._key, scheduler._perform(step))

    @asynccontextmanager
    async def parked(self, label: str = "", timeout: float | None = None) -> AsyncIterator[None]:
        """Give the permit back for the length of a block that waits for somebody else; the floor is kept.

        Leaving the block waits for the permit, ahead of turns that have not begun. A block that is cancelled does not:
        its turn ends without one. Raises TimeoutError where the block takes longer than ``timeout`` seconds.
        """
        scheduler = self._scheduler
        now = scheduler.now()
        deadline = None if timeout is None else now + timeout
        step = scheduler.core.wait(*self._at, self._id, "tool", now, label=label, deadline=deadline)
        wait = scheduler._perform(step).id
        try:
            async with asyncio.timeout(None) as limit:
                self._limits[wait] = limit
                yield
        except Exception:
            await self._come_back(wait)
            raise
        finally:
            self._limits.pop(wait, None)
        await self._come_back(wait)

    async def _come_back(self, wait: int) -> None:
        """The wait is over, if its deadline has not ended it: wait for the permit."""
        scheduler = self._scheduler
        self._goes_on = self._goes_on or asyncio.get_running_loop().create_future()
        try:
            scheduler._perform(scheduler.core.waited(*self._at, self._id, wait, scheduler.now()))
            await self._goes_on
        finally:
            self._goes_on = None

    def _come(self, wait: int) -> None:
        """The time of a wait is over. The permit may be there before the block has heard of it."""
        loop = asyncio.get_running_loop()
        self._goes_on = self._goes_on or loop.create_future()
        if limit := self._limits.get(wait):
            limit.reschedule(loop.time())

    def _go_on(self) -> None:
        if self._goes_on is not None and not self._goes_on.done():
            self._goes_on.set_result(None)

    def _taken(self, steers: list[RunRef]) -> list[RunRef]:
        scheduler = self._scheduler
        scheduler._perform(scheduler.core.taken(*self._at, self._id, scheduler.now()))
        return steers

    @property
    def _at(self) -> tuple[str, str]:
        return self.tenant, self.session_id

    @property
    def _key(self) -> _Key:
        return self.tenant, self.session_id, self.run_id

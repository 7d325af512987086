"""The place of a model call in the line before its provider, as the core keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Protocol

from turnkeeper_service.errors import Refused
from turnkeeper_service.providers.base import FailureReason, ProviderError
from turnkeeper_service.providers.options import CallLimits
from turnkeeper_service.runs.performing import Performing
from turnkeeper_service.runs.scheduler import Key, LaneFullError
from turnkeeper_service.runs.session.run import Run

from .turn_wait import TurnWait


class LaneTurn(Protocol):
    """A turn that asks for its place."""

    run: Run
    key: int

    def waits_for(self, wait: TurnWait) -> None:
        """Take a wait that the core has begun."""
        ...

    def wait_ends(self, wait_id: int) -> None:
        """What it waited for has come."""
        ...

    def permit(self) -> Awaitable[object] | None:
        """A wait for its permit; None where it has it."""
        ...


class Lane:
    """One call of a turn to a provider whose calls are bounded. Who waits for it has no permit meanwhile."""

    def __init__(self, conductor: Performing, driven: LaneTurn, provider: str, bounds: CallLimits) -> None:
        self._conductor = conductor
        self._driven = driven
        self._provider = provider
        self._bounds = bounds
        self._place = 0

    async def __aenter__(self) -> None:
        core, driven = self._conductor.core, self._driven
        key = driven.run.session.key
        try:
            step = core.enter_lane(key, driven.key, self._provider, self._bounds.max_wait)
        except LaneFullError:
            raise busy(f"{self._bounds.max_waiting} calls are waiting for this provider.") from None
        self._place = step.answer.id
        if step.answer.is_in:
            self._conductor.perform(step)
            return
        wait = TurnWait(driven.wait_ends, self._place, "lane", is_parked=step.answer.parked)
        driven.waits_for(wait)
        self._conductor.perform(step)
        await wait.came
        permit = driven.permit()
        if permit is not None:
            await permit
        if not wait.is_granted:
            raise busy(f"The call had no turn within {self._bounds.max_wait:g} s.")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._conductor.parts.is_cut:
            self._conductor.perform(
                self._conductor.core.leave_lane(self._driven.run.session.key, self._driven.key, self._place)
            )


class Errands:
    """Those that wait for their place."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[str]] = {}

    def expect(self, errand: int) -> asyncio.Future[str]:
        """What becomes of one: ``in``, ``busy`` or ``cut``."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[errand] = future
        future.add_done_callback(lambda _: self._waiting.pop(errand, None))
        return future

    def tell(self, errand: int, what: str) -> None:
        """The core says what has become of one."""
        waiting = self._waiting.get(errand)
        if waiting is not None and not waiting.done():
            waiting.set_result(what)


class ErrandLane:
    """One call to a provider that is no turn's: it comes after the turns, and holds nothing up."""

    def __init__(self, conductor: Performing, key: Key, model: str) -> None:
        self._conductor = conductor
        self._key = key
        self._provider = model.partition("/")[0]
        self._bounds = conductor.parts.bounds.get(self._provider)
        self._place: int | None = None

    async def __aenter__(self) -> None:
        bounds = self._bounds
        if bounds is None:
            return
        conductor = self._conductor
        try:
            step = conductor.core.enter_lane(self._key, None, self._provider, bounds.max_wait)
        except LaneFullError:
            raise busy(f"{bounds.max_waiting} calls are waiting for this provider.") from None
        except Refused as refused:
            raise busy(refused.message) from None
        place = self._place = step.answer.id
        waiting = None if step.answer.is_in else conductor.expect(place)
        conductor.perform(step)
        if waiting is None:
            return
        try:
            what = await waiting
        except BaseException:
            self._leave()
            raise
        if what != "in":
            raise busy(f"The call had no turn within {bounds.max_wait:g} s.")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        place, self._place = self._place, None
        if place is not None and not self._conductor.parts.is_cut:
            self._conductor.perform(self._conductor.core.leave_lane(self._key, None, place))


def busy(detail: str) -> ProviderError:
    """The provider's line is too long; the call may be made again."""
    return ProviderError(FailureReason.PROVIDER_RATE_LIMITED, "Provider busy", detail, is_retryable=True)

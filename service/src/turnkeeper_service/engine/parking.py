"""Whether a turn needs its permit: not while every call under way waits for somebody outside (U-3).

Who waits is counted; when the last call that runs in this process is over, or begins to wait, the turn parks, and when
the first one comes back it is woken. The run says so in its log, in the commits that make it so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from turnkeeper_service.clock import Clock

from .journal import Draft
from .plan import TurnPlan
from .scheduling import Scheduling

RECOVERY = "recovery"
"""Why a run goes on that a lost process had said to wait."""


@dataclass(frozen=True, slots=True)
class OutsideWait:
    """What a call waits for, and since when, as `Clock.monotonic` says."""

    label: str
    since: float


class CallWait:
    """The wait of one call for somebody outside; see `turnkeeper_service.engine.approval.Waiting`."""

    def __init__(self, parking: Parking, call_id: str, label: str) -> None:
        self._parking = parking
        self._call_id = call_id
        self._label = label

    def begin(self, draft: Draft | None) -> None:
        """The call waits from now on."""
        self._parking.leave(self._call_id, self._label, draft)

    def end(self, draft: Draft | None) -> None:
        """It goes on in this process."""
        self._parking.come_back(self._call_id, draft)


class Parking:
    """The calls of a turn that are under way, and its permit."""

    def __init__(self, scheduling: Scheduling, clock: Clock, plan: TurnPlan, note: Callable[[str], None]) -> None:
        self._scheduling = scheduling
        self._clock = clock
        self._plan = plan
        self._note = note
        self._outside: dict[str, OutsideWait] = {}
        self._num_inside = 0
        self._is_parked = False
        self._is_told = plan.resume is not None and plan.resume.is_awaiting
        """Whether the log says that the run waits."""

    def waits(self) -> Sequence[tuple[str, float]]:
        """What a parked turn waits for, and since when; nothing where it is not parked."""
        return [(wait.label, wait.since) for wait in self._outside.values()] if self._is_parked else []

    async def permit(self) -> None:
        """Wait until the turn has its permit; at once where it has it."""
        wait = self._scheduling.permit()
        if wait is not None:
            self._note("permit")
            await wait

    def begin(self, num_calls: int) -> None:
        """So many calls come under way, when none is."""
        self._outside.clear()
        self._num_inside = num_calls

    def leave(self, call_id: str, label: str, draft: Draft | None) -> None:
        """A call begins to wait for somebody outside; ``draft`` is the commit that makes it so, if there is one."""
        if call_id not in self._outside:
            self._outside[call_id] = OutsideWait(label, self._clock.monotonic())
            self._num_inside -= 1
        self._settle()
        if self._is_parked and not self._is_told and draft is not None:
            self._tell_awaiting(draft)

    def come_back(self, call_id: str, draft: Draft | None) -> None:
        """A call runs in this process, or goes on in it after what it waited for has come."""
        wait = self._outside.pop(call_id, None)
        if wait is not None:
            self._num_inside += 1
        self._settle()
        self._tell(draft, wait)

    def end(self, call_id: str, draft: Draft) -> None:
        """A call has its result."""
        wait = self._outside.pop(call_id, None)
        if wait is None:
            self._num_inside -= 1
        self._settle()
        self._tell(draft, wait)

    def _settle(self) -> None:
        may_park = self._num_inside == 0 and bool(self._outside)
        if may_park and not self._is_parked:
            self._scheduling.park()
        elif self._is_parked and not may_park:
            self._scheduling.wake()
        self._is_parked = may_park

    def _tell(self, draft: Draft | None, wait: OutsideWait | None) -> None:
        if draft is None or self._is_parked == self._is_told:
            return
        if self._is_parked:
            self._tell_awaiting(draft)
            return
        self._is_told = False
        event = self._plan.event()
        event.run_resumed.cause = wait.label if wait is not None else RECOVERY
        draft.event(event)

    def _tell_awaiting(self, draft: Draft) -> None:
        self._is_told = True
        event = self._plan.event()
        event.run_awaiting.labels.extend(wait.label for wait in self._outside.values())
        draft.event(event)

"""The waits of a turn's calls for somebody outside, and what the log says of them.

Who waits and until when is the core's to know. A turn all of whose calls wait is parked (U-3); the run says so in its
log, in the commits that make it so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.engine.plan import TurnPlan
from turnkeeper_service.engine.scheduling import Scheduling, Wait, WaitKind

RECOVERY = "recovery"
"""Why a run goes on that a lost process had said to wait."""


class CallWait:
    """The wait of one call; see `turnkeeper_service.engine.approval.Waiting`."""

    def __init__(self, waits: Waits, call_id: str, kind: WaitKind, label: str) -> None:
        self._waits = waits
        self._call_id = call_id
        self._kind = kind
        self.label = label
        self._wait: Wait | None = None

    def begin(self, draft: Draft | None, seconds: float | None = None) -> asyncio.Future[None]:
        """The call waits from now on, at most so long; resolves when its time is over.

        ``draft`` is the commit that makes it so, if there is one.
        """
        self._wait = self._waits.begun(self._call_id, self, self._kind, seconds)
        self._waits.tell(draft, self)
        return self._wait.came

    def end(self, draft: Draft | None) -> None:
        """It goes on in this process. Harmless when it does."""
        wait, self._wait = self._wait, None
        if wait is not None:
            wait.end()
            self._waits.over(self._call_id)
        self._waits.tell(draft, self)


class Waits:
    """The calls of a turn that are under way, and which of them wait."""

    def __init__(self, scheduling: Scheduling, plan: TurnPlan, note: Callable[[str], None]) -> None:
        self._scheduling = scheduling
        self._plan = plan
        self._note = note
        self._waiting: dict[str, CallWait] = {}
        self._num_calls = 1
        self._is_parked = False
        self._is_told = plan.resume is not None and plan.resume.is_awaiting
        """Whether the log says that the run waits."""

    async def permit(self) -> None:
        """Wait until the turn has its permit; at once where it has it."""
        wait = self._scheduling.permit()
        if wait is not None:
            self._note("permit")
            await wait

    def side_by_side(self, num_calls: int) -> None:
        """So many calls come under way, when none is."""
        self._num_calls = num_calls
        if num_calls > 1:
            self._scheduling.strands(num_calls)

    def of(self, call_id: str, kind: WaitKind, label: str) -> CallWait:
        """A wait of a call, that is still to begin."""
        return CallWait(self, call_id, kind, label)

    def begun(self, call_id: str, wait: CallWait, kind: WaitKind, seconds: float | None) -> Wait:
        """A call waits."""
        begun = self._scheduling.wait(kind, wait.label, seconds)
        self._waiting[call_id] = wait
        self._is_parked = begun.is_parked
        return begun

    def over(self, call_id: str) -> None:
        """A call waits no more."""
        self._waiting.pop(call_id, None)
        self._is_parked = False

    def finish(self, call_id: str, draft: Draft) -> None:
        """A call has its result."""
        wait = self._waiting.get(call_id)
        if wait is not None:
            wait.end(None)
        if self._num_calls > 1:
            self._is_parked = self._scheduling.strand_ends()
        self.tell(draft, wait)

    def tell(self, draft: Draft | None, wait: CallWait | None) -> None:
        """Write into a commit that the run waits, or goes on, where the log says otherwise."""
        if draft is None or self._is_parked == self._is_told:
            return
        self._is_told = self._is_parked
        event = self._plan.event()
        if self._is_parked:
            event.run_awaiting.labels.extend(one.label for one in self._waiting.values())
        else:
            event.run_resumed.cause = wait.label if wait is not None else RECOVERY
        draft.event(event)

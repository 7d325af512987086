"""The only door to the scheduling core: its types, its refusals as ours, and one clock for its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from turnkeeper.v1 import event_pb2
from turnkeeper_core import (
    Abort,
    AbortedError,
    Accepted,
    Act,
    Begin,
    Begun,
    Came,
    Cancel,
    Cancelled,
    Closed,
    Conclusion,
    Counts,
    Detach,
    Dispatched,
    DrainingError,
    Ended,
    Errand,
    Fact,
    FoldPoint,
    GoOn,
    Hold,
    Image,
    Lane,
    LaneEntry,
    LaneFullError,
    Limits,
    Opened,
    OpenRunMismatchError,
    Page,
    QueueFullError,
    Requested,
    Resume,
    RunImage,
    RunOver,
    RunRef,
    Scheduler,
    SessionBusyError,
    SessionDeletingError,
    Snapshot,
    Stats,
    Step,
    Stop,
    TurnImage,
    TurnRef,
    UnknownRunError,
    Waiting,
)
from turnkeeper_service.engine.plan import TurnCancelledError
from turnkeeper_service.engine.scheduling import WaitKind
from turnkeeper_service.errors import Reason, Refused, draining, session_deleting
from turnkeeper_service.process.clock import Clock

__all__ = [
    "Abort",
    "Accepted",
    "Act",
    "Begin",
    "Begun",
    "Came",
    "Cancel",
    "Cancelled",
    "Closed",
    "CoreScheduler",
    "Counts",
    "Delivery",
    "Detach",
    "Ended",
    "Errand",
    "Fact",
    "FoldPoint",
    "GoOn",
    "Hold",
    "Image",
    "Key",
    "Lane",
    "LaneFullError",
    "Limits",
    "Opened",
    "Place",
    "Proposal",
    "Requested",
    "Resume",
    "RunImage",
    "RunOver",
    "RunRef",
    "Stats",
    "Step",
    "Stop",
    "TurnImage",
    "TurnRef",
    "UnknownRunError",
    "Waiting",
    "kind_of",
]

Kind = Literal["prompt", "summary", "bootstrap"]
Delivery = Literal["queue", "steer", "reject", "replace"]
Phase = Literal["serving", "draining", "cut"]
Proposal = Literal["answer", "failed", "cut"]
_KINDS: Mapping[int, Kind] = {
    event_pb2.RUN_KIND_PROMPT: "prompt",
    event_pb2.RUN_KIND_SUMMARY: "summary",
    event_pb2.RUN_KIND_BOOTSTRAP: "bootstrap",
}
_BOUNDS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("session", "runs"): ("max_queued_runs_per_session", "{} runs"),
    ("process", "runs"): ("max_open_runs", "{} runs"),
    ("session", "bytes"): ("max_queued_bytes_per_session", "as much in line as fits {} bytes"),
    ("process", "bytes"): ("max_queued_bytes", "as much in line as fits {} bytes"),
}
"""What bounds are called in the settings, and what they count."""
Key = tuple[str, str]
"""(tenant, session_id)."""
Place = tuple[Literal["reserved", "queued", "lent", "waiting", "running", "parked", "woken", "held", "concluded"], int]
"""Where a run stands, and how many uncancelled runs are ahead of it."""


def kind_of(kind: int) -> Kind:
    """The core's word for a run's kind."""
    return _KINDS[kind]


_REFUSALS = (SessionBusyError, OpenRunMismatchError, SessionDeletingError, DrainingError, QueueFullError)
"""What the core refuses by."""


def _refused(error: Exception, session_id: str) -> Refused:
    """What a caller is told of it."""
    match error:
        case SessionBusyError():
            metadata = {"session_id": session_id}
            if error.open_run_id:
                metadata["open_run_id"] = error.open_run_id
            return Refused(Reason.ERROR_REASON_SESSION_BUSY, f"session {session_id!r} is busy", metadata=metadata)
        case OpenRunMismatchError():
            opened = error.open_run_id
            return Refused(
                Reason.ERROR_REASON_OPEN_RUN_MISMATCH,
                f"the open run is {opened!r}" if opened else "no run is open",
                metadata={"session_id": session_id, "open_run_id": opened or ""},
            )
        case SessionDeletingError():
            return session_deleting(session_id)
        case QueueFullError():
            return _full(error)
    return draining()


def _full(error: QueueFullError) -> Refused:
    name, what = _BOUNDS[error.scope, error.of]
    return Refused(
        Reason.ERROR_REASON_QUEUE_FULL if error.scope == "session" else Reason.ERROR_REASON_SERVER_OVERLOADED,
        f"the {error.scope} holds {what.format(error.limit)}, which is its limit",
        metadata={"limit": str(error.limit), "scope": error.scope, "unit": error.of},
        retry_after=1.0,
        limit=name,
    )


class CoreScheduler:
    """The core with our clock. Every method is one step, never blocks, and is called on the event loop's thread.

    Whoever calls one hands its step to the conductor, in the same turn of the loop. A turn goes on between the decision
    to cut it and the cut itself, since that has to be durable first: what it asks for meanwhile raises
    TurnCancelledError.
    """

    def __init__(self, limits: Limits, clock: Clock, *, epoch: int, last_sequence: int) -> None:
        self._core = Scheduler(limits, epoch=epoch, last_sequence=last_sequence)
        self._now = clock.monotonic
        self.phase: Phase = "serving"
        """How far the process has gone away (U-17); the core knows it too."""

    # ---- into the line, and the end of a run

    def accept(self, key: Key, run_id: str, **options: Any) -> Step[Accepted]:
        """Stamp a reservation (U-9); the options are the core's.

        Raises Refused: SESSION_DELETING, DRAINING, OPEN_RUN_MISMATCH, SESSION_BUSY, QUEUE_FULL, SERVER_OVERLOADED.
        """
        try:
            return self._core.accept(*key, run_id, self._now(), **options)
        except _REFUSALS as error:
            raise _refused(error, key[1]) from None

    def dispatch(self, key: Key, run_id: str) -> Step[Dispatched]:
        """Release a reservation whose commit is durable."""
        return self._core.dispatch(*key, run_id, self._now())

    def abandon(self, key: Key, run_id: str) -> Step[None]:
        """Close a reservation whose accept was not committed."""
        return self._core.abandon(*key, run_id, self._now())

    def finish(self, key: Key, run_id: str) -> Step[None]:
        """Release the floor and pop the next."""
        return self._core.finish(*key, run_id, self._now())

    # ---- strands, waits, lanes

    def strands(self, key: Key, turn: int, count: int) -> Step[None]:
        """So many calls come under way side by side. Raises TurnCancelledError."""
        try:
            return self._core.strands(*key, turn, count, self._now())
        except AbortedError:
            raise TurnCancelledError from None

    def strand_ends(self, key: Key, turn: int) -> Step[bool]:
        """One of them is over; whether the turn still runs."""
        return self._core.strand_ends(*key, turn, self._now())

    def wait(self, key: Key, turn: int, kind: WaitKind, label: str, seconds: float | None) -> Step[Waiting]:
        """A strand waits, at most so long. Raises TurnCancelledError."""
        now = self._now()
        deadline = None if seconds is None else now + seconds
        try:
            return self._core.wait(*key, turn, kind, now, label=label, deadline=deadline)
        except AbortedError:
            raise TurnCancelledError from None

    def waited(self, key: Key, turn: int, wait: int) -> Step[bool]:
        """What it waited for has come."""
        return self._core.waited(*key, turn, wait, self._now())

    def enter_lane(self, key: Key, turn: int | None, provider: str, seconds: float) -> Step[LaneEntry]:
        """Ask for a place among the calls to a provider, waiting at most so long.

        Raises LaneFullError, TurnCancelledError, and Refused where there is no turn.
        """
        now = self._now()
        label = f"provider {provider}"
        try:
            return self._core.enter_lane(*key, turn, provider, now, label=label, deadline=now + seconds)
        except AbortedError:
            raise TurnCancelledError from None
        except _REFUSALS as error:
            raise _refused(error, key[1]) from None

    def leave_lane(self, key: Key, turn: int | None, entry: int) -> Step[bool]:
        """Give the place back."""
        return self._core.leave_lane(*key, turn, entry, self._now())

    # ---- fold points, and the end of a turn

    def fold_point(self, key: Key, turn: int, most: int | None) -> Step[FoldPoint]:
        """Lend what is to be folded, at most so many. Raises TurnCancelledError."""
        try:
            return self._core.fold_point(*key, turn, self._now(), most=most)
        except AbortedError:
            raise TurnCancelledError from None

    def taken(self, key: Key, turn: int) -> Step[None]:
        """The draft that holds what was lent is being submitted."""
        return self._core.taken(*key, turn, self._now())

    def conclude(
        self, key: Key, turn: int, proposal: Proposal, *, may_step: bool, most: int | None
    ) -> Step[Conclusion]:
        """Propose the end of a turn."""
        return self._core.conclude(*key, turn, proposal, self._now(), may_step=may_step, most=most)

    # ---- cancels

    def cancel_session(self, key: Key, cancel: Cancel, *, up_to: int | None = None) -> Step[Cancelled]:
        """Cover what the session accepted."""
        return self._core.cancel_session(*key, cancel, self._now(), up_to=up_to)

    def clear_queue(self, key: Key, cancel: Cancel) -> Step[Cancelled]:
        """The same, but for the open run."""
        return self._core.clear_queue(*key, cancel, self._now())

    def cancel_run(self, key: Key, run_id: str, cancel: Cancel) -> Step[Cancelled]:
        """Cover one run."""
        return self._core.cancel_run(*key, run_id, cancel, self._now())

    def cancel_tenant(self, tenant: str, cancel: Cancel) -> Step[Cancelled]:
        """Cover what all sessions of a tenant accepted."""
        return self._core.cancel_tenant(tenant, cancel, self._now())

    # ---- closing, draining, time

    def close_session(self, key: Key, cancel: Cancel, *, force: bool) -> Step[Cancelled]:
        """Take nothing in any more, and cancel all that is there. Raises Refused SESSION_BUSY without ``force``."""
        try:
            return self._core.close_session(*key, cancel, self._now(), force=force)
        except _REFUSALS as error:
            raise _refused(error, key[1]) from None

    def forget_session(self, key: Key) -> Step[None]:
        """The session is erased."""
        return self._core.forget_session(*key, self._now())

    def drain(self, phase: Phase) -> Step[None]:
        """Begin nothing any more, or take no call any more."""
        self.phase = phase
        return self._core.drain(phase, self._now())

    def next_due(self) -> float | None:
        """Seconds until the earliest deadline; negative if it has passed, None if there is none."""
        when = self._core.next_due()
        return None if when is None else when - self._now()

    def until(self, when: float) -> float:
        """Seconds from now until a time of the core."""
        return when - self._now()

    def due(self) -> list[tuple[Key, Step[None]]]:
        """Fire some of the deadlines that have passed."""
        return self._core.due(self._now())

    def arm_reservation(self, key: Key, run_id: str, seconds: float) -> Step[None]:
        """A run whose accept is durable is dispatched by then, or closed."""
        now = self._now()
        return self._core.arm_reservation(*key, run_id, now + seconds, now)

    def arm_disconnect(self, key: Key, run_id: str, cancel: Cancel, seconds: float) -> Step[None]:
        """Cancel a run by then, unless somebody comes back."""
        now = self._now()
        return self._core.arm_disconnect(*key, run_id, cancel, now + seconds, now)

    def disarm_disconnect(self, key: Key, run_id: str) -> Step[None]:
        """Somebody has come back."""
        return self._core.disarm_disconnect(*key, run_id, self._now())

    def restore(self, key: Key, image: Image) -> Step[None]:
        """Put a session back as it was left (U-16)."""
        return self._core.restore(*key, image, self._now())

    def at(self, time: float, clock: Clock) -> float:
        """A wall-clock time as the core's."""
        return self._now() + time - clock.time()

    # ---- observing

    def place(self, key: Key, run_id: str) -> Place | None:
        """Where a run stands, and how many are ahead of it; None where it is over."""
        return self._core.place(*key, run_id)

    def counts(self, key: Key) -> Counts | None:
        """A session in numbers; None where it has no work."""
        return self._core.counts(*key)

    def holds(self, key: Key, run_id: str) -> list[tuple[Hold, float]]:
        """Why a run is not over, each reason with its age in seconds."""
        now = self._now()
        return [(hold, now - hold.since) for hold in self._core.holds(*key, run_id)]

    def active(self, after: tuple[int, int] | None, limit: int, tenant: str | None) -> Page:
        """Live floor turns, a page at a time."""
        return self._core.active(after, limit=limit, tenant=tenant)

    def snapshot(self, key: Key) -> Snapshot | None:
        """A session as it is, whole: for tests."""
        return self._core.snapshot(*key)

    def stats(self) -> Stats:
        """Counts of the process."""
        return self._core.stats()

"""The compiled scheduler: a sans-IO state machine, one step per call.

Every call takes what happened, and ``now`` where time matters (seconds, any monotonic origin; only ages are derived
from it), changes one session, and returns what the caller has to do. No call blocks, sleeps, logs or calls back.
"""

from typing import Final, Literal, Self, final

from typing_extensions import disjoint_base

from turnkeeper_core._literals import CancelMode, Delivery, Kind, Place

__all__ = [
    "Accepted",
    "Cancel",
    "CancelResult",
    "Conclusion",
    "Counts",
    "Covered",
    "Dispatched",
    "Hold",
    "Limits",
    "OpenRunMismatchError",
    "Partition",
    "QueueFullError",
    "RunExistsError",
    "RunRef",
    "RunView",
    "Scheduler",
    "SchedulerError",
    "SessionBusyError",
    "Snapshot",
    "Stats",
    "UnknownRunError",
    "__version__",
]

__version__: Final[str]

@disjoint_base
class SchedulerError(Exception):
    """Base of every refusal of the scheduler. A refused call has changed nothing."""
    def __new__(cls, message: str = "") -> Self: ...

@final
class SessionBusyError(SchedulerError):
    """Delivery REJECT or an idle precondition found a run reserved, queued or open (U-23)."""
    def __new__(cls, message: str = "", open_run_id: str | None = None) -> Self: ...
    @property
    def open_run_id(self) -> str | None: ...

@final
class OpenRunMismatchError(SchedulerError):
    """The precondition named an open run, and another one, or none, is open."""
    def __new__(cls, message: str = "", open_run_id: str | None = None) -> Self: ...
    @property
    def open_run_id(self) -> str | None: ...

@final
class QueueFullError(SchedulerError):
    """A bound is reached. ``scope`` is "session" or "process"; ``limit`` its number of ``unit``, "runs" or "bytes"."""
    def __new__(cls, message: str = "", scope: str = "session", limit: int = 0, unit: str = "runs") -> Self: ...
    @property
    def scope(self) -> str: ...
    @property
    def limit(self) -> int: ...
    @property
    def unit(self) -> str: ...

@final
class RunExistsError(SchedulerError):
    """The session already has a run of this id."""
    def __new__(cls, message: str = "", run_id: str = "") -> Self: ...
    @property
    def run_id(self) -> str: ...

@final
class UnknownRunError(SchedulerError):
    """The session has no such run in the state that the call needs."""
    def __new__(cls, message: str = "", run_id: str = "") -> Self: ...
    @property
    def run_id(self) -> str: ...

@final
class Limits:
    """Bounds of one scheduler; every number counts runs, turns or bytes of prompts in line, and 0 allows none."""
    def __new__(
        cls,
        *,
        queue_per_session: int = 10_000,
        open_runs: int = 100_000,
        line_bytes_per_session: int = 64 << 20,
        line_bytes: int = 512 << 20,
        running_turns: int = 256,
        running_turns_per_tenant: int = 64,
    ) -> Limits: ...
    @property
    def queue_per_session(self) -> int: ...
    @property
    def open_runs(self) -> int: ...
    @property
    def line_bytes_per_session(self) -> int: ...
    @property
    def line_bytes(self) -> int: ...
    @property
    def running_turns(self) -> int: ...
    @property
    def running_turns_per_tenant(self) -> int: ...

@final
class Cancel:
    """Why and how a run is cancelled; carried through unchanged."""
    def __new__(
        cls,
        reason: str,
        *,
        actor: str = "",
        mode: CancelMode = "abort",
        superseded_by: str | None = None,
    ) -> Cancel: ...
    @property
    def reason(self) -> str: ...
    @property
    def actor(self) -> str: ...
    @property
    def mode(self) -> CancelMode: ...
    @property
    def superseded_by(self) -> str | None: ...

@final
class RunRef:
    """One run, named."""
    @property
    def tenant(self) -> str: ...
    @property
    def session_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def kind(self) -> Kind: ...

@final
class Covered:
    """A run that a cancel reached, where it was then, and the cancel that now applies to it.

    reserved: its ``dispatch`` will answer "cancelled". queued, waiting: it has left the line; the caller closes it.
    running, parked, woken: it still holds the floor; its turn has to be aborted (mode abort) or to stop (mode stop).
    """
    @property
    def run(self) -> RunRef: ...
    @property
    def was(self) -> Place: ...
    @property
    def cancel(self) -> Cancel: ...

@final
class Accepted:
    """Receipt of ``accept``: the stamp, what stands ahead, the run it would steer, the runs it replaced."""
    @property
    def sequence(self) -> int: ...
    @property
    def position(self) -> int:
        """Runs of the session ahead of it: the open one and those in line, cancelled ones not counted."""
    @property
    def steers(self) -> str | None: ...
    @property
    def replaced(self) -> list[Covered]: ...
    @property
    def starts(self) -> list[RunRef]:
        """Floor turns that begin because REPLACE took a waiting head out ahead of a BOOTSTRAP, which it spares."""

@final
class Dispatched:
    """What ``dispatch`` decided.

    cancelled: covered by ``cancel``; it never starts and the caller closes it (U-28).
    queued: it waits in line. started: its floor turn begins now: it is in ``starts``. waiting: it is at the head and
    waits for a permit. ``starts`` lists every run, of any session, whose floor turn begins, or goes on if it was woken,
    because of this step; so everywhere.
    """
    @property
    def status(self) -> Literal["cancelled", "queued", "waiting", "started"]: ...
    @property
    def cancel(self) -> Cancel | None: ...
    @property
    def position(self) -> int: ...
    @property
    def steers(self) -> str | None: ...
    @property
    def starts(self) -> list[RunRef]: ...

@final
class Partition:
    """The line as a fold point of the open run sees it (U-20).

    ``fold``: STEER runs bound to it, dispatched and not covered, in accept order; they have left the line and are the
    caller's to fold. ``cancel``: the cancel that covers the open run, abort or stop; then ``fold`` is empty.
    """
    @property
    def fold(self) -> list[RunRef]: ...
    @property
    def cancel(self) -> Cancel | None: ...

@final
class Conclusion:
    """What ``conclude`` decided, in one step with the last partition (U-10).

    concluded: the outcome proposed stands. cancelled: an abort came first and wins. steered: nothing is concluded;
    ``fold`` has to be folded and the turn goes on (only where an answer was proposed). A stop that came first shows in
    ``cancel`` beside "concluded".
    """
    @property
    def status(self) -> Literal["concluded", "cancelled", "steered"]: ...
    @property
    def fold(self) -> list[RunRef]: ...
    @property
    def cancel(self) -> Cancel | None: ...

@final
class CancelResult:
    """What a cancel reached: runs it covers, in accept order, and runs that had concluded before it (U-11).

    ``starts``: floor turns that begin because a waiting head left its place.
    """
    @property
    def covered(self) -> list[Covered]: ...
    @property
    def concluded(self) -> list[RunRef]: ...
    @property
    def starts(self) -> list[RunRef]: ...

@final
class Hold:
    """A reason why the open run is not over: what, and when it was taken."""
    @property
    def number(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def since(self) -> float: ...

@final
class RunView:
    """One run in a snapshot."""
    @property
    def run(self) -> RunRef: ...
    @property
    def place(self) -> Place: ...
    @property
    def since(self) -> float:
        """When it came to that place."""
    @property
    def concluded(self) -> bool: ...
    @property
    def cancel(self) -> Cancel | None: ...
    @property
    def steers(self) -> str | None: ...
    @property
    def holds(self) -> list[Hold]: ...

@final
class Snapshot:
    """One session as it is now. ``open`` waits, runs or is parked; ``line`` holds reserved and queued runs in order."""
    @property
    def open(self) -> RunView | None: ...
    @property
    def line(self) -> list[RunView]: ...
    @property
    def mark(self) -> int | None: ...
    @property
    def reserved(self) -> int: ...
    @property
    def queued(self) -> int: ...

@final
class Counts:
    """How much one session has to do. ``head`` is the first uncancelled run in line; covered runs are ``reserved``."""
    @property
    def open(self) -> str | None: ...
    @property
    def head(self) -> str | None: ...
    @property
    def reserved(self) -> int: ...
    @property
    def queued(self) -> int: ...
    @property
    def bytes(self) -> int:
        """Of the prompts in line."""

@final
class Stats:
    """Counts over all sessions."""
    @property
    def sessions(self) -> int: ...
    @property
    def open_runs(self) -> int:
        """Runs accepted and not over: reserved, queued, waiting or running."""
    @property
    def line_bytes(self) -> int: ...
    @property
    def running_turns(self) -> int: ...
    @property
    def waiting_turns(self) -> int:
        """Heads, and turns that were woken, that wait for a permit."""
    @property
    def parked_turns(self) -> int: ...
    @property
    def last_sequence(self) -> int: ...

@final
class Scheduler:
    """All scheduling state of all sessions. Thread-safe; an idle session leaves no entry."""
    def __new__(cls, limits: Limits | None = None, *, epoch: int = 0, last_sequence: int = 0) -> Scheduler:
        """``epoch`` (below 2**21) stands in the high bits of every sequence; all are above ``last_sequence`` (U-32)."""
    def accept(
        self,
        tenant: str,
        session_id: str,
        run_id: str,
        now: float,
        *,
        kind: Kind = "prompt",
        delivery: Delivery = "queue",
        bytes: int = 0,
        require_idle: bool = False,
        expected_open_run_id: str | None = None,
        cancelled: Cancel | None = None,
    ) -> Accepted:
        """Check preconditions and bounds and stamp a reservation, in one step (U-9, U-19 to U-24).

        ``bytes`` is what its prompt counts for while it is in line. ``cancelled`` (a tombstone met it) makes the run
        exempt from preconditions, bounds and its own delivery; its dispatch answers "cancelled". Raises
        SessionBusyError, OpenRunMismatchError, QueueFullError, RunExistsError.
        """
    def restore(
        self,
        tenant: str,
        session_id: str,
        run_id: str,
        sequence: int,
        now: float,
        *,
        kind: Kind = "prompt",
        delivery: Delivery = "queue",
        bytes: int = 0,
        steers: str | None = None,
        cancelled: Cancel | None = None,
    ) -> None:
        """Put a stored run back as a reservation with its old sequence, past all bounds (U-16).

        ``steers`` (with delivery "steer") binds it again, if that run is here and may still be steered. Raises
        RunExistsError; ValueError if another run of the session has the sequence.
        """
    def abandon(self, tenant: str, session_id: str, run_id: str, now: float) -> list[RunRef]:
        """Close a reservation whose accept was never committed; no terminal. Returns starts. Raises UnknownRunError."""
    def dispatch(self, tenant: str, session_id: str, run_id: str, now: float) -> Dispatched:
        """Release a reservation: cancelled, queued, waiting or started (C-11, C-18). Raises UnknownRunError."""
    def partition(self, tenant: str, session_id: str, run_id: str, *, limit: int | None = None) -> Partition:
        """Take the STEER runs bound to this turn; at most ``limit``, None for all.

        Raises UnknownRunError, also while it has no permit.
        """
    def park(self, tenant: str, session_id: str, run_id: str, now: float) -> list[RunRef]:
        """Give the permit of a running turn back while it waits for somebody outside; it keeps the floor (U-3).

        One that was woken and has no permit yet gives up its place. Returns starts. Raises UnknownRunError.
        """
    def wake(self, tenant: str, session_id: str, run_id: str, now: float) -> Literal["running", "waiting", "closed"]:
        """Ask for the permit of a parked turn again, ahead of all turns that have not begun.

        running: it goes on now. waiting: it goes on when a step's starts name it. closed: drained, it stays parked.
        Raises UnknownRunError.
        """
    def conclude(
        self,
        tenant: str,
        session_id: str,
        run_id: str,
        *,
        answer: bool,
        steer: bool = True,
        limit: int | None = None,
    ) -> Conclusion:
        """Fix the outcome of a turn that has begun, parked or not.

        With ``answer`` and ``steer``, bound STEER runs are returned instead (U-10, U-21), at most ``limit``, unless it
        is cancelled or has no permit. Raises UnknownRunError, also when it is concluded already.
        """
    def finish(self, tenant: str, session_id: str, run_id: str, now: float) -> list[RunRef]:
        """Release the floor and the permit of a concluded run and start what is next, in one step. Returns starts.

        STEER runs still bound to it become QUEUE at their own sequence (U-20). Raises UnknownRunError.
        """
    def cancel_session(
        self,
        tenant: str,
        session_id: str,
        cancel: Cancel,
        now: float,
        *,
        up_to: int | None = None,
        spare_open: bool = False,
        spare_bootstrap: bool = False,
    ) -> CancelResult:
        """Cover all that the session accepted so far, or up to a sequence; raises the mark where reservations are open.

        ``spare_open`` and ``spare_bootstrap`` make it ClearQueue (U-11, U-24). Idle: no effect (C-48).
        """
    def cancel_run(self, tenant: str, session_id: str, run_id: str, cancel: Cancel, now: float) -> CancelResult:
        """Cover one run, if it is here; both lists empty means it is not known to the core."""
    def cancel_tenant(self, tenant: str, cancel: Cancel, now: float) -> CancelResult:
        """Cover all that the tenant's sessions accepted before this call and nothing accepted after it."""
    def expire(self, tenant: str, session_id: str, run_id: str, now: float) -> tuple[bool, list[RunRef]]:
        """Take a queued or waiting run out because its start deadline passed: (taken, starts)."""
    def hold(self, tenant: str, session_id: str, run_id: str, label: str, now: float) -> int:
        """Add a reason why the open run is not over; returns its number. Raises UnknownRunError."""
    def release_hold(self, tenant: str, session_id: str, run_id: str, hold: int) -> int:
        """Release a hold; returns how many are left beside the turn itself. Releasing twice is harmless."""
    def drain(self) -> None:
        """From now on nothing starts or goes on: dispatch queues, finish pops nothing, wake leaves parked (U-17)."""
    def snapshot(self, tenant: str, session_id: str) -> Snapshot | None:
        """The session as it is, None if it has no work."""
    def place(self, tenant: str, session_id: str, run_id: str) -> tuple[Place, int] | None:
        """Where a run stands, and how many uncancelled runs are ahead of it; None if the session has no such run.

        Takes the logarithm of the line.
        """
    def counts(self, tenant: str, session_id: str) -> Counts:
        """How much a session has to do, whatever the length of its line."""
    def stats(self) -> Stats: ...

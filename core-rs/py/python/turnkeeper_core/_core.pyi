"""The compiled scheduler: a sans-IO state machine, one step per call.

Every call takes what happened, and ``now`` (seconds of the driver's one monotonic clock, as all times here), changes
one session in one step, and returns a ``Step``: its answer, what its driver has to do, and when to call ``due``. No
call blocks, sleeps, logs or calls back.

Effects are in binding order within a session. A *fact* goes into the commit of the step; an *act* is done once that
commit is submitted (``Abort`` and ``Detach``: once it is durable; the ``Begin`` of a run that ``accept`` started: once
the accept is durable). A step may hold effects of other sessions than the one called, because a permit that it frees
goes to another's turn: group by ``key``, one commit per session. A refused call has changed nothing.
"""

from typing import ClassVar, Final, Generic, Literal, Self, TypeVar, final

from typing_extensions import disjoint_base

from turnkeeper_core._literals import (
    CancelMode,
    Cut,
    Delivery,
    End,
    Kind,
    OnParentEnd,
    Phase,
    Place,
    Role,
    WaitKind,
)

__all__ = [
    "Abort",
    "AbortedError",
    "Accepted",
    "Act",
    "Admission",
    "BadStateError",
    "Begin",
    "Begun",
    "Came",
    "Cancel",
    "Cancelled",
    "ChildResult",
    "Closed",
    "Conclude",
    "Conclusion",
    "Counts",
    "Covered",
    "Decided",
    "Delivered",
    "Detach",
    "Dispatched",
    "DrainingError",
    "Ended",
    "Errand",
    "Fact",
    "FoldPoint",
    "GoOn",
    "Hold",
    "Image",
    "Lane",
    "LaneEntry",
    "LaneFullError",
    "Limits",
    "OpenRunMismatchError",
    "Opened",
    "Orphaned",
    "Page",
    "QueueFullError",
    "Requested",
    "Resume",
    "RunExistsError",
    "RunImage",
    "RunOver",
    "RunRef",
    "RunView",
    "Scheduler",
    "SchedulerError",
    "SessionBusyError",
    "SessionDeletingError",
    "Snapshot",
    "SpawnRefusedError",
    "Spawned",
    "Stats",
    "Step",
    "Stop",
    "TurnImage",
    "TurnNotFoundError",
    "TurnRef",
    "TurnView",
    "UnknownRunError",
    "WaitCycleError",
    "WaitImage",
    "Waiting",
    "WouldDeadlockError",
    "__version__",
]

__version__: Final[str]

_T_co = TypeVar("_T_co", covariant=True)

# ---------------------------------------------------------------- refusals

@disjoint_base
class SchedulerError(Exception):
    """Base of every refusal of the scheduler. A refused call has changed nothing."""
    def __new__(cls, message: str = "") -> Self: ...

@final
class SessionBusyError(SchedulerError):
    """An idle precondition, delivery REJECT, ``close_session`` or ``forget_session`` found what is not over."""
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
    """A bound is reached. ``scope``: "session" or "process"; ``of``: "runs" or "bytes"; ``limit``: their number."""
    def __new__(cls, message: str = "", scope: str = "session", of: str = "runs", limit: int = 0) -> Self: ...
    @property
    def scope(self) -> str: ...
    @property
    def of(self) -> str: ...
    @property
    def limit(self) -> int: ...

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
class TurnNotFoundError(SchedulerError):
    """A cancel or a STEER named a turn that does not live, or may not be named so."""
    def __new__(cls, message: str = "", turn_id: int = 0) -> Self: ...
    @property
    def turn_id(self) -> int: ...

@final
class SessionDeletingError(SchedulerError):
    """The session is closing: it takes nothing in any more."""
    def __new__(cls, message: str = "") -> Self: ...

@final
class DrainingError(SchedulerError):
    """The scheduler drains, or is cut: then every call is refused with this."""
    def __new__(cls, message: str = "") -> Self: ...

@final
class AbortedError(SchedulerError):
    """The turn is cut: of all its operations only ``conclude``, ``strand_ends`` and ``waited`` are left."""
    def __new__(cls, message: str = "", turn_id: int = 0) -> Self: ...
    @property
    def turn_id(self) -> int: ...

@final
class BadStateError(SchedulerError):
    """A mistake of the driver: no such turn, no strand that runs, an open loan, or a start that has its driver."""
    def __new__(cls, message: str = "") -> Self: ...

@final
class SpawnRefusedError(SchedulerError):
    """No child.

    ``why`` in the order in which it is looked at: "cancelled", "parent_ended", "depth_limit", "invalid",
    "child_limit", "slot_timeout" (no slot is free, and it would not wait). ``DrainingError`` stands before the last.
    """
    def __new__(cls, message: str = "", why: str = "") -> Self: ...
    @property
    def why(self) -> Literal["cancelled", "parent_ended", "depth_limit", "invalid", "child_limit", "slot_timeout"]: ...

@final
class LaneFullError(SchedulerError):
    """As many wait in the provider's lane as may: wait in back-off, without a permit, before asking again."""
    def __new__(cls, message: str = "", lane: str = "") -> Self: ...
    @property
    def lane(self) -> str: ...

@final
class WouldDeadlockError(SchedulerError):
    """A turn that holds its session's line would wait for a run of that line."""
    def __new__(cls, message: str = "") -> Self: ...

@final
class WaitCycleError(SchedulerError):
    """The session that it would wait for waits, over others, for this one."""
    def __new__(cls, message: str = "") -> Self: ...

# ---------------------------------------------------------------- what goes in

@final
class Lane:
    """A provider's lane: ``limit`` calls at once, ``starts`` of them in ``per`` seconds; None is any number.

    ``waiters``: who may wait in it; None is ``Limits.lane_waiters``.
    """
    def __new__(
        cls, name: str, limit: int | None, *, starts: int | None = None, per: float = 60.0, waiters: int | None = None
    ) -> Lane: ...
    @property
    def name(self) -> str: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def starts(self) -> int | None: ...
    @property
    def per(self) -> float | None:
        """None without ``starts``."""
    @property
    def waiters(self) -> int | None: ...

@final
class Limits:
    """Bounds of one scheduler; numbers count what their names say, 0 allows none; times are seconds."""
    def __new__(
        cls,
        *,
        queue_per_session: int = 10_000,
        session_bytes: int = 67_108_864,
        open_runs: int = 100_000,
        open_bytes: int = 536_870_912,
        running_turns: int = 256,
        running_turns_per_tenant: int = 64,
        depth: int = 3,
        children_per_turn: int = 5,
        children_per_run: int = 1_000,
        children_per_tenant: int = 2_000,
        children: int = 10_000,
        running_children: int = 256,
        running_children_per_tenant: int = 64,
        slot_wait: float | None = 30.0,
        child_timeout: float = 300.0,
        stop_grace: float = 30.0,
        cancel_grace: float = 2.0,
        lane_waiters: int = 1_000,
        lanes: tuple[Lane, ...] = (),
    ) -> Limits:
        """Bounds.

        ``children_per_turn`` live at once below one turn; ``children_per_run`` admitted in all. ``running_children`` is
        per depth. ``slot_wait`` None: for ever. ``lane_waiters``: turns, and turns and errands together, in one
        provider's lane.
        """
    @property
    def queue_per_session(self) -> int: ...
    @property
    def session_bytes(self) -> int: ...
    @property
    def open_runs(self) -> int: ...
    @property
    def open_bytes(self) -> int: ...
    @property
    def running_turns(self) -> int: ...
    @property
    def running_turns_per_tenant(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def children_per_turn(self) -> int: ...
    @property
    def children_per_run(self) -> int: ...
    @property
    def children_per_tenant(self) -> int: ...
    @property
    def children(self) -> int: ...
    @property
    def running_children(self) -> int: ...
    @property
    def running_children_per_tenant(self) -> int: ...
    @property
    def slot_wait(self) -> float | None: ...
    @property
    def child_timeout(self) -> float: ...
    @property
    def stop_grace(self) -> float: ...
    @property
    def cancel_grace(self) -> float: ...
    @property
    def lane_waiters(self) -> int: ...
    @property
    def lanes(self) -> tuple[Lane, ...]: ...

@final
class Cancel:
    """Why and how something is cancelled; carried through unchanged. The core understands ``mode`` alone."""
    def __new__(
        cls,
        reason: str,
        *,
        actor: str = "",
        mode: CancelMode = "abort",
        superseded_by: str | None = None,
        rollback: bool = False,
        unwind: bool = False,
        hint: str = "",
    ) -> Cancel: ...
    @property
    def reason(self) -> str: ...
    @property
    def actor(self) -> str: ...
    @property
    def mode(self) -> CancelMode: ...
    @property
    def superseded_by(self) -> str | None: ...
    @property
    def rollback(self) -> bool: ...
    @property
    def unwind(self) -> bool: ...
    @property
    def hint(self) -> str: ...

# ---------------------------------------------------------------- names

@final
class RunRef:
    """One run, named. Equal and hashable."""
    @property
    def tenant(self) -> str: ...
    @property
    def session_id(self) -> str: ...
    @property
    def key(self) -> tuple[str, str]:
        """(tenant, session_id)."""
    @property
    def run_id(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def kind(self) -> Kind: ...

@final
class TurnRef:
    """One turn, named.

    Equal and hashable by session and ``id``, which is unique in the store: an epoch is in its high bits.
    """
    @property
    def tenant(self) -> str: ...
    @property
    def session_id(self) -> str: ...
    @property
    def key(self) -> tuple[str, str]:
        """(tenant, session_id)."""
    @property
    def id(self) -> int: ...
    @property
    def run(self) -> RunRef:
        """The run that it belongs to now."""
    @property
    def role(self) -> Role: ...
    @property
    def parent(self) -> int | None:
        """Of a child: its parent's id, which may live no more."""
    @property
    def depth(self) -> int:
        """0 for a floor turn."""

# ---------------------------------------------------------------- effects

class Fact:
    """What goes into the commit of this step, in this order."""

class Act:
    """What is done once the commit of this step is submitted, in this order."""

@final
class Requested(Fact):
    """A run, or (``turn``) one turn and what is below it, is cancelled, by a caller or by a deadline.

    ``cut``: "stop" and "abort" carry their ``cancel``; "deadline" (of the run, or of the child ``turn``) and "parent"
    (the parent of ``turn`` ended long ago) have none, and spare CONTINUE children.
    """

    __match_args__: ClassVar[tuple[str, ...]] = ("run", "turn", "cut", "cancel")
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def run(self) -> RunRef: ...
    @property
    def turn(self) -> TurnRef | None: ...
    @property
    def cut(self) -> Cut: ...
    @property
    def cancel(self) -> Cancel | None: ...

@final
class Opened(Fact):
    """The run's first turn begins. Written with the turn's next commit, before any other fact of it."""

    __match_args__: ClassVar[tuple[str, ...]] = ("run",)
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def run(self) -> RunRef: ...

@final
class Begun(Fact):
    """The turn begins. Written with its next commit, before any other fact of it."""

    __match_args__: ClassVar[tuple[str, ...]] = ("turn",)
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def turn(self) -> TurnRef: ...

@final
class Spawned(Fact):
    """A child is admitted: in its parent's commit, before anything of the child. ``outside``: a call asked for it."""

    __match_args__: ClassVar[tuple[str, ...]] = ("turn", "on_parent_end", "is_async")
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def turn(self) -> TurnRef: ...
    @property
    def on_parent_end(self) -> OnParentEnd: ...
    @property
    def is_async(self) -> bool: ...
    @property
    def outside(self) -> bool: ...
    @property
    def deadline(self) -> float: ...

@final
class Ended(Fact):
    """The turn is over. Not said of a floor turn that never began. ``cancel``: of "cancelled" and "stopped"."""

    __match_args__: ClassVar[tuple[str, ...]] = ("turn", "end", "cancel")
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def turn(self) -> TurnRef: ...
    @property
    def end(self) -> End: ...
    @property
    def cancel(self) -> Cancel | None: ...

@final
class Delivered(Fact):
    """The result of the asynchronous child ``turn`` is in the step that ``taken`` submits, of ``parent``."""

    __match_args__: ClassVar[tuple[str, ...]] = ("turn", "parent")
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def turn(self) -> TurnRef: ...
    @property
    def parent(self) -> TurnRef: ...

@final
class Orphaned(Fact):
    """The result of the asynchronous child ``turn`` reaches nobody."""

    __match_args__: ClassVar[tuple[str, ...]] = ("turn", "cause")
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def turn(self) -> TurnRef: ...
    @property
    def cause(self) -> Literal["parent_ended", "parent_cancelled", "step_limit"]: ...

@final
class Closed(Fact):
    """The run is over and never had a turn that began; no ``finish`` follows. Once durable: tell who waits for it.

    cancelled: by ``cancel``. folded: into the turn ``into``. expired: its start deadline passed. stranded: it was never
    dispatched. floor_changed: it was for another agent (no run of this version ends so).
    """

    __match_args__: ClassVar[tuple[str, ...]] = ("run", "why", "cancel", "into")
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def run(self) -> RunRef: ...
    @property
    def why(self) -> Literal["cancelled", "folded", "expired", "stranded", "floor_changed"]: ...
    @property
    def cancel(self) -> Cancel | None: ...
    @property
    def into(self) -> TurnRef | None: ...

@final
class RunOver(Fact):
    """Nothing holds the open run any more: its terminal goes into this commit. Once durable: publish, then ``finish``.

    completed: the driver refines it. cancelled: by ``cancel``, an abort. failed: its deadline passed. A ``cancel`` of a
    completed run is the stop that reached it.
    """

    __match_args__: ClassVar[tuple[str, ...]] = ("run", "status", "cancel")
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def run(self) -> RunRef: ...
    @property
    def status(self) -> Literal["completed", "cancelled", "failed", "awaiting_user"]: ...
    @property
    def cancel(self) -> Cancel | None: ...

@final
class Resume(Act):
    """After a restart, before anything else of its session: the turn had begun, and gets its driver again.

    It has no permit: ``GoOn`` or ``Abort`` says how it goes on. ``waits``: the numbers of its waits, first those of its
    image in their order, then (child, wait) of each synchronous child that lives.
    """

    __match_args__: ClassVar[tuple[str, ...]] = ("turn", "waits", "children")
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def turn(self) -> TurnRef: ...
    @property
    def waits(self) -> tuple[int, ...]: ...
    @property
    def children(self) -> tuple[tuple[int, int], ...]: ...

@final
class Begin(Act):
    """The turn has its permit and begins."""

    __match_args__: ClassVar[tuple[str, ...]] = ("turn",)
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def turn(self) -> TurnRef: ...

@final
class GoOn(Act):
    """The turn that was parked, or held, has its permit again."""

    __match_args__: ClassVar[tuple[str, ...]] = ("turn",)
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def turn(self) -> TurnRef: ...

@final
class Stop(Act):
    """Look at your next fold point: the next step is the last, or there is none.

    A wait in back-off or in a lane is ended by
    the driver itself (``waited``, ``leave_lane``).
    """

    __match_args__: ClassVar[tuple[str, ...]] = ("turn", "why", "cancel")
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def turn(self) -> TurnRef: ...
    @property
    def why(self) -> Literal["stop", "parent_ended"]: ...
    @property
    def cancel(self) -> Cancel | None: ...

@final
class Came(Act):
    """A wait of the turn is over, and its strand has something to do once the turn runs.

    due: its deadline passed. in: the provider's slot is there. ended: the synchronous child ``child`` has, as ``end``
    says.
    """

    __match_args__: ClassVar[tuple[str, ...]] = ("turn", "wait", "what", "child", "end")
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def turn(self) -> TurnRef: ...
    @property
    def wait(self) -> int: ...
    @property
    def what(self) -> Literal["due", "in", "ended"]: ...
    @property
    def child(self) -> TurnRef | None: ...
    @property
    def end(self) -> End | None: ...

@final
class Decided(Act):
    """The wait for a slot is over: ``child`` is admitted, or ``refused``.

    That of a synchronous child goes on under the same number, for its end.
    """

    __match_args__: ClassVar[tuple[str, ...]] = ("turn", "wait", "child", "refused")
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def turn(self) -> TurnRef: ...
    @property
    def wait(self) -> int: ...
    @property
    def child(self) -> TurnRef | None: ...
    @property
    def refused(self) -> Literal["slot_timeout", "cancelled", "parent_ended"] | None: ...

@final
class Conclude(Act):
    """The turn was cut and held for its children: the last of them has ended. ``conclude(turn, "cut")``."""

    __match_args__: ClassVar[tuple[str, ...]] = ("turn",)
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def turn(self) -> TurnRef: ...

@final
class Abort(Act):
    """Once durable: the driver of the turn stops at once and concludes, as ``cut`` says."""

    __match_args__: ClassVar[tuple[str, ...]] = ("turn", "cut", "cancel")
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def turn(self) -> TurnRef: ...
    @property
    def cut(self) -> Cut: ...
    @property
    def cancel(self) -> Cancel | None: ...

@final
class Detach(Act):
    """Once durable: the driver has not concluded in time; let go of it and conclude in its stead."""

    __match_args__: ClassVar[tuple[str, ...]] = ("turn",)
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def turn(self) -> TurnRef: ...

@final
class Errand(Act):
    """What became of an errand.

    It has its slot ("in"), has waited too long ("busy": over), or is cut ("cut": over if it
    waited, else it has to leave).
    """

    __match_args__: ClassVar[tuple[str, ...]] = ("errand", "what")
    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def errand(self) -> int: ...
    @property
    def what(self) -> Literal["in", "busy", "cut"]: ...

# ---------------------------------------------------------------- what comes out

@final
class Step(Generic[_T_co]):
    """What one call led to.

    ``wake_at``: the earliest deadline became earlier, call ``due`` then; None leaves the timer.
    """
    def __class_getitem__(cls, _item: object) -> type[Step[object]]: ...
    @property
    def answer(self) -> _T_co: ...
    @property
    def effects(self) -> tuple[Fact | Act, ...]: ...
    @property
    def wake_at(self) -> float | None: ...

@final
class Covered:
    """A run that a cancel reached, where it was then, and the cancel that now applies to it.

    reserved: its ``dispatch`` closes it. queued, waiting: it is closed. Else it holds the floor, and its turns are cut
    or stop. No ``cancel``: its deadline had come first.
    """
    @property
    def run(self) -> RunRef: ...
    @property
    def was(self) -> Place: ...
    @property
    def cancel(self) -> Cancel | None: ...

@final
class Accepted:
    """Receipt of ``accept``.

    ``position``: runs of the session ahead, cancelled ones not counted. ``steers``: the run it would fold into, or
    whose child ``steers_turn`` it would. ``replaced``: what a REPLACE covered. ``starts``: its turn has begun in this
    step: commit what ``Opened`` and ``Begun`` say with the accept, perform ``Begin`` when that is durable, and do not
    dispatch.
    """
    @property
    def sequence(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def steers(self) -> str | None: ...
    @property
    def steers_turn(self) -> int | None: ...
    @property
    def replaced(self) -> list[Covered]: ...
    @property
    def starts(self) -> TurnRef | None: ...

@final
class Dispatched:
    """What became of a reservation: "cancelled", as ``Closed`` says too, or "queued"; its place, and what is ahead."""
    @property
    def status(self) -> Literal["cancelled", "queued"]: ...
    @property
    def place(self) -> Place | None:
        """None if cancelled."""
    @property
    def position(self) -> int: ...
    @property
    def steers(self) -> str | None: ...
    @property
    def steers_turn(self) -> int | None: ...

@final
class Waiting:
    """A wait of one strand; ``parked``: all strands of the turn wait, its permit is given back, ``GoOn`` follows."""
    @property
    def id(self) -> int: ...
    @property
    def parked(self) -> bool: ...

@final
class LaneEntry:
    """A place in a provider's lane: with its slot (``is_in``), or in the queue, without a permit if ``parked``."""
    @property
    def id(self) -> int: ...
    @property
    def is_in(self) -> bool: ...
    @property
    def parked(self) -> bool: ...

@final
class ChildResult:
    """That an asynchronous child ended, and how. Made by the driver for an image only."""
    def __new__(cls, child: int, end: End) -> ChildResult: ...
    @property
    def child(self) -> int: ...
    @property
    def end(self) -> End: ...

@final
class FoldPoint:
    """What a turn finds at a fold point. What it lends has to be ``taken`` by the block that submits the step with it.

    ``stop``: the next step is the last, without tools; ``cancel`` is that stop's. ``parent_ended``: conclude now.
    ``leave``: the server drains; nothing is lent, the turn waits "drain".
    """
    @property
    def steers(self) -> list[RunRef]: ...
    @property
    def results(self) -> list[ChildResult]: ...
    @property
    def stop(self) -> bool: ...
    @property
    def parent_ended(self) -> bool: ...
    @property
    def leave(self) -> bool: ...
    @property
    def cancel(self) -> Cancel | None: ...

@final
class Conclusion:
    """What a proposal led to.

    concluded: the turn is over as ``end`` says, whatever was proposed. goes_on: ``fold`` is lent, another step follows.
    held: children live; ``GoOn`` (an answer) or ``Conclude`` (a cut) follows. leaves: the server drains; wait "drain".
    last: only with ``if_last``: nobody of the run would answer after this; nothing has changed.
    """
    @property
    def status(self) -> Literal["concluded", "goes_on", "held", "leaves", "last"]: ...
    @property
    def end(self) -> End | None: ...
    @property
    def cancel(self) -> Cancel | None: ...
    @property
    def fold(self) -> FoldPoint | None: ...

@final
class Admission:
    """What a spawn led to.

    ``child`` is admitted; ``wait`` names the strand's (or call's) wait for it if it is synchronous. No child: ``wait``
    is for a slot, and ``Decided`` follows.
    """
    @property
    def child(self) -> TurnRef | None: ...
    @property
    def wait(self) -> int | None: ...
    @property
    def parked(self) -> bool: ...

@final
class Cancelled:
    """What a cancel reached.

    Runs it covers, in accept order (those cancelled before again); runs that were over but for ``finish``; steers that
    are lent (acknowledge as finished when taken, as covered when closed); turns of ended runs, or a subtree, that it
    cut or stopped.
    """
    @property
    def covered(self) -> list[Covered]: ...
    @property
    def finished(self) -> list[RunRef]: ...
    @property
    def lent(self) -> list[RunRef]: ...
    @property
    def turns(self) -> list[TurnRef]: ...

# ---------------------------------------------------------------- restore

@final
class RunImage:
    """A run that is not over.

    ``opened``: its first turn had begun. ``cut`` with its ``cancel``: what was requested of it.
    """
    def __new__(
        cls,
        run_id: str,
        sequence: int,
        *,
        kind: Kind = "prompt",
        opened: bool = False,
        steers: str | None = None,
        steers_turn: int | None = None,
        cut: Cut | None = None,
        cancel: Cancel | None = None,
        size: int = 0,
        admitted: int = 0,
        start_deadline: float | None = None,
        run_deadline: float | None = None,
        run_timeout: float | None = None,
    ) -> RunImage:
        """``run_deadline`` of one that had begun, ``run_timeout`` (seconds from its beginning) of one that had not."""

@final
class WaitImage:
    """A call under way that waits for somebody outside. Not "run": such a call asks again."""
    def __new__(cls, kind: WaitKind, *, label: str = "", deadline: float | None = None) -> WaitImage: ...

@final
class TurnImage:
    """A turn that had begun, or was spawned, and has not ended; floor turns first, parents before their children.

    ``strands`` that were under way, and the first ``waits`` of them as they wait. A child has ``parent``, ``depth``,
    ``on_parent_end``, its ``deadline``; ``holds`` as ``Spawned`` had it: no CONTINUE in it or above.
    """
    def __new__(
        cls,
        turn_id: int,
        run_id: str,
        sequence: int,
        *,
        role: Role = "prompt",
        begun: bool = True,
        parent: int | None = None,
        depth: int = 0,
        on_parent_end: OnParentEnd = "wait",
        is_async: bool = False,
        outside: bool = False,
        holds: bool = True,
        parent_ended: bool = False,
        cut: Cut | None = None,
        cancel: Cancel | None = None,
        deadline: float | None = None,
        inbox: tuple[ChildResult, ...] = (),
        strands: int = 1,
        waits: tuple[WaitImage, ...] = (),
    ) -> TurnImage: ...

@final
class Image:
    """A session as it was left: its runs in accept order, its turns, whether it is closing."""
    def __new__(
        cls,
        runs: tuple[RunImage, ...] = (),
        turns: tuple[TurnImage, ...] = (),
        *,
        closing: Cancel | None = None,
    ) -> Image:
        """``closing``: the cancel of a deletion that was under way."""

# ---------------------------------------------------------------- observing

@final
class Hold:
    """A reason why a run is not over: what kind, for what, since when, until when."""
    @property
    def kind(
        self,
    ) -> Literal[
        "reserved",
        "line",
        "gate",
        "turn",
        "approval",
        "tool",
        "backoff",
        "servers",
        "run",
        "drain",
        "lane",
        "slot",
        "child",
        "children",
        "guard",
        "cancel",
        "terminal",
    ]: ...
    @property
    def label(self) -> str: ...
    @property
    def since(self) -> float: ...
    @property
    def deadline(self) -> float | None: ...
    @property
    def turn(self) -> int | None: ...
    @property
    def position(self) -> int | None:
        """In the line: runs ahead."""

@final
class TurnView:
    """A turn as it is now."""
    @property
    def turn(self) -> TurnRef: ...
    @property
    def stand(self) -> Literal["waiting", "running", "parked", "woken"]: ...
    @property
    def since(self) -> float:
        """When it came to stand so."""
    @property
    def begun(self) -> bool: ...
    @property
    def strands(self) -> int: ...
    @property
    def waits(self) -> int: ...
    @property
    def children(self) -> int: ...
    @property
    def tickets(self) -> int: ...
    @property
    def inbox(self) -> int: ...
    @property
    def held(self) -> bool: ...
    @property
    def closing(self) -> bool: ...
    @property
    def cut(self) -> Cut | None: ...
    @property
    def parent_ended(self) -> bool: ...

@final
class Page:
    """Some live floor turns; ``cursor`` for what comes after them, None at the end."""
    @property
    def turns(self) -> list[TurnView]: ...
    @property
    def cursor(self) -> tuple[int, int] | None: ...

@final
class Counts:
    """A session in numbers, as it is now."""
    @property
    def open_run_id(self) -> str | None: ...
    @property
    def head_run_id(self) -> str | None:
        """The first run in line that no cancel covers."""
    @property
    def reserved(self) -> int:
        """In line, those that a cancel covers too."""
    @property
    def queued(self) -> int: ...
    @property
    def turns(self) -> int: ...
    @property
    def bytes(self) -> int:
        """Of the prompts of all runs that are not over."""
    @property
    def closing(self) -> bool: ...

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
    def cancel(self) -> Cancel | None: ...
    @property
    def steers(self) -> str | None: ...

@final
class Snapshot:
    """One session as it is now, whole: for tests."""
    @property
    def open(self) -> RunView | None: ...
    @property
    def line(self) -> list[RunView]: ...
    @property
    def lent(self) -> list[RunView]: ...
    @property
    def turns(self) -> list[TurnView]: ...
    @property
    def held_by(self) -> tuple[int, int, int]:
        """What holds the open run: floor turns, children, guards."""
    @property
    def mark(self) -> int | None:
        """How far cancels of the session reached, while reservations are open."""
    @property
    def closing(self) -> bool: ...

@final
class Stats:
    """Counts over all sessions."""
    @property
    def sessions(self) -> int: ...
    @property
    def open_runs(self) -> int:
        """Runs accepted and not over."""
    @property
    def open_bytes(self) -> int: ...
    @property
    def running_turns(self) -> int:
        """Permits in use, of all depths, those on their way included."""
    @property
    def waiting_turns(self) -> int:
        """Turns that wait for a permit, of all depths."""
    @property
    def parked_turns(self) -> int:
        """Begun turns that have none and ask for none."""
    @property
    def children(self) -> int: ...
    @property
    def lane_slots(self) -> int:
        """Slots in use in the lanes of all providers."""
    @property
    def lane_waiters(self) -> int: ...
    @property
    def errands(self) -> int: ...
    @property
    def deadlines(self) -> int: ...
    @property
    def last_sequence(self) -> int: ...

# ---------------------------------------------------------------- the scheduler

@final
class Scheduler:
    """All scheduling state of all sessions. Thread-safe; a session without work leaves no entry.

    Every operation raises DrainingError once the phase is "cut". Those that take ``turn`` raise BadStateError if it
    does not live, and AbortedError if it is cut, unless they say otherwise.
    """
    def __new__(cls, limits: Limits | None = None, *, epoch: int = 0, last_sequence: int = 0) -> Scheduler:
        """``epoch`` (below 2**21) is in the high bits of sequences and turns; sequences are above ``last_sequence``."""

    # -- into the line, and the end of a run
    def accept(
        self,
        tenant: str,
        session_id: str,
        run_id: str,
        now: float,
        *,
        kind: Kind = "prompt",
        delivery: Delivery = "queue",
        require_idle: bool = False,
        expected_open_run_id: str | None = None,
        steer_turn: int | None = None,
        cancelled: Cancel | None = None,
        size: int = 0,
        start_timeout: float | None = None,
        run_timeout: float | None = None,
        may_start: bool = False,
    ) -> Step[Accepted]:
        """Check preconditions and bounds and stamp a reservation, in one step.

        ``size`` is in bytes. ``cancelled`` (a tombstone met it): exempt from preconditions, bounds and its own
        delivery; its dispatch closes it. ``start_timeout`` counts from now, is armed by the dispatch, and gone when the
        run begins; ``run_timeout`` counts from then. ``may_start``: begin in this step, if nothing else is in the
        session and a permit is free. Raises, in this order: RunExistsError, SessionDeletingError, DrainingError,
        OpenRunMismatchError, SessionBusyError, TurnNotFoundError, QueueFullError.
        """
    def dispatch(self, tenant: str, session_id: str, run_id: str, now: float) -> Step[Dispatched]:
        """The accept is durable: the run stands in line, begins, or is closed if a cancel came first.

        Raises UnknownRunError.
        """
    def abandon(self, tenant: str, session_id: str, run_id: str, now: float) -> Step[None]:
        """The accept was never committed: the run leaves no trace, neither does the turn that it started.

        Raises UnknownRunError; BadStateError if an operation has named that turn already.
        """
    def finish(self, tenant: str, session_id: str, run_id: str, now: float) -> Step[None]:
        """The terminal of ``RunOver`` is durable: free the floor and open the next. Raises UnknownRunError."""

    # -- permits, strands, waits
    def strands(self, tenant: str, session_id: str, turn: int, count: int, now: float) -> Step[None]:
        """A batch of so many calls begins, in a turn that runs one strand."""
    def strand_ends(self, tenant: str, session_id: str, turn: int, now: float) -> Step[bool]:
        """A call of the batch has its result; the last one leads back to the loop. Answers whether the turn still runs.

        Also of a turn that is cut.
        """
    def wait(
        self,
        tenant: str,
        session_id: str,
        turn: int,
        kind: WaitKind,
        now: float,
        *,
        label: str = "",
        deadline: float | None = None,
        target: str | None = None,
        by: int | None = None,
    ) -> Step[Waiting]:
        """A strand waits for somebody outside. If all do, the turn is parked: it has no permit.

        ``target`` with kind "run": the session (of this tenant) of the run that it waits for. ``by``: a tool's wait,
        whose tool calls from outside with its turn's token (only kind "run"); it takes no strand. Raises
        WouldDeadlockError, WaitCycleError.
        """
    def waited(self, tenant: str, session_id: str, turn: int, wait: int, now: float) -> Step[bool]:
        """What a strand or a call waited for has come.

        False: it waits no more (cut or due came first, or the turn is gone).
        """
    def enter_lane(
        self,
        tenant: str,
        session_id: str,
        turn: int | None,
        lane: str,
        now: float,
        *,
        label: str = "",
        deadline: float | None = None,
    ) -> Step[LaneEntry]:
        """Ask for a slot in a provider's lane; ``Came`` ("in", or "due") follows where it has to wait.

        ``turn`` None: an errand, which has no permit and comes after the turns; ``Errand`` follows. Raises
        LaneFullError; for an errand SessionDeletingError and DrainingError; ValueError if there is no such lane.
        """
    def leave_lane(self, tenant: str, session_id: str, turn: int | None, entry: int, now: float) -> Step[bool]:
        """Give the slot back, or the place in the queue.

        False: it has neither. Never raises for a turn that is gone.
        """

    # -- the tree
    def spawn(
        self,
        tenant: str,
        session_id: str,
        turn: int,
        now: float,
        *,
        on_parent_end: OnParentEnd = "wait",
        is_async: bool = False,
        is_valid: bool = True,
        caller_cancelled: bool = False,
        timeout: float | None = None,
        slot_wait: float | None = None,
        by: int | None = None,
        depth: int | None = None,
        children_per_turn: int | None = None,
        children_per_run: int | None = None,
    ) -> Step[Admission]:
        """A strand of ``turn`` asks for a child, and waits: for its end if synchronous, else at most for a slot.

        ``timeout`` and ``slot_wait``: None is the limit's. ``by``: as in ``wait``. The last three narrow the limits.
        Raises SpawnRefusedError, DrainingError (not AbortedError).
        """
    def abandon_spawn(self, tenant: str, session_id: str, turn: int, wait: int, now: float) -> Step[bool]:
        """The caller gave up waiting for a slot: it is decided as cancelled. False: it waits no more. Never raises."""

    # -- fold points, loans, the end of a turn
    def fold_point(
        self, tenant: str, session_id: str, turn: int, now: float, *, most: int | None = None
    ) -> Step[FoldPoint]:
        """Before a step of the turn: lend at most so many STEERs, and all results."""
    def taken(self, tenant: str, session_id: str, turn: int, now: float) -> Step[None]:
        """The draft that holds the loan is submitted in this block: ``Closed(folded)`` and ``Delivered`` belong to it.

        Also of a turn that was cut meanwhile. Anything else that ends the turn gives the loan back.
        """
    def conclude(
        self,
        tenant: str,
        session_id: str,
        turn: int,
        proposal: Literal["answer", "failed", "cut"],
        now: float,
        *,
        may_step: bool = True,
        most: int | None = None,
        if_last: bool = False,
    ) -> Step[Conclusion]:
        """Propose the end of a turn. A cut decides over every proposal; "cut" of a turn that is not cut is "failed".

        ``may_step`` false: no further step may follow. ``if_last``: answer "last" where it would be the run's last
        answer.
        """

    # -- what holds a run beside its turns
    def hold(
        self, tenant: str, session_id: str, run_id: str, label: str, now: float, *, deadline: float | None = None
    ) -> Step[int]:
        """Hold the open run; it cannot be over before. Raises UnknownRunError (also: concluded, or cut)."""
    def release(self, tenant: str, session_id: str, run_id: str, guard: int, now: float) -> Step[bool]:
        """Release a hold. False: it is gone."""

    # -- cancels
    def cancel_session(
        self, tenant: str, session_id: str, cancel: Cancel, now: float, *, up_to: int | None = None
    ) -> Step[Cancelled]:
        """Cancel all that the session accepted so far, or up to a sequence. Idle: no effect."""
    def clear_queue(
        self, tenant: str, session_id: str, cancel: Cancel, now: float, *, up_to: int | None = None
    ) -> Step[Cancelled]:
        """The same, but for the open run and for runs of kind bootstrap."""
    def cancel_run(self, tenant: str, session_id: str, run_id: str, cancel: Cancel, now: float) -> Step[Cancelled]:
        """Cancel one run, and what is left of it after its end. All lists empty: the core does not know it."""
    def cancel_subtree(self, tenant: str, session_id: str, turn: int, cancel: Cancel, now: float) -> Step[Cancelled]:
        """ABORT: a turn and all below it. STOP: it alone. Of a floor turn: its run. Raises TurnNotFoundError."""
    def cancel_tenant(self, tenant: str, cancel: Cancel, now: float) -> Step[Cancelled]:
        """Cancel all that the tenant's sessions accepted before this call and nothing accepted after it."""

    # -- closing, draining, time
    def close_session(
        self, tenant: str, session_id: str, cancel: Cancel, now: float, *, force: bool
    ) -> Step[Cancelled]:
        """Take nothing in any more, cancel (abort) all that is there.

        Without ``force``: SessionBusyError if anything is.
        """
    def forget_session(self, tenant: str, session_id: str, now: float) -> Step[None]:
        """After the erase: the session is as if it had never been. Raises SessionBusyError while anything lives."""
    def drain(self, phase: Phase, now: float) -> Step[None]:
        """draining: nothing begins or gets a permit, fold points say leave.

        cut: every call is refused. Only forward.
        """
    def next_due(self) -> float | None:
        """The earliest deadline."""
    def due(self, now: float, *, most: int = 100) -> list[tuple[tuple[str, str], Step[None]]]:
        """Fire deadlines that have passed, earliest first, at most so many: each its own step, of the session named.

        Call ``next_due`` afterwards: it is in the past if there are more.
        """
    def arm_reservation(self, tenant: str, session_id: str, run_id: str, when: float, now: float) -> Step[None]:
        """If the run is not dispatched by then, it is closed as stranded. Raises UnknownRunError."""
    def arm_disconnect(
        self, tenant: str, session_id: str, run_id: str, cancel: Cancel, when: float, now: float
    ) -> Step[None]:
        """Give this cancel to the run then. Raises UnknownRunError (also: concluded)."""
    def disarm_disconnect(self, tenant: str, session_id: str, run_id: str, now: float) -> Step[None]:
        """Somebody came back. Never raises."""
    def restore(self, tenant: str, session_id: str, image: Image, now: float) -> Step[None]:
        """A session as it was left, in one step: everything that had begun goes on, what waits, waits.

        Raises SessionBusyError if the session has an entry, ValueError if the image contradicts itself.
        """

    # -- several nodes
    def raise_sequence(self, epoch: int) -> None:
        """Sequences and turns from here on have at least this epoch in their high bits. ValueError beyond 2**21."""
    def evict(self, tenant: str, session_id: str, now: float) -> Step[None]:
        """The session goes elsewhere: nothing of it is here any more, and nothing is said of it; its permits go on."""
    def set_limits(self, limits: Limits, now: float) -> Step[None]:
        """Bounds from here on. What stands above one stays; lanes that are missing keep what they have."""

    # -- observing
    def place(self, tenant: str, session_id: str, run_id: str) -> tuple[Place, int] | None:
        """Where a run stands, and how many are ahead of it."""
    def counts(self, tenant: str, session_id: str) -> Counts | None: ...
    def holds(self, tenant: str, session_id: str, run_id: str) -> list[Hold]:
        """Why it is not over, each reason; empty if it is."""
    def tree(self, tenant: str, session_id: str, run_id: str) -> list[TurnView]:
        """Its live turns, parents first."""
    def active(self, after: tuple[int, int] | None = None, *, limit: int = 50, tenant: str | None = None) -> Page:
        """Live floor turns, a page at a time; one that lives from the first page to the last is in one of them."""
    def snapshot(self, tenant: str, session_id: str) -> Snapshot | None:
        """The session as it is, None if it has no entry."""
    def stats(self) -> Stats: ...

"""What the model keeps: runs, turns, sessions; and what they are to be again after a restart."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from turnkeeper_core import CancelMode, Cut, End, Kind, OnParentEnd, WaitKind

Key = tuple[str, str]
Effect = tuple[object, ...]


class Refused(Exception):
    """A call that has changed nothing, and why not."""

    def __init__(self, why: str, *of: object) -> None:
        super().__init__(why, *of)
        self.why = (why, *of)


@dataclass(frozen=True)
class Cancel:
    """A cancel as the model knows it."""

    reason: str
    mode: CancelMode

    def as_abort(self) -> Cancel:
        return replace(self, mode="abort")


@dataclass(frozen=True)
class Cutting:
    """What was requested of a run or a turn."""

    how: Cut
    cancel: Cancel | None = None

    @property
    def is_hard(self) -> bool:
        return self.how != "stop"

    @property
    def spares_continue(self) -> bool:
        return self.how in ("deadline", "parent")

    @property
    def reason(self) -> str | None:
        return self.cancel.reason if self.cancel else None

    @property
    def end(self) -> End:
        """How a turn ends that was cut so."""
        return "deadline" if self.how == "deadline" else "parent" if self.how == "parent" else "cancelled"


def cutting(cancel: Cancel) -> Cutting:
    """What a cancel asks for."""
    return Cutting(cancel.mode, cancel)


@dataclass(eq=False)
class Run:
    """An accepted run that is not over."""

    id: str
    sequence: int
    kind: Kind
    size: int = 0
    place: Literal["reserved", "queued", "lent", "open"] = "reserved"
    cut: Cutting | None = None
    begun: bool = False
    concluded: bool = False
    steers: Run | Turn | None = None
    bound: dict[int, Run] = field(default_factory=dict)
    timeout: float | None = None
    start_at: float | None = None
    disconnect: Cancel | None = None
    is_started: bool = False
    """Begun by its accept."""
    fresh: int | None = None
    """The turn that began there, while nobody has named it."""
    acts: int = 0
    kids: int = 0
    admitted: int = 0
    guards: set[int] = field(default_factory=set)
    last_guard: int = 0

    @property
    def is_hard(self) -> bool:
        return self.cut is not None and self.cut.is_hard


@dataclass
class Wait:
    """What a strand waits for; ``data`` is a target session, or a lane and a ticket."""

    kind: str
    target: Key | None = None
    lane: str = ""
    ticket: int = 0
    child: int | None = None


@dataclass
class Call:
    """What a tool that runs outside waits for."""

    kind: Literal["slot", "child", "run"]
    by: int
    target: Key | None = None
    child: int | None = None


@dataclass(frozen=True)
class Spec:
    """What a child is to be."""

    on_parent_end: OnParentEnd
    is_async: bool
    timeout: float
    slots: int


@dataclass(eq=False)
class Turn:
    """A turn that lives, or a parent that did."""

    id: int
    role: Literal["prompt", "summary", "child"]
    run: Run
    parent: Turn | None = None
    parent_id: int | None = None
    """Of a child; its parent may live no more."""
    on_parent_end: OnParentEnd = "wait"
    is_async: bool = False
    outside: bool = False
    depth: int = 0
    holds: bool = True
    alive: bool = True
    begun: bool = False
    stand: Literal["none", "waiting", "running", "parked"] = "none"
    ticket: int | None = None
    strands: int = 1
    waits: dict[int, Wait] = field(default_factory=dict)
    last_wait: int = 0
    children: dict[int, Turn] = field(default_factory=dict)
    tickets: dict[int, Spec] = field(default_factory=dict)
    calls: dict[int, Call] = field(default_factory=dict)
    slots: dict[int, str] = field(default_factory=dict)
    inbox: list[tuple[int, End]] = field(default_factory=list)
    loan: tuple[list[Run], list[tuple[int, End]]] | None = None
    bound: dict[int, Run] = field(default_factory=dict)
    cut: Cutting | None = None
    stop: Cancel | None = None
    parent_ended: bool = False
    held: Literal["step", "end"] | None = None
    closing: bool = False

    @property
    def is_floor(self) -> bool:
        return self.role != "child"

    @property
    def is_stopping(self) -> bool:
        return self.stop is not None or self.parent_ended

    @property
    def is_in_its_loop(self) -> bool:
        return self.stand == "running" and self.strands == 1 and not self.waits

    @property
    def has_free_strand(self) -> bool:
        return len(self.waits) < self.strands

    def mint_wait(self) -> int:
        self.last_wait += 1
        return self.last_wait


@dataclass(eq=False)
class Session:
    """A session that has work."""

    key: Key
    line: list[Run] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)
    open: Run | None = None
    turns: dict[int, Turn] = field(default_factory=dict)
    closing: bool = False

    @property
    def tenant(self) -> str:
        return self.key[0]

    @property
    def floor(self) -> Turn | None:
        return next((turn for turn in self.turns.values() if turn.is_floor), None)


@dataclass(frozen=True)
class RunLeft:
    """A run as a crash left it."""

    id: str
    sequence: int
    kind: Kind
    opened: bool
    steers: str | int | None
    cut: Cutting | None
    size: int
    admitted: int
    timeout: float | None


@dataclass(frozen=True)
class TurnLeft:
    """A turn as a crash left it."""

    id: int
    role: Literal["prompt", "summary", "child"]
    run_id: str
    sequence: int
    parent: int | None
    depth: int
    on_parent_end: OnParentEnd
    is_async: bool
    outside: bool
    holds: bool
    begun: bool
    parent_ended: bool
    cut: Cutting | None
    inbox: tuple[tuple[int, End], ...]
    strands: int
    waits: tuple[WaitKind, ...]


@dataclass(frozen=True)
class Left:
    """A session as a crash left it."""

    runs: tuple[RunLeft, ...]
    turns: tuple[TurnLeft, ...]
    closing: Cancel | None

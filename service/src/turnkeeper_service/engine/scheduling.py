"""What a turn asks of the scheduler, without knowing it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from turnkeeper.v1 import content_pb2, event_pb2

from .journal import Draft


class FoldedRun(Protocol):
    """A STEER run that a fold point has taken out of the line; its fold has to be written at once."""

    run_id: str
    prompt: Sequence[content_pb2.Part]

    def fold(self, draft: Draft, fold: event_pb2.Fold) -> None:
        """Write its terminal into the draft that puts its message into the context (U-22)."""
        ...


@dataclass(frozen=True, slots=True)
class FoldPoint:
    """What a turn finds at a fold point: runs to fold, and whether it was asked to stop (U-11, U-20).

    ``hint`` is what the last step of a stopping turn is told.
    """

    fold: Sequence[FoldedRun]
    is_stopping: bool
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Concluding:
    """The answer to a proposed conclusion (U-10).

    ``is_concluded`` false: ``fold`` has to be folded and the turn goes on. ``is_cancelled``: an abort came first and
    decides the outcome; the text stays. ``is_stopped``: a stop came first.
    """

    is_concluded: bool
    is_cancelled: bool
    is_stopped: bool
    fold: Sequence[FoldedRun]


class Scheduling(Protocol):
    """The line of a turn's run. Each call is one step of the core; what it returns is written before the next await."""

    @property
    def is_leaving(self) -> bool:
        """Whether the server goes away: no further step begins (U-17)."""
        ...

    def fold_point(self) -> FoldPoint:
        """Before a step of a floor turn that answers the user. The turn has its permit."""
        ...

    def park(self) -> None:
        """Give the permit back: the turn waits for somebody outside, and keeps the floor (U-3)."""
        ...

    def wake(self) -> None:
        """Ask for the permit again, ahead of turns that have not begun."""
        ...

    def permit(self) -> Awaitable[object] | None:
        """A wait for the permit of a turn that was woken; None where it has it."""
        ...

    def conclude_answer(self, *, steer: bool) -> Concluding:
        """Propose that the turn's answer ends the run; ``steer`` false: no further step may follow (U-21)."""
        ...

"""What a turn asks of the scheduler, without knowing it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from turnkeeper.v1 import content_pb2, event_pb2

from .journal import Draft
from .turn_end import TurnEnd

WaitKind = Literal["approval", "tool", "backoff", "servers", "drain"]
"""What a strand of a turn waits for: leave to run a call, somebody who runs one elsewhere, the next attempt of a model
call, tool servers that connect, the end of the process."""


class FoldedRun(Protocol):
    """A STEER run that was lent to a turn: its fold is written into the draft that is submitted with `taken`."""

    run_id: str

    @property
    def prompt(self) -> Sequence[content_pb2.Part]:
        """What was asked, once it was read."""
        ...

    @property
    def is_lost(self) -> bool:
        """Whether that could not be read; then its run is not folded, but fails."""
        ...

    async def read(self) -> None:
        """Have its prompt in memory."""
        ...

    def fail(self, draft: Draft) -> None:
        """Write the terminal of one that is lost."""
        ...

    def fold(self, draft: Draft, fold: event_pb2.Fold) -> None:
        """Write its terminal into the draft that puts its message into the context (U-22)."""
        ...


@dataclass(frozen=True, slots=True)
class FoldPoint:
    """What a turn finds at a fold point: runs to fold, and whether it was asked to stop (U-11, U-20).

    ``hint`` is what the last step of a stopping turn is told. ``is_leaving``: the server goes away, and no further step
    begins (U-17).
    """

    fold: Sequence[FoldedRun]
    is_stopping: bool
    hint: str = ""
    is_leaving: bool = False


class Wait(Protocol):
    """One strand of a turn waits; without another one that runs, the turn has no permit meanwhile (U-3)."""

    is_parked: bool
    """Whether the turn has no permit since this wait began."""
    came: asyncio.Future[None]
    """Resolves when the deadline has passed, or a wait that nothing but time ends is cut short by a stop."""

    def end(self) -> None:
        """What it waited for has come. Harmless when it is over."""
        ...


class Scheduling(Protocol):
    """The place of a turn in its line and at the gates. Each call is one step of the core.

    What a fold point lends is taken with the draft that holds it; if that draft is never submitted, it is given back.
    """

    def fold_point(self, *, is_lending: bool = True) -> FoldPoint:
        """Before a step of a floor turn that answers the user. The turn has its permit, and one strand.

        Raises TurnCancelledError where an abort covers the turn.
        """
        ...

    def taken(self) -> None:
        """The draft that folds what was lent is being submitted."""
        ...

    def strands(self, count: int) -> None:
        """From one strand, so many calls come under way side by side."""
        ...

    def strand_ends(self) -> bool:
        """One of several calls is over; the last one leads back to the loop. Whether the turn has no permit now."""
        ...

    def wait(self, kind: WaitKind, label: str, seconds: float | None = None) -> Wait:
        """A strand waits for somebody or something, at most so long."""
        ...

    def permit(self) -> Awaitable[object] | None:
        """A wait for the permit of a turn that goes on; None where it has it."""
        ...

    def lane(self, model: str) -> AbstractAsyncContextManager[None] | None:
        """The turn's place among the calls to the provider of ``provider/model``; None where nothing bounds them.

        Entering it raises ProviderError where the line before it is full or too slow.
        """
        ...

    def conclude(self, end: TurnEnd, *, may_step: bool = False) -> Sequence[FoldedRun] | None:
        """Propose that the turn ends so (U-10). None: it has ended, and what it leaves is submitted.

        Otherwise what comes first is folded, and the turn goes on; never without ``may_step`` (U-21).
        """
        ...


async def stand(scheduling: Scheduling, note: Callable[[str], None]) -> None:
    """A server that goes away begins no further step (U-17): the turn stands here until it is cut.

    Everything that it did is durable; the next process goes on from here.
    """
    note("drain")
    scheduling.wait("drain", "drain")
    await asyncio.get_running_loop().create_future()

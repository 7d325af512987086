"""What those who take steps of the core need of whoever performs them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from turnkeeper_service.engine.abstract_turn import Turn
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.engine.turn_end import TurnEnd
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.runs.session.session import Session

from .parts import Parts
from .scheduler import CoreScheduler, Key, RunRef, Step
from .terminals import Terminals


class Performing(Protocol):
    """Performs steps; see `turnkeeper_service.runs.conductor.Conductor`."""

    parts: Parts
    core: CoreScheduler
    terminals: Terminals

    def perform(
        self, step: Step[Any], draft: tuple[Session, Draft] | None = None
    ) -> Mapping[Key, asyncio.Future[None]]:
        """Do what a step leads to. Returns the commits."""
        ...

    def expect(self, errand: int) -> asyncio.Future[str]:
        """What becomes of an errand that waits for its place: ``in``, ``busy`` or ``cut``."""
        ...


class Concluding(Performing, Protocol):
    """Performs the steps of turns too."""

    def conclude(
        self, run: Run, key: int, end: TurnEnd, *, may_step: bool = False, is_cut: bool = False
    ) -> Sequence[RunRef] | None:
        """Propose the end of a turn: None where it is over and submitted, else what is folded first."""
        ...

    def may_end(self, run: Run, error: BaseException | None) -> bool:
        """Whether a turn that did not end by itself gets its end now; else it is left to recovery."""
        ...

    def stands(self, run: Run) -> None:
        """A run that is durable is left in line."""
        ...

    async def prepare(self, run: Run, turn: Turn) -> None:
        """What comes before the first step of a turn."""
        ...

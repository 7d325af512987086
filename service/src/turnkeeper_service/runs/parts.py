"""What all who handle runs share."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from turnkeeper.v1 import session_service_pb2
from turnkeeper_service.errors import Refused, draining, store_unavailable
from turnkeeper_service.process.clock import Clock, seconds_of
from turnkeeper_service.process.tasks import TaskOwner
from turnkeeper_service.providers.options import CallLimits
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.runs.session.shelf import Shelf
from turnkeeper_service.store.base import Store

from .options import RunOptions
from .scheduler import CoreScheduler


class Checkpoints(Protocol):
    """Places where a test may hold a run. ``reach`` returns None where nothing holds there."""

    def reach(self, place: str, run_id: str) -> Coroutine[Any, Any, None] | None:
        """The wait of this run at this place: ``dispatch`` or ``turn``."""
        ...

    def is_held(self, run_id: str) -> bool:
        """Whether this run is held anywhere; then its accept and its start are two commits."""
        ...


@dataclass(slots=True)
class Parts:
    """The core, the store, the clock, the owner of tasks, and the runs that are accepted and not over."""

    core: CoreScheduler
    store: Store
    clock: Clock
    options: RunOptions
    owner: TaskOwner
    bounds: Mapping[str, CallLimits] = field(default_factory=dict)
    """On the calls to providers, by name; the core keeps their lines."""
    checkpoints: Checkpoints | None = None
    runs: dict[tuple[str, str], Run] = field(default_factory=dict)
    """By tenant and run id."""
    ending: dict[tuple[str, str], Run] = field(default_factory=dict)
    """Those of them whose terminal is written and not durable."""
    is_failed: bool = False
    """The store is lost: whether what was asked took effect is unknown (U-14)."""
    shelf: Shelf = field(init=False)
    """Where prompts in line are that are not in memory."""

    def __post_init__(self) -> None:
        self.shelf = Shelf(self.store, self.clock)

    @property
    def is_serving(self) -> bool:
        """Whether new runs are taken."""
        return self.core.phase == "serving"

    @property
    def is_cut(self) -> bool:
        """Whether nothing is written any more, and what is open is left to recovery (U-17)."""
        return self.core.phase == "cut"

    @property
    def num_detached(self) -> int:
        """Work that ignores its cancel and has not ended yet (U-12)."""
        return sum(name.startswith("detached ") for name in self.owner.names())

    def going_away(self) -> Refused:
        """Why nothing new is taken."""
        return store_unavailable() if self.is_failed else draining()

    def reach(self, place: str, run_id: str) -> Coroutine[Any, Any, None] | None:
        """What holds a run at a place, if a test does."""
        return self.checkpoints.reach(place, run_id) if self.checkpoints is not None else None

    def add(self, run: Run) -> None:
        """Take a run that the core has stamped."""
        self.runs[run.key] = run
        run.session.runs.add(run.run_id)

    def forget(self, run: Run) -> None:
        """Let a run go: it is over, or its accept was never committed."""
        # A turn and its run know each other: parted here, they are freed without the garbage collector.
        if run.driven is not None:
            run.driven.let_go()
            run.driven = None
        self.shelf.leave(run)
        self.runs.pop(run.key, None)
        self.ending.pop(run.key, None)
        run.session.remove_run(run.run_id)

    def most_steers(self, run: Run) -> int | None:
        """How many STEER runs a fold point takes, by the session's settings as they are now."""
        mode = run.session.settings.steering_mode or self.options.steering_mode
        return 1 if mode == session_service_pb2.STEERING_MODE_ONE else None

    def run_timeout(self, run: Run) -> float | None:
        """Seconds that a run may take from its start; None for no end."""
        if run.submission.HasField("run_timeout"):
            return seconds_of(run.submission.run_timeout)
        settings = run.session.settings
        return seconds_of(settings.run_timeout) if settings.HasField("run_timeout") else self.options.run_timeout

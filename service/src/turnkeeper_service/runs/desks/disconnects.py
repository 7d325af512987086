"""What becomes of runs whose submitter is lost, where their submission says so (model.md section 7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from turnkeeper.v1 import event_pb2
from turnkeeper_service.process.clock import seconds_of
from turnkeeper_service.runs.parts import Parts
from turnkeeper_service.runs.performing import Performing
from turnkeeper_service.runs.session.cancels import cancel_of
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.runs.session.session import Session


class Disconnects:
    """Counts the time of runs whose submitter is lost; a watcher of the same principal stops it."""

    def __init__(self, parts: Parts, conductor: Performing) -> None:
        self._parts = parts
        self._conductor = conductor
        self._watchers: Counter[tuple[str, str, str]] = Counter()
        """Streams that watch a session, by tenant, session and principal."""
        self._counting: dict[tuple[str, str, str], set[Run]] = {}
        """Runs whose time counts, by the same."""
        self._lost: set[Run] = set()
        """Runs that were lost once and are not over."""

    @contextmanager
    def watching(self, session: Session, principal: str) -> Iterator[None]:
        """A principal watches a session meanwhile."""
        key = (*session.key, principal)
        for run in self._counting.pop(key, ()):
            if not self._parts.is_cut:
                self._conductor.perform(self._parts.core.disarm_disconnect(run.session.key, run.run_id))
        self._watchers[key] += 1
        try:
            yield
        finally:
            self._watchers[key] -= 1
            if not self._watchers[key]:
                del self._watchers[key]

    def lost(self, run: Run) -> None:
        """The stream that submitted a run is gone, or the process that had it."""
        policy = run.submission.on_disconnect
        key = (*run.session.key, run.principal)
        if policy.HasField("cancel_after") and key not in self._watchers and self._is_open(run):
            self._counting.setdefault(key, set()).add(run)
            if run not in self._lost:
                self._lost.add(run)
                run.finished.add_done_callback(lambda _: self._over(run))
            request = event_pb2.RunCancelRequested(
                reason=event_pb2.OUTCOME_REASON_USER, actor=f"{run.principal} (disconnected)"
            )
            seconds = seconds_of(policy.cancel_after)
            self._conductor.perform(
                self._parts.core.arm_disconnect(run.session.key, run.run_id, cancel_of(request), seconds)
            )

    def _is_open(self, run: Run) -> bool:
        """Whether its time counts: it is not concluded, and the server does not go away."""
        place = None if self._parts.is_cut else self._parts.core.place(run.session.key, run.run_id)
        return self._parts.is_serving and place is not None and place[0] != "concluded"

    def _over(self, run: Run) -> None:
        self._lost.discard(run)
        key = (*run.session.key, run.principal)
        counting = self._counting.get(key)
        if counting is not None:
            counting.discard(run)
            if not counting:
                del self._counting[key]

"""What becomes of runs whose submitter is lost, where their submission says so (model.md section 7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from turnkeeper.v1 import event_pb2
from turnkeeper_service.clock import seconds_of

from .cancel import Canceller, cancel_of
from .line import Line
from .run import Run
from .session import Session


class Disconnects:
    """Counts the time of runs whose submitter is lost; a watcher of the same principal stops it."""

    def __init__(self, line: Line, canceller: Canceller) -> None:
        self._line = line
        self._canceller = canceller
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
            run.stop_timer("disconnect")
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
        if policy.HasField("cancel_after") and key not in self._watchers and not run.finished.done():
            self._counting.setdefault(key, set()).add(run)
            if run not in self._lost:
                self._lost.add(run)
                run.finished.add_done_callback(lambda _: self._over(run))
            self._line.arm(run, "disconnect", seconds_of(policy.cancel_after), lambda: self._cancel(run))

    def _over(self, run: Run) -> None:
        self._lost.discard(run)
        key = (*run.session.key, run.principal)
        counting = self._counting.get(key)
        if counting is not None:
            counting.discard(run)
            if not counting:
                del self._counting[key]

    def _cancel(self, run: Run) -> None:
        if self._line.is_cut or self._line.is_draining or run.finished.done():
            return
        request = event_pb2.RunCancelRequested(
            reason=event_pb2.OUTCOME_REASON_USER, actor=f"{run.principal} (disconnected)"
        )
        found = self._line.core.cancel_run(run.session.key, run.run_id, cancel_of(request))
        self._canceller.submit(found, request)

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

    @contextmanager
    def watching(self, session: Session, principal: str) -> Iterator[None]:
        """A principal watches a session meanwhile."""
        for run_id in session.runs:
            run = self._line.runs[(session.tenant, run_id)]
            if run.principal == principal:
                run.stop_timer("disconnect")
        key = (*session.key, principal)
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
        is_watched = (*run.session.key, run.principal) in self._watchers
        if policy.HasField("cancel_after") and not is_watched and not run.finished.done():
            self._line.arm(run, "disconnect", seconds_of(policy.cancel_after), lambda: self._cancel(run))

    def _cancel(self, run: Run) -> None:
        if self._line.is_cut or self._line.is_draining or run.finished.done():
            return
        request = event_pb2.RunCancelRequested(
            reason=event_pb2.OUTCOME_REASON_USER, actor=f"{run.principal} (disconnected)"
        )
        found = self._line.core.cancel_run(run.session.key, run.run_id, cancel_of(request))
        self._canceller.submit(found, request)

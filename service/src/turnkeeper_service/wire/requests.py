"""Shapes of requests that RunService's methods and Converse's frames share."""

from __future__ import annotations

from collections.abc import Callable

from turnkeeper.v1 import event_pb2
from turnkeeper.v1 import run_service_pb2 as pb
from turnkeeper_service.events.log import LogEntry
from turnkeeper_service.events.reader import ReadFilter

from .validate import Findings, check_id, check_text

RUN_FINISHED = 26
"""Field number of the terminal in turnkeeper.v1.Event."""

MAX_HINT_BYTES = 16 << 10


def check_cancel(request: pb.CancelRunsRequest, path: str = "") -> None:
    """The shape of a cancel; ``path`` is where the request holds it. Raises Refused."""
    found = Findings(path)
    check_text(found, request)
    kind = request.scope.WhichOneof("scope")
    if kind is None:
        found.add("scope", "is missing")
    elif kind == "session_id":
        check_id(found, "scope.session_id", request.scope.session_id)
    elif kind == "run_id":
        check_id(found, "scope.run_id", request.scope.run_id)
    elif kind == "up_to":
        check_id(found, "scope.up_to.session_id", request.scope.up_to.session_id)
        if request.scope.up_to.accept_sequence < 1:
            found.add("scope.up_to.accept_sequence", "is not positive")
    if request.turn_id:
        if kind != "run_id":
            found.add("turn_id", "goes with scope run_id only")
        else:
            check_id(found, "turn_id", request.turn_id)
    if request.session_id:
        if kind != "run_id":
            found.add("session_id", "goes with scope run_id only")
        else:
            check_id(found, "session_id", request.session_id)
    if request.hint:
        if request.mode != event_pb2.CANCEL_MODE_STOP:
            found.add("hint", "goes with mode STOP only")
        if len(request.hint.encode()) > MAX_HINT_BYTES:
            found.add("hint", f"is longer than {MAX_HINT_BYTES} bytes")
    found.refuse()


def read_filter(wanted: pb.WatchFilter, path: str = "") -> ReadFilter:
    """Which items a reader wants. Raises Refused."""
    found = Findings(path)
    for index, run_id in enumerate(wanted.run_ids):
        check_id(found, f"filter.run_ids[{index}]", run_id)
    found.refuse()
    return ReadFilter(run_ids=set(wanted.run_ids) or None, without_deltas=wanted.without_deltas)


def folding(runs: set[str] | None) -> Callable[[LogEntry], bool]:
    """Lets a filter by runs take in the runs that those were folded into; it never ends the stream."""

    def seen(entry: LogEntry) -> bool:
        if runs is not None and entry.kind == RUN_FINISHED and entry.run_id in runs:
            outcome = event_pb2.Event.FromString(entry.payload).run_finished.outcome
            if outcome.status == event_pb2.OUTCOME_STATUS_FOLDED:
                runs.add(outcome.fold.into_run_id)
        return False

    return seen

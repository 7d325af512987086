"""What of a session's events other sessions' watchers are told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from turnkeeper.v1 import event_pb2, run_service_pb2
from turnkeeper_service.runs.session.session import Session

_RUN_STATES = {
    "run_accepted": run_service_pb2.RUN_STATE_QUEUED,
    "run_started": run_service_pb2.RUN_STATE_RUNNING,
    "run_finished": run_service_pb2.RUN_STATE_FINISHED,
}
_SESSION_EVENTS = frozenset({"session_created", "session_updated", "session_deleted"})


def notices_of(session: Session, events: Sequence[event_pb2.Event]) -> Iterator[run_service_pb2.WatchTenantResponse]:
    """The notices that durable events lead to."""
    for event in events:
        payload = event.WhichOneof("payload")
        if payload in _RUN_STATES:
            notice = run_service_pb2.WatchTenantResponse(time=event.time)
            run = notice.run
            run.session_id, run.run_id, run.seq = session.session_id, event.run_id, event.seq
            run.state = _RUN_STATES[payload]
            if payload == "run_finished":
                run.outcome.CopyFrom(event.run_finished.outcome)
                run.outcome.ClearField("text")
                run.outcome.ClearField("output_json")
            yield notice
        elif payload in _SESSION_EVENTS:
            notice = run_service_pb2.WatchTenantResponse(time=event.time)
            changed = notice.session
            changed.session_id, changed.seq = session.session_id, event.seq
            changed.title = session.title
            changed.is_deleted = payload == "session_deleted"
            yield notice

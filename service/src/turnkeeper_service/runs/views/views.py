"""Sessions and runs as callers see them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from turnkeeper.v1 import event_pb2, run_service_pb2, session_service_pb2
from turnkeeper_service.ids import turn_id_of
from turnkeeper_service.process.clock import Clock
from turnkeeper_service.runs.scheduler import CoreScheduler, Counts, Place
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.runs.session.session import Session
from turnkeeper_service.store.base import RunRow, RunState, SessionState
from turnkeeper_service.store.reading import reading

FINISHED = run_service_pb2.RUN_STATE_FINISHED
_STATES = {
    "reserved": run_service_pb2.RUN_STATE_QUEUED,
    "queued": run_service_pb2.RUN_STATE_QUEUED,
    "lent": run_service_pb2.RUN_STATE_QUEUED,
    "waiting": run_service_pb2.RUN_STATE_WAITING,
    "parked": run_service_pb2.RUN_STATE_AWAITING,
    "held": run_service_pb2.RUN_STATE_AWAITING,
    "woken": run_service_pb2.RUN_STATE_WAITING,
}
"""By the place in the core; elsewhere a run is running, or its terminal is on its way."""
_STORED = {
    RunState.QUEUED: run_service_pb2.RUN_STATE_QUEUED,
    RunState.STARTED: run_service_pb2.RUN_STATE_RUNNING,
    RunState.AWAITING: run_service_pb2.RUN_STATE_AWAITING,
    RunState.FINISHED: FINISHED,
}
_IN_LINE = frozenset({"reserved", "queued", "lent", "waiting"})
_LABELS = {"reserved": "reservation", "line": "queue", "gate": "permit", "turn": "turn", "cancel": "cancelling"}
"""What holds are called whose kind says all; the others have their own label."""


def session_view(session: Session, counts: Counts | None, default_model: str) -> session_service_pb2.Session:
    """A session."""
    view = session_service_pb2.Session(
        session_id=session.session_id,
        settings=session.settings,
        state=session_service_pb2.SESSION_STATE_ACTIVE
        if session.state == SessionState.ACTIVE
        else session_service_pb2.SESSION_STATE_DELETING,
        last_seq=session.log.published_seq,
        usage=session.usage,
        is_busy=bool(session.runs),
        title=session.title,
        context_tokens=session.context.tokens,
        todos=session.todos,
        model=session.settings.model or default_model,
    )
    view.create_time.FromMicroseconds(session.created_us)
    view.update_time.FromMicroseconds(session.updated_us)
    if counts is not None:
        view.open_run_id = counts.open_run_id or ""
        view.queued_runs = counts.reserved + counts.queued
    return view


def _state(run: Run, place: Place | None) -> run_service_pb2.RunState.ValueType:
    if place is None:
        return FINISHED if run.finished.done() else run_service_pb2.RUN_STATE_RUNNING
    return _STATES.get(place[0], run_service_pb2.RUN_STATE_RUNNING)


def _position(place: Place | None) -> int:
    """Runs ahead of a queued run."""
    return place[1] if place is not None and place[0] in _IN_LINE else 0


def receipt_of_run(run: Run, place: Place | None, *, is_replay: bool) -> run_service_pb2.RunReceipt:
    """The receipt of a run that is in memory, with its state now."""
    receipt = run_service_pb2.RunReceipt(
        run_id=run.run_id,
        session_id=run.session.session_id,
        accept_sequence=run.sequence,
        state=_state(run, place),
        position=_position(place) if is_replay else run.position,
        steers_run_id=run.steers or "",
        replaced_run_ids=run.replaced,
        is_replay=is_replay,
        accepted_seq=run.accepted_seq,
    )
    if run.finished.done() and not run.finished.cancelled() and run.finished.exception() is None:
        receipt.outcome.CopyFrom(run.finished.result())
    return receipt


@reading("a run")
def receipt_of_row(row: RunRow) -> run_service_pb2.RunReceipt:
    """The receipt of a run that is over."""
    receipt = run_service_pb2.RunReceipt(
        run_id=row.run_id,
        session_id=row.session_id,
        accept_sequence=row.accept_sequence,
        state=_STORED[row.state],
        steers_run_id=row.steers or "",
        is_replay=True,
        accepted_seq=int(row.details.decode().partition("\n")[0] or 0),
    )
    if row.outcome is not None:
        receipt.outcome.ParseFromString(row.outcome)
    return receipt


@reading("a run")
def run_of_row(row: RunRow) -> run_service_pb2.Run:
    """A run as it is stored: one that is over, or that another process has."""
    view = run_service_pb2.Run(
        run_id=row.run_id,
        session_id=row.session_id,
        kind=cast("event_pb2.RunKind.ValueType", row.kind),
        delivery=cast("event_pb2.Delivery.ValueType", row.delivery),
        accept_sequence=row.accept_sequence,
        state=_STORED[row.state],
        steers_run_id=row.steers or "",
    )
    view.create_time.FromMicroseconds(row.created_us)
    if row.started_us is not None:
        view.start_time.FromMicroseconds(row.started_us)
    if row.finished_us is not None:
        view.finish_time.FromMicroseconds(row.finished_us)
    if row.outcome is not None:
        view.outcome.ParseFromString(row.outcome)
    if row.cancel is not None:
        view.cancel.ParseFromString(row.cancel)
    return view


def run_view(run: Run, place: Place | None) -> run_service_pb2.Run:
    """A run that is in memory, without its holds."""
    view = run_service_pb2.Run(
        run_id=run.run_id,
        session_id=run.session.session_id,
        kind=run.kind,
        delivery=run.delivery,
        accept_sequence=run.sequence,
        state=_state(run, place),
        position=_position(place),
        steers_run_id=run.steers or "",
        cancel=run.cancel,
    )
    view.create_time.FromMicroseconds(run.created_us)
    if run.started_us is not None:
        view.start_time.FromMicroseconds(run.started_us)
    return view


def holds_of(run: Run, core: CoreScheduler, clock: Clock) -> Iterator[run_service_pb2.Hold]:
    """Why a run is not over: every reason, with its age and its end (promise 11)."""
    for held, age in core.holds(run.session.key, run.run_id):
        hold = run_service_pb2.Hold(label=_LABELS.get(held.kind) or held.label or held.kind)
        hold.age.FromNanoseconds(max(0, int(age * 1e9)))
        if held.deadline is not None:
            left = core.until(held.deadline)
            hold.deadline.FromNanoseconds(int((clock.time() + left) * 1e9))
        if held.turn is not None:
            hold.turn_id = turn_id_of(run.session.slot, held.turn)
        if held.kind == "line":
            counts = core.counts(run.session.key)
            hold.detail = (counts.open_run_id or "") if counts is not None else ""
        elif held.kind == "cancel" and run.cancel is not None:
            hold.detail = run.cancel.actor
        yield hold
        if held.kind == "turn":
            yield from _doing(run, clock)


def _doing(run: Run, clock: Clock) -> Iterator[run_service_pb2.Hold]:
    """What a turn does that has its permit."""
    driven = run.driven
    if driven is None or driven.turn is None or not driven.is_busy:
        return
    label, since = driven.turn.doing()
    hold = run_service_pb2.Hold(label=label, detail=driven.turn.plan.model, turn_id=driven.turn_id)
    hold.age.FromNanoseconds(max(0, int((clock.monotonic() - since) * 1e9)))
    yield hold

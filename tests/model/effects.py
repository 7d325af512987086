"""The table from the compiled core's effects to the model's, and of their refusals."""

from __future__ import annotations

from collections.abc import Iterable

import turnkeeper_core as core

from .state import Cancel, Effect, Refused


def _reason(cancel: core.Cancel | None) -> str | None:
    return cancel.reason if cancel is not None else None


def as_the_model_says(effects: Iterable[core.Fact | core.Act]) -> list[Effect]:
    """Effects of the compiled core as the model's tuples."""
    return [_tuple(effect) for effect in effects]


def _tuple(effect: core.Fact | core.Act) -> Effect:
    match effect:
        case core.Requested(run, turn, cut, cancel):
            return ("requested", run.run_id, turn.id if turn else None, cut, _reason(cancel))
        case core.Opened(run):
            return ("opened", run.run_id)
        case core.Begun(turn):
            return ("begun", turn.id)
        case core.Spawned(turn, on_parent_end, is_async):
            rest = (effect.outside, effect.deadline)
            return ("spawned", turn.id, turn.parent, turn.depth, on_parent_end, is_async, *rest)
        case core.Ended(turn, end):
            return ("ended", turn.id, end)
        case core.Delivered(turn, parent):
            return ("delivered", turn.id, parent.id)
        case core.Orphaned(turn, cause):
            return ("orphaned", turn.id, cause)
        case core.Closed(run, why, cancel, into):
            return ("closed", run.run_id, why, _reason(cancel), into.id if into else None)
        case core.RunOver(run, status, cancel):
            return ("over", run.run_id, status, _reason(cancel))
        case core.Resume(turn, waits, children):
            return ("resume", turn.id, waits, children)
        case core.Begin(turn):
            return ("begin", turn.id)
        case core.GoOn(turn):
            return ("goon", turn.id)
        case core.Stop(turn, why):
            return ("stop", turn.id, why)
        case core.Came(turn, wait, what, child, end):
            return ("came", turn.id, wait, what, child.id if child else None, end)
        case core.Decided(turn, wait, child, refused):
            return ("decided", turn.id, wait, child.id if child else None, refused)
        case core.Conclude(turn):
            return ("conclude", turn.id)
        case core.Abort(turn, cut):
            return ("abort", turn.id, cut)
        case core.Detach(turn):
            return ("detach", turn.id)
        case core.Errand(errand, what):
            return ("errand", errand, what)
    raise AssertionError(f"no line in the table for {effect!r}")


def refusal(error: core.SchedulerError) -> Refused:
    """A refusal of the compiled core as the model's."""
    name = type(error).__name__.removesuffix("Error")
    match error:
        case core.SessionBusyError() | core.OpenRunMismatchError():
            return Refused(name, error.open_run_id)
        case core.QueueFullError():
            return Refused(name, error.scope, error.of)
        case core.RunExistsError():
            return Refused(name)
        case core.UnknownRunError():
            return Refused(name, error.run_id)
        case core.TurnNotFoundError() | core.AbortedError():
            return Refused(name, error.turn_id)
        case core.SpawnRefusedError():
            return Refused("Spawn", error.why)
        case core.LaneFullError():
            return Refused(name, error.lane)
    return Refused(name)


def cancel_of(cancel: Cancel) -> core.Cancel:
    """A cancel of the model as the compiled core takes it."""
    return core.Cancel(cancel.reason, mode=cancel.mode)

"""The model and the compiled core, driven side by side: each call goes to both, and they have to say the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import turnkeeper_core as core
from turnkeeper_core import Delivery, Kind, OnParentEnd, WaitKind

from .core import Answer, Bounds, Core
from .effects import as_the_model_says, cancel_of, refusal
from .state import Cancel, Effect, Key, Left, Refused


def limits_of(bounds: Bounds) -> core.Limits:
    """The model's bounds as the compiled core takes them."""
    lanes = [
        core.Lane(
            name,
            int(lane.limit),
            starts=lane.pace[0] if lane.pace else None,
            per=lane.pace[1] if lane.pace else 60.0,
            waiters=lane.waiters,
        )
        for name, lane in bounds.lanes.items()
    ]
    return core.Limits(
        queue_per_session=bounds.queue_per_session,
        session_bytes=bounds.session_bytes,
        open_runs=bounds.open_runs,
        open_bytes=bounds.open_bytes,
        running_turns=bounds.running_turns,
        running_turns_per_tenant=bounds.running_turns_per_tenant,
        depth=bounds.depth,
        children_per_turn=bounds.children_per_turn,
        children_per_run=bounds.children_per_run,
        children_per_tenant=bounds.children_per_tenant,
        children=bounds.children,
        running_children=bounds.running_children,
        running_children_per_tenant=bounds.running_children_per_tenant,
        slot_wait=bounds.slot_wait,
        child_timeout=bounds.child_timeout,
        stop_grace=bounds.stop_grace,
        cancel_grace=bounds.cancel_grace,
        lane_waiters=bounds.lane_waiters,
        lanes=tuple(lanes),
    )


class Disagreement(AssertionError):
    """The two did not say the same."""


class Pair:
    """Both. Every method answers what they agree on, or None where both refused; ``effects`` are the last step's."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.model = Core(bounds)
        self.core = core.Scheduler(limits_of(bounds))
        self.epoch = 0
        self.now = 0.0
        self.effects: list[Effect] = []
        self.refused: Refused | None = None
        self.trace: list[str] | None = None

    def restart(self) -> None:
        """A new process, with nothing in it yet."""
        self.epoch += 1
        self.model = Core(self.bounds, self.epoch << 32, self.epoch << 32)
        self.core = core.Scheduler(limits_of(self.bounds), epoch=self.epoch)

    def both(self, name: str, of_model: Callable[[], object], of_core: Callable[[], core.Step[object]]) -> object:
        """One step of each: the same answer and the same effects, or the same refusal."""
        said: object = None
        self.refused = None
        try:
            said = of_model()
        except Refused as error:
            self.refused, self.model.fx = error, []
        told: object = None
        effects: list[Effect] = []
        refused: Refused | None = None
        try:
            step = of_core()
            told, effects = step.answer, as_the_model_says(step.effects)
        except core.SchedulerError as error:
            refused = refusal(error)
        if self.trace is not None:
            self.trace.append(f"{self.now} {name} -> {said} {self.refused} {self.model.fx}")
        if (self.refused and self.refused.why) != (refused and refused.why):
            raise Disagreement(name, "refusals", self.refused, refused)
        if effects != self.model.fx:
            raise Disagreement(name, "effects", self.model.fx, effects)
        told = plain(told)
        if refused is None and said != told:
            raise Disagreement(name, "answers", said, told)
        self.effects = self.model.fx
        return said

    # -- into the line

    def accept(
        self,
        key: Key,
        run_id: str,
        *,
        kind: Kind = "prompt",
        delivery: Delivery = "queue",
        require_idle: bool = False,
        expected_open_run_id: str | None = None,
        steer_turn: int | None = None,
        cancelled: Cancel | None = None,
        size: int = 0,
        start_timeout: float | None = None,
        run_timeout: float | None = None,
        may_start: bool = False,
    ) -> object:
        def of_model() -> Answer:
            return self.model.accept(
                key,
                run_id,
                self.now,
                kind=kind,
                delivery=delivery,
                require_idle=require_idle,
                expected_open_run_id=expected_open_run_id,
                steer_turn=steer_turn,
                cancelled=cancelled,
                size=size,
                start_timeout=start_timeout,
                run_timeout=run_timeout,
                may_start=may_start,
            )

        def of_core() -> core.Step[core.Accepted]:
            return self.core.accept(
                *key,
                run_id,
                self.now,
                kind=kind,
                delivery=delivery,
                require_idle=require_idle,
                expected_open_run_id=expected_open_run_id,
                steer_turn=steer_turn,
                cancelled=cancel_of(cancelled) if cancelled else None,
                size=size,
                start_timeout=start_timeout,
                run_timeout=run_timeout,
                may_start=may_start,
            )

        return self.both(f"accept {key} {run_id} {kind} {delivery} {steer_turn} {may_start}", of_model, of_core)

    def of_run(self, name: Literal["dispatch", "abandon", "finish"], key: Key, run_id: str) -> object:
        return self.both(
            f"{name} {key} {run_id}",
            lambda: getattr(self.model, name)(key, run_id, self.now),
            lambda: getattr(self.core, name)(*key, run_id, self.now),
        )

    def arm_reservation(self, key: Key, run_id: str, when: float) -> object:
        return self.both(
            f"arm_reservation {key} {run_id} {when}",
            lambda: self.model.arm(key, "reservation", run_id, when, self.now),
            lambda: self.core.arm_reservation(*key, run_id, when, self.now),
        )

    def arm_disconnect(self, key: Key, run_id: str, cancel: Cancel, when: float) -> object:
        return self.both(
            f"arm_disconnect {key} {run_id} {cancel} {when}",
            lambda: self.model.arm(key, "disconnect", run_id, when, self.now, cancel),
            lambda: self.core.arm_disconnect(*key, run_id, cancel_of(cancel), when, self.now),
        )

    def disarm_disconnect(self, key: Key, run_id: str) -> object:
        return self.both(
            f"disarm_disconnect {key} {run_id}",
            lambda: self.model.disarm(key, run_id, self.now),
            lambda: self.core.disarm_disconnect(*key, run_id, self.now),
        )

    def hold(self, key: Key, run_id: str, deadline: float | None) -> object:
        return self.both(
            f"hold {key} {run_id} {deadline}",
            lambda: self.model.hold(key, run_id, self.now, deadline=deadline),
            lambda: self.core.hold(*key, run_id, "background", self.now, deadline=deadline),
        )

    def release(self, key: Key, run_id: str, guard: int) -> object:
        return self.both(
            f"release {key} {run_id} {guard}",
            lambda: self.model.release(key, run_id, guard, self.now),
            lambda: self.core.release(*key, run_id, guard, self.now),
        )

    # -- turns

    def of_turn(self, name: Literal["strand_ends", "taken"], key: Key, turn: int) -> object:
        return self.both(
            f"{name} {key} {turn}",
            lambda: getattr(self.model, name)(key, turn, self.now),
            lambda: getattr(self.core, name)(*key, turn, self.now),
        )

    def strands(self, key: Key, turn: int, count: int) -> object:
        return self.both(
            f"strands {key} {turn} {count}",
            lambda: self.model.strands(key, turn, count, self.now),
            lambda: self.core.strands(*key, turn, count, self.now),
        )

    def wait(
        self, key: Key, turn: int, kind: WaitKind, *, deadline: float | None, target: str | None, by: int | None
    ) -> object:
        return self.both(
            f"wait {key} {turn} {kind} {deadline} {target} {by}",
            lambda: self.model.wait(key, turn, kind, self.now, deadline=deadline, target=target, by=by),
            lambda: self.core.wait(*key, turn, kind, self.now, deadline=deadline, target=target, by=by),
        )

    def of_wait(self, name: Literal["waited", "abandon_spawn"], key: Key, turn: int, wait: int) -> object:
        return self.both(
            f"{name} {key} {turn} {wait}",
            lambda: getattr(self.model, name)(key, turn, wait, self.now),
            lambda: getattr(self.core, name)(*key, turn, wait, self.now),
        )

    def enter_lane(self, key: Key, turn: int | None, lane: str, deadline: float | None) -> object:
        return self.both(
            f"enter_lane {key} {turn} {lane} {deadline}",
            lambda: self.model.enter_lane(key, turn, lane, self.now, deadline=deadline),
            lambda: self.core.enter_lane(*key, turn, lane, self.now, deadline=deadline),
        )

    def leave_lane(self, key: Key, turn: int | None, entry: int) -> object:
        return self.both(
            f"leave_lane {key} {turn} {entry}",
            lambda: self.model.leave_lane(key, turn, entry, self.now),
            lambda: self.core.leave_lane(*key, turn, entry, self.now),
        )

    def spawn(
        self,
        key: Key,
        turn: int,
        *,
        on_parent_end: OnParentEnd,
        is_async: bool,
        is_valid: bool,
        caller_cancelled: bool,
        timeout: float | None,
        slot_wait: float | None,
        by: int | None,
    ) -> object:
        def of_model() -> object:
            return self.model.spawn(
                key,
                turn,
                self.now,
                on_parent_end=on_parent_end,
                is_async=is_async,
                is_valid=is_valid,
                caller_cancelled=caller_cancelled,
                timeout=timeout,
                slot_wait=slot_wait,
                by=by,
            )

        def of_core() -> core.Step[core.Admission]:
            return self.core.spawn(
                *key,
                turn,
                self.now,
                on_parent_end=on_parent_end,
                is_async=is_async,
                is_valid=is_valid,
                caller_cancelled=caller_cancelled,
                timeout=timeout,
                slot_wait=slot_wait,
                by=by,
            )

        return self.both(f"spawn {key} {turn} {on_parent_end} {is_async} {by} {slot_wait}", of_model, of_core)

    def fold_point(self, key: Key, turn: int, most: int | None) -> object:
        return self.both(
            f"fold_point {key} {turn} {most}",
            lambda: self.model.fold_point(key, turn, self.now, most=most),
            lambda: self.core.fold_point(*key, turn, self.now, most=most),
        )

    def conclude(
        self,
        key: Key,
        turn: int,
        proposal: Literal["answer", "failed", "cut"],
        *,
        may_step: bool = True,
        most: int | None = None,
        if_last: bool = False,
    ) -> object:
        return self.both(
            f"conclude {key} {turn} {proposal} {may_step} {most} {if_last}",
            lambda: self.model.conclude(key, turn, proposal, self.now, may_step=may_step, most=most, if_last=if_last),
            lambda: self.core.conclude(*key, turn, proposal, self.now, may_step=may_step, most=most, if_last=if_last),
        )

    # -- cancels, ends, time

    def cancel(self, key: Key, scope: str, cancel: Cancel, of: object = None) -> object:
        def of_core() -> core.Step[core.Cancelled]:
            given = cancel_of(cancel)
            if scope == "run":
                return self.core.cancel_run(*key, str(of), given, self.now)
            assert of is None or isinstance(of, int)
            if scope == "subtree":
                return self.core.cancel_subtree(*key, of or 0, given, self.now)
            if scope == "clear":
                return self.core.clear_queue(*key, given, self.now, up_to=of)
            return self.core.cancel_session(*key, given, self.now, up_to=of)

        return self.both(
            f"cancel {key} {scope} {cancel} {of}",
            lambda: self.model.cancel(key, scope, cancel, self.now, of=of),
            of_core,
        )

    def cancel_tenant(self, tenant: str, cancel: Cancel) -> object:
        return self.both(
            f"cancel_tenant {tenant} {cancel}",
            lambda: self.model.cancel_tenant(tenant, cancel, self.now),
            lambda: self.core.cancel_tenant(tenant, cancel_of(cancel), self.now),
        )

    def close_session(self, key: Key, cancel: Cancel, *, force: bool) -> object:
        return self.both(
            f"close_session {key} {force}",
            lambda: self.model.close_session(key, cancel, self.now, force=force),
            lambda: self.core.close_session(*key, cancel_of(cancel), self.now, force=force),
        )

    def forget_session(self, key: Key) -> object:
        return self.both(
            f"forget_session {key}",
            lambda: self.model.forget_session(key, self.now),
            lambda: self.core.forget_session(*key, self.now),
        )

    def evict(self, key: Key) -> object:
        return self.both(
            f"evict {key}", lambda: self.model.evict(key, self.now), lambda: self.core.evict(*key, self.now)
        )

    def set_limits(self, bounds: Bounds) -> object:
        self.bounds = bounds
        return self.both(
            f"set_limits {bounds}",
            lambda: self.model.set_limits(bounds, self.now),
            lambda: self.core.set_limits(limits_of(bounds), self.now),
        )

    def drain(self) -> object:
        return self.both("drain", lambda: self.model.drain(self.now), lambda: self.core.drain("draining", self.now))

    def due(self) -> None:
        """All deadlines that have passed, step by step."""
        expected = [(key, effects) for key, effects in self.model.due(self.now) if effects]
        steps = self.core.due(self.now, most=10_000)
        found = [(key, as_the_model_says(step.effects)) for key, step in steps if step.effects]
        if self.trace is not None:
            self.trace.append(f"{self.now} due -> {expected}")
        if expected != found:
            raise Disagreement("due", expected, found)
        next_due = self.core.next_due()
        if next_due != self.model.next_due():
            raise Disagreement("next_due", self.model.next_due(), next_due)
        self.effects = [effect for _, effects in expected for effect in effects]

    def restore(self, key: Key, left: Left) -> object:
        return self.both(
            f"restore {key} {left}",
            lambda: self.model.restore(key, left, self.now),
            lambda: self.core.restore(*key, image_of(left, self.now), self.now),
        )


def image_of(left: Left, now: float) -> core.Image:
    """What the compiled core restores."""
    runs = [
        core.RunImage(
            run.id,
            run.sequence,
            kind=run.kind,
            opened=run.opened,
            steers=run.steers if isinstance(run.steers, str) else None,
            steers_turn=run.steers if isinstance(run.steers, int) else None,
            cut=run.cut.how if run.cut else None,
            cancel=cancel_of(run.cut.cancel) if run.cut and run.cut.cancel else None,
            size=run.size,
            admitted=run.admitted,
            run_deadline=now + run.timeout if run.opened and run.timeout is not None else None,
            run_timeout=None if run.opened else run.timeout,
        )
        for run in left.runs
    ]
    turns = [
        core.TurnImage(
            turn.id,
            turn.run_id,
            turn.sequence,
            role=turn.role,
            begun=turn.begun,
            parent=turn.parent,
            depth=turn.depth,
            on_parent_end=turn.on_parent_end,
            is_async=turn.is_async,
            outside=turn.outside,
            holds=turn.holds,
            parent_ended=turn.parent_ended,
            cut=turn.cut.how if turn.cut else None,
            cancel=cancel_of(turn.cut.cancel) if turn.cut and turn.cut.cancel else None,
            inbox=tuple(core.ChildResult(child, end) for child, end in turn.inbox),
            strands=turn.strands,
            waits=tuple(core.WaitImage(kind) for kind in turn.waits),
        )
        for turn in left.turns
    ]
    return core.Image(tuple(runs), tuple(turns), closing=cancel_of(left.closing) if left.closing else None)


def plain(answer: object) -> object:
    """An answer of the compiled core in the model's values."""
    match answer:
        case core.Accepted():
            return {
                "sequence": answer.sequence,
                "position": answer.position,
                "steers": answer.steers if answer.steers is not None else answer.steers_turn,
                "replaced": [covered.run.run_id for covered in answer.replaced],
                "starts": answer.starts.id if answer.starts else None,
            }
        case core.Dispatched():
            return answer.place
        case core.Waiting():
            return answer.id, answer.parked
        case core.LaneEntry():
            return answer.id, answer.is_in, answer.parked
        case core.Admission():
            return answer.child.id if answer.child else None, answer.wait, answer.parked
        case core.FoldPoint():
            return _fold(answer)
        case core.Conclusion():
            said: dict[str, object] = {"status": answer.status}
            if answer.end is not None:
                said["end"] = answer.end
            return {**said, **_fold(answer.fold)} if answer.fold else said
        case core.Cancelled():
            return {
                "covered": [(covered.run.run_id, covered.was) for covered in answer.covered],
                "finished": [run.run_id for run in answer.finished],
                "lent": [run.run_id for run in answer.lent],
                "turns": [turn.id for turn in answer.turns],
            }
    return answer


def _fold(fold: core.FoldPoint) -> dict[str, object]:
    return {
        "steers": [run.run_id for run in fold.steers],
        "results": [(result.child, result.end) for result in fold.results],
        "stop": fold.cancel.reason if fold.cancel else None,
        "parent_ended": fold.parent_ended,
        "leave": fold.leave,
    }

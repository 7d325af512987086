"""Random operations on both: sensible ones mostly, by what the model says is there, and mistakes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Final

from turnkeeper_core import OnParentEnd, WaitKind

from .core import Bounds
from .gate import Lane
from .invariants import check, check_empty
from .log import Log
from .pair import Pair
from .state import Cancel, Cutting, Key, Left, Run, RunLeft, Session, Turn, TurnLeft

KEYS: Final[tuple[Key, ...]] = (("t1", "a"), ("t1", "b"), ("t2", "c"))
WAITS: Final[tuple[WaitKind, ...]] = ("approval", "tool", "tool", "backoff", "servers", "run", "run", "drain")
PLAIN_WAITS: Final[tuple[WaitKind, ...]] = ("approval", "tool", "backoff", "servers", "drain")
PARENT_ENDS: Final[tuple[OnParentEnd, ...]] = ("wait", "stop", "continue")


def bounds_of(rng: random.Random) -> Bounds:
    """Limits that are reached often."""
    calls = rng.randint(1, 2)
    pace = (rng.randint(1, 3), float(rng.randint(2, 6))) if rng.random() < 0.4 else None
    return Bounds(
        queue_per_session=rng.choice([3, 40]),
        session_bytes=rng.randint(10, 80),
        open_runs=rng.randint(4, 30),
        open_bytes=rng.randint(20, 150),
        running_turns=rng.randint(1, 3),
        running_turns_per_tenant=rng.randint(1, 2),
        depth=rng.randint(1, 3),
        children_per_turn=rng.randint(1, 3),
        children_per_run=rng.choice([4, 14]),
        children_per_tenant=rng.choice([3, 20]),
        children=rng.choice([4, 30]),
        running_children=rng.randint(1, 3),
        running_children_per_tenant=rng.randint(1, 2),
        slot_wait=float(rng.randint(2, 9)),
        child_timeout=float(rng.randint(9, 60)),
        stop_grace=float(rng.randint(2, 20)),
        cancel_grace=float(rng.randint(1, 5)),
        lane_waiters=rng.choice([0, 1, 2, 40]),
        lanes={"p": Lane(calls, calls, pace, rng.choice([None, None, 1])), "q": Lane(1, 1)},
    )


class Walk:
    """One random history, from an empty scheduler to an empty one."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.pair = Pair(bounds_of(self.rng))
        self.num_runs = 0
        self.steps = 0
        self.seen: Counter[str] = Counter()
        self.log = Log()

    def run(self, steps: int) -> None:
        """Walk so many steps, then lead everything to its end."""
        while self.steps < steps:
            self.act()
        self.come_to_rest()

    def act(self) -> None:
        """One random step."""
        self.steps += 1
        x = self.rng.random()
        if x < 0.10:
            self.accept()
        elif x < 0.22:
            self.of_run()
        elif x < 0.27:
            self.cancel()
        elif x < 0.33:
            self.pass_time()
        elif x < 0.37:
            self.errand()
        elif x < 0.372:
            self.close()
        elif x < 0.374:
            self.restart()
        elif x < 0.3745:
            self.pair.drain()
        elif x < 0.3755:
            key = self.rng.choice(KEYS)
            if key in self.pair.model.sessions:
                self.log.forget(self.pair.model.sessions[key])
            self.pair.evict(key)
        elif x < 0.3765:
            self.change_limits()
        else:
            self.of_turn()
        self.note()

    def note(self) -> None:
        """Look at what has been done."""
        self.seen[str(self.pair.refused.why[0]) if self.pair.refused else "done"] += 1
        self.log.take(self.pair.effects)
        for effect in self.pair.effects:
            self.seen[f"fx {effect[0]}"] += 1
        self.pair.effects = []
        if self.steps % 5 == 0:
            check(self.pair)

    # ---------------------------------------------------------------- picking

    def maybe(self, chance: float) -> bool:
        return self.rng.random() < chance

    def soon(self, chance: float = 0.5) -> float | None:
        return self.pair.now + self.rng.randint(1, 12) if self.maybe(chance) else None

    def sessions(self) -> list[Session]:
        return list(self.pair.model.sessions.values())

    def any_run(self) -> tuple[Key, str]:
        runs = [(session.key, run.id) for session in self.sessions() for run in session.runs.values()]
        if runs and self.maybe(0.95):
            return self.rng.choice(runs)
        return self.rng.choice(KEYS), f"r{self.rng.randint(0, self.num_runs)}"

    def any_turn(self) -> tuple[Key, Turn] | None:
        turns = [(session.key, turn) for session in self.sessions() for turn in session.turns.values()]
        running = [(key, turn) for key, turn in turns if turn.stand == "running" or turn.cut is not None]
        if running and self.maybe(0.8):
            return self.rng.choice(running)
        return self.rng.choice(turns) if turns else None

    def cancel_by(self) -> Cancel:
        return Cancel(f"why-{self.rng.randint(0, 99)}", self.rng.choice(["abort", "abort", "stop"]))

    # ---------------------------------------------------------------- operations

    def accept(self) -> None:
        rng = self.rng
        key = rng.choice(KEYS)
        self.num_runs += 1
        run_id = f"r{self.num_runs}"
        there = [(session.key, name) for session in self.sessions() for name in session.runs]
        if there and self.maybe(0.03):
            key, run_id = rng.choice(there)
        kind = rng.choices(["prompt", "summary", "bootstrap"], [8, 1, 1])[0]
        delivery = rng.choices(["queue", "steer", "reject", "replace"], [6, 5, 1, 1])[0]
        session = self.pair.model.sessions.get(key)
        turn = rng.choice(list(session.turns)) if session and session.turns and self.maybe(0.15) else None
        opened = session.open.id if session and session.open else "r0"
        self.pair.accept(
            key,
            run_id,
            kind=kind,  # type: ignore[arg-type]
            delivery=delivery,  # type: ignore[arg-type]
            require_idle=self.maybe(0.05),
            expected_open_run_id=rng.choice([opened, "r0"]) if self.maybe(0.05) else None,
            steer_turn=turn,
            cancelled=self.cancel_by() if self.maybe(0.04) else None,
            size=rng.randint(0, 20),
            start_timeout=float(rng.randint(1, 15)) if self.maybe(0.2) else None,
            run_timeout=float(rng.randint(5, 60)) if self.maybe(0.15) else None,
            may_start=self.maybe(0.5),
        )
        if self.pair.refused is None:
            self.log.accepted.add(run_id)

    def of_run(self) -> None:
        key, run_id = self.any_run()
        session = self.pair.model.sessions.get(key)
        run = session.runs.get(run_id) if session else None
        x = self.rng.random()
        if run is not None and run.concluded and x < 0.7:
            self.pair.of_run("finish", key, run_id)
        elif x < 0.74:
            self.pair.of_run("dispatch", key, run_id)
        elif x < 0.78:
            self.abandon(key, run_id)
        elif x < 0.80:
            self.pair.of_run("finish", key, run_id)
        elif x < 0.84:
            self.pair.arm_reservation(key, run_id, self.pair.now + self.rng.randint(1, 12))
        elif x < 0.88:
            self.pair.arm_disconnect(key, run_id, self.cancel_by(), self.pair.now + self.rng.randint(1, 9))
        elif x < 0.90:
            self.pair.disarm_disconnect(key, run_id)
        elif x < 0.95:
            self.pair.hold(key, run_id, self.soon())
        else:
            guard = self.rng.choice(sorted(run.guards)) if run is not None and run.guards else 1
            self.pair.release(key, run_id, guard)

    def abandon(self, key: Key, run_id: str) -> None:
        session = self.pair.model.sessions.get(key)
        floor = session.floor if session else None
        self.pair.of_run("abandon", key, run_id)
        if self.pair.refused is None:
            # Neither it nor what it started has ever been.
            self.log.accepted.discard(run_id)
            if floor is not None and floor.run.id == run_id:
                self.log.gone.add(floor.id)

    def cancel(self) -> None:
        rng, key = self.rng, self.rng.choice(KEYS)
        scope = rng.choices(["session", "clear", "run", "subtree", "tenant"], [2, 2, 5, 5, 1])[0]
        cancel = self.cancel_by()
        of: object = rng.randint(0, self.pair.model.last_sequence) if self.maybe(0.3) else None
        if scope == "run":
            key, of = self.any_run()
            # Also a run that is over, whose children go on.
            ghosts = [(s.key, turn.run.id) for s in self.sessions() for turn in s.turns.values() if not turn.is_floor]
            if ghosts and self.maybe(0.3):
                key, of = rng.choice(ghosts)
        elif scope == "subtree":
            found = self.any_turn()
            key, of = (found[0], found[1].id) if found and self.maybe(0.95) else (key, 0)
        elif scope == "tenant":
            # Of several sessions the order is the compiled core's own.
            if sum(session.tenant == key[0] for session in self.sessions()) <= 1:
                self.pair.cancel_tenant(key[0], cancel)
            return
        self.pair.cancel(key, scope, cancel, of)

    def pass_time(self) -> None:
        self.pair.now += self.rng.randint(1, 3)
        if self.maybe(0.5):  # Else the timer is late.
            self.pair.due()

    def errand(self) -> None:
        errands = list(self.pair.model.gate.errands.items())
        if errands and self.maybe(0.6):
            number, errand = self.rng.choice(errands)
            self.pair.leave_lane(errand.session, None, number)
        else:
            self.pair.enter_lane(self.rng.choice(KEYS), None, "p", self.soon())

    def close(self) -> None:
        closing = [session.key for session in self.sessions() if session.closing]
        if closing and self.maybe(0.7):
            self.pair.forget_session(self.rng.choice(closing))
        else:
            self.pair.close_session(self.rng.choice(KEYS), Cancel("deleted", "abort"), force=self.maybe(0.6))

    def change_limits(self) -> None:
        """Other numbers for the same lanes. Depth stays, and what is paced."""
        bounds, other = self.pair.bounds, bounds_of(self.rng)
        lanes = {
            name: replace(lane, limit=given.limit, tenant_limit=given.limit)
            for (name, lane), given in zip(bounds.lanes.items(), other.lanes.values(), strict=True)
        }
        self.pair.set_limits(
            replace(other, depth=bounds.depth, children_per_turn=bounds.children_per_turn, lanes=lanes)
        )

    def of_turn(self) -> None:
        found = self.any_turn()
        if found is None:
            return
        key, turn = found
        x = self.rng.random()
        if turn.waits and turn.stand != "running" and turn.cut is None and x < 0.5:
            self.end_wait(key, turn)
        elif turn.cut is not None and x < 0.5:
            self.pair.conclude(key, turn.id, self.rng.choice(["cut", "answer", "failed"]))
        elif x < 0.14:
            self.pair.fold_point(key, turn.id, self.rng.choice([None, None, 1, 0]))
        elif x < 0.22:
            self.pair.of_turn("taken", key, turn.id)
        elif x < 0.36:
            self.conclude(key, turn)
        elif x < 0.44:
            self.pair.strands(key, turn.id, self.rng.randint(0, 3) if self.maybe(0.1) else self.rng.randint(2, 3))
        elif x < 0.56:
            self.pair.of_turn("strand_ends", key, turn.id)
        elif x < 0.65:
            self.wait(key, turn)
        elif x < 0.73:
            self.pair.enter_lane(key, turn.id, self.rng.choice(["p", "p", "p", "q"]), self.soon(0.3))
        elif x < 0.76:
            self.pair.leave_lane(key, turn.id, self.rng.choice([*turn.slots, *turn.waits, 1]))
        elif x < 0.80:
            self.end_wait(key, turn)
        else:
            self.spawn(key, turn)

    def conclude(self, key: Key, turn: Turn) -> None:
        self.pair.conclude(
            key,
            turn.id,
            self.rng.choices(["answer", "failed", "cut"], [8, 1, 1])[0],  # type: ignore[arg-type]
            may_step=self.maybe(0.8),
            most=self.rng.choice([None, 1]),
            if_last=self.maybe(0.3),
        )

    def wait(self, key: Key, turn: Turn) -> None:
        kind = self.rng.choice(WAITS)
        target = self.rng.choice(KEYS)[1] if kind == "run" else None
        tools = [number for number, wait in turn.waits.items() if wait.kind == "tool"]
        by = self.rng.choice([*tools, 1]) if kind == "run" and self.maybe(0.5) else None
        self.pair.wait(key, turn.id, kind, deadline=self.soon(0.4), target=target, by=by)

    def end_wait(self, key: Key, turn: Turn) -> None:
        number = self.rng.choice([*turn.waits, *turn.calls, 1])
        if self.maybe(0.15):
            self.pair.of_wait("abandon_spawn", key, turn.id, number)
        elif number in turn.waits and turn.waits[number].kind == "lane":
            self.pair.leave_lane(key, turn.id, number)
        else:
            self.pair.of_wait("waited", key, turn.id, number)

    def spawn(self, key: Key, turn: Turn) -> None:
        tools = [number for number, wait in turn.waits.items() if wait.kind == "tool"]
        self.pair.spawn(
            key,
            turn.id,
            on_parent_end=self.rng.choice(PARENT_ENDS),
            is_async=self.maybe(0.6),
            is_valid=self.maybe(0.97),
            caller_cancelled=self.maybe(0.02),
            timeout=float(self.rng.randint(5, 40)) if self.maybe(0.5) else None,
            slot_wait=self.rng.choice([None, None, 0.0, 30.0]),
            by=self.rng.choice(tools) if tools and self.maybe(0.8) else None,
        )

    # ---------------------------------------------------------------- crashes, and the end

    def restart(self) -> None:
        """A crash: what the last commits say is put back, in accept order of what was open."""
        left = [(session.key, self.left(session)) for session in self.sessions()]
        left.sort(key=lambda one: min((run.sequence for run in one[1].runs), default=0))
        self.pair.restart()
        for key, image in left:
            if image.runs or image.turns or image.closing:
                self.log.over -= {run.id for run in image.runs}
                self.pair.restore(key, image)
                self.note()

    def left(self, session: Session) -> Left:
        is_over = {run.id: run.concluded and self.maybe(0.5) for run in session.runs.values()}
        runs = [run for run in session.runs.values() if not is_over[run.id]]
        turns = sorted(session.turns.values(), key=lambda turn: (turn.depth, turn.id))
        return Left(
            tuple(self.run_left(run) for run in sorted(runs, key=lambda run: run.sequence)),
            tuple(self.turn_left(turn) for turn in turns if turn.begun or not turn.is_floor),
            Cancel("deleted", "abort") if session.closing else None,
        )

    @staticmethod
    def run_left(run: Run) -> RunLeft:
        opened = run.place == "open" and run.begun
        steers = run.steers.id if run.steers is not None else None
        timeout = run.timeout
        return RunLeft(run.id, run.sequence, run.kind, opened, steers, run.cut, run.size, run.admitted, timeout)

    def turn_left(self, turn: Turn) -> TurnLeft:
        inbox = (*(turn.loan[1] if turn.loan else ()), *turn.inbox)
        cut = turn.cut if not turn.is_floor else None
        if cut is None and turn.stop is not None and not turn.is_floor:
            cut = Cutting("stop", turn.stop)
        kinds = [wait.kind for wait in turn.waits.values()]
        waits = [kind for kind in PLAIN_WAITS for waiting in kinds if waiting == kind]
        is_exact = self.maybe(0.5)
        return TurnLeft(
            turn.id,
            turn.role,
            turn.run.id,
            turn.run.sequence,
            turn.parent_id,
            turn.depth,
            turn.on_parent_end,
            turn.is_async,
            turn.outside,
            turn.holds,
            turn.begun,
            turn.parent_ended,
            cut,
            inbox,
            turn.strands if is_exact else 1,
            tuple(waits) if is_exact and turn.begun else (),
        )

    def come_to_rest(self) -> None:
        """Effects are performed, waits end, drivers conclude: then everything ends, and nothing is left."""
        if self.pair.model.phase != "serving":
            self.restart()
        for _ in range(2_000):
            self.steps += 1
            if not self.rest():
                break
            self.note()
        check_empty(self.pair)
        self.log.check_whole()

    def rest(self) -> bool:
        """The next thing that leads towards the end; False if there is none."""
        model, pair = self.pair.model, self.pair
        for session in self.sessions():
            for run in list(session.runs.values()):
                if run.place == "reserved":
                    pair.of_run("dispatch", session.key, run.id)
                    return True
                if run.concluded:
                    pair.of_run("finish", session.key, run.id)
                    return True
                if run.guards:
                    pair.release(session.key, run.id, min(run.guards))
                    return True
            for turn in list(session.turns.values()):
                if self.rest_turn(session.key, turn):
                    return True
            if session.closing and not session.runs and not session.turns:
                errands = [n for n, errand in model.gate.errands.items() if errand.session == session.key]
                if errands:
                    pair.leave_lane(session.key, None, errands[0])
                else:
                    pair.forget_session(session.key)
                return True
        if model.gate.errands:
            number, errand = next(iter(model.gate.errands.items()))
            pair.leave_lane(errand.session, None, number)
            return True
        if model.deadlines or model.gate.next_start(pair.now) is not None:
            pair.now += 1
            pair.due()
            return True
        return False

    def rest_turn(self, key: Key, turn: Turn) -> bool:
        pair = self.pair
        if turn.cut is not None and not turn.closing and turn.begun:
            pair.conclude(key, turn.id, "cut")
            return True
        if turn.closing and not any(child.on_parent_end != "continue" for child in turn.children.values()):
            pair.conclude(key, turn.id, "cut")
            return True
        plain = [n for n, wait in turn.waits.items() if wait.kind in WAITS]
        if plain and turn.cut is None:
            pair.of_wait("waited", key, turn.id, plain[0])
            return True
        if turn.slots:
            pair.leave_lane(key, turn.id, min(turn.slots))
            return True
        if turn.stand != "running" or turn.cut is not None:
            return False
        if turn.is_in_its_loop:
            if turn.loan:
                pair.of_turn("taken", key, turn.id)
            else:
                pair.conclude(key, turn.id, "answer")
            return True
        pair.of_turn("strand_ends", key, turn.id)
        return True

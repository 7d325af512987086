"""The core of the model. No I/O, no clock; each public method is one step, and leaves its effects in ``fx``.

It is written to be read: lists are searched, everything is looked at again. Effects are tuples; ``effects.py`` has the
table that says which of the compiled core's they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from turnkeeper_core import Delivery, End, Kind, OnParentEnd, Phase

from .gate import BEGINS, GOES_ON, Errand, Gate, Grant, Lane, LaneKey, News, Waiter
from .state import (
    Call,
    Cancel,
    Cutting,
    Effect,
    Key,
    Left,
    Refused,
    Run,
    RunLeft,
    Session,
    Spec,
    Turn,
    Wait,
    cutting,
)

T = TypeVar("T")
Answer = dict[str, object]
Who = Literal[
    "reservation",
    "start",
    "run",
    "stop",
    "disconnect",
    "child",
    "turn-stop",
    "grace",
    "wait",
    "slot",
    "guard",
    "errand",
]
DeadlineKey = tuple[Key, Who, object]


@dataclass
class Bounds:
    """Limits of the model; the names are those of ``turnkeeper_core.Limits``."""

    queue_per_session: int = 40
    session_bytes: int = 10**9
    open_runs: int = 10**6
    open_bytes: int = 10**9
    running_turns: int = 4
    running_turns_per_tenant: int = 3
    depth: int = 3
    children_per_turn: int = 3
    children_per_run: int = 14
    children_per_tenant: int = 20
    children: int = 30
    running_children: int = 3
    running_children_per_tenant: int = 2
    slot_wait: float = 8.0
    child_timeout: float = 60.0
    stop_grace: float = 12.0
    cancel_grace: float = 4.0
    lane_waiters: int = 40
    lanes: dict[str, Lane] = field(default_factory=lambda: {"p": Lane(2, 2)})


class Core:
    """The model."""

    def __init__(self, bounds: Bounds, last_sequence: int = 0, last_turn: int = 0) -> None:
        self.bounds = bounds
        lanes: dict[LaneKey, Lane] = {0: Lane(bounds.running_turns, bounds.running_turns_per_tenant)}
        for depth in range(1, bounds.depth + 1):
            lanes[depth] = Lane(bounds.running_children, bounds.running_children_per_tenant)
        for name, lane in bounds.lanes.items():
            lanes[name] = Lane(lane.limit, lane.tenant_limit, lane.pace, lane.waiters)
        self.gate = Gate(lanes)
        self.sessions: dict[Key, Session] = {}
        self.last_sequence, self.last_turn = last_sequence, last_turn
        self.phase: Phase = "serving"
        self.deadlines: dict[DeadlineKey, tuple[float, int]] = {}
        self.num_armed = 0
        self.edges: Counter[tuple[Key, Key]] = Counter()
        self.children: Counter[str] = Counter()
        self.fx: list[Effect] = []
        self.now = 0.0

    # ---------------------------------------------------------------- steps

    def _step(self, key: Key, now: float, step: Callable[[Session | None], T], *, is_new: bool = False) -> T:
        self.now, self.fx = now, []
        session = self.sessions.get(key)
        if session is None and is_new:
            session = self.sessions[key] = Session(key)
        try:
            answer = step(session)
            if session is not None:
                self._settle(session)
        finally:
            self._drop(session)
        self._carry()
        return answer

    def _drop(self, session: Session | None) -> None:
        if session is not None and not session.runs and not session.turns and not session.closing:
            self.sessions.pop(session.key, None)

    def _carry(self) -> None:
        while self.gate.grants:
            self._apply(self.gate.grants.popleft())

    def _apply(self, grant: Grant) -> None:
        """A grant is a step of its own of its waiter's session."""
        waiter = grant.waiter
        session = self.sessions.get(waiter.session)
        turn = session.turns.get(waiter.turn) if session and waiter.turn is not None else None
        if waiter.turn is None:
            errand = self.gate.errands.get(waiter.wait or 0)
            if errand is None:
                self.gate.release(grant.lane, waiter.tenant, self.now, unused=True)
                return
            errand.ticket = None
            self._disarm(waiter.session, "errand", waiter.wait)
            self.fx.append(("errand", waiter.wait, "in"))
        elif waiter.wait is not None:
            if session is None or turn is None or waiter.wait not in turn.waits:
                self.gate.release(grant.lane, waiter.tenant, self.now, unused=True)
                return
            turn.slots[waiter.wait] = str(grant.lane)
            self.fx.append(("came", turn.id, waiter.wait, "in", None, None))
            self._resolve(session, turn, waiter.wait)
            self._settle(session)
            self._drop(session)
        else:
            is_over = turn is None or turn.ticket != grant.ticket or turn.stand != "waiting"
            if session is None or turn is None or is_over or (self.phase != "serving" and not turn.begun):
                self.gate.release(grant.lane, waiter.tenant, self.now)
                return
            self._has_permit(session, turn)
            self._settle(session)
            self._drop(session)

    # ---------------------------------------------------------------- into the line, out of it

    def accept(
        self,
        key: Key,
        run_id: str,
        now: float,
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
    ) -> Answer:
        def step(found: Session | None) -> Answer:
            s = _there(found)
            if run_id in s.runs:
                raise Refused("RunExists")
            if s.closing:
                raise Refused("SessionDeleting")
            if self.phase != "serving":
                raise Refused("Draining")
            if cancelled is None:
                self._check(s, delivery, require_idle, expected_open_run_id, steer_turn, size)
            self.last_sequence += 1
            run = Run(run_id, self.last_sequence, kind, size, timeout=run_timeout)
            if start_timeout is not None:
                run.start_at = now + start_timeout
            answer: Answer = {"sequence": run.sequence, "steers": None, "replaced": [], "starts": None}
            if cancelled is not None:
                run.cut = cutting(cancelled.as_abort())
            elif delivery == "replace":
                answer["replaced"] = self._replace(s, run)
            answer["position"] = self._position(s, run)
            if may_start and kind == "prompt" and cancelled is None and not s.runs and self._is_free(s):
                s.runs[run_id] = run
                turn = self._open(s, run)
                run.is_started, run.fresh = True, turn.id
                self.gate.lanes[0].take(s.tenant, now)
                self._has_permit(s, turn)
                return {**answer, "starts": turn.id}
            if cancelled is None and delivery == "steer" and kind == "prompt":
                run.steers = s.turns[steer_turn] if steer_turn is not None else _target(s)
                if run.steers is not None:
                    run.steers.bound[run.sequence] = run
            s.runs[run_id] = run
            s.line.append(run)
            return {**answer, "steers": _named(run.steers)}

        return self._step(key, now, step, is_new=True)

    def _check(
        self,
        s: Session,
        delivery: Delivery,
        require_idle: bool,
        expected: str | None,
        steer_turn: int | None,
        size: int,
    ) -> None:
        if expected is not None and (s.open is None or s.open.id != expected):
            raise Refused("OpenRunMismatch", s.open.id if s.open else None)
        if (require_idle or delivery == "reject") and s.runs:
            raise Refused("SessionBusy", s.open.id if s.open else None)
        if steer_turn is not None:
            child = s.turns.get(steer_turn)
            if child is None or child.cut or child.is_floor:
                raise Refused("TurnNotFound", steer_turn)
        bounds = self.bounds
        everywhere = [run for other in self.sessions.values() for run in other.runs.values()]
        if len(s.line) >= bounds.queue_per_session:
            raise Refused("QueueFull", "session", "runs")
        if size > max(0, bounds.session_bytes - sum(run.size for run in s.runs.values())):
            raise Refused("QueueFull", "session", "bytes")
        if len(everywhere) >= bounds.open_runs:
            raise Refused("QueueFull", "process", "runs")
        if size > max(0, bounds.open_bytes - sum(run.size for run in everywhere)):
            raise Refused("QueueFull", "process", "bytes")

    def _replace(self, s: Session, by: Run) -> list[str]:
        replaced: list[str] = []
        cancel = Cancel("REPLACED", "abort")
        for run in sorted(s.runs.values(), key=lambda run: run.sequence):
            if run.kind == "bootstrap" or run.concluded or run.is_hard or run.id not in s.runs:
                continue
            if run.place == "lent":
                run.cut = run.cut or cutting(cancel)
            else:
                self._cover(s, run, cancel)
                replaced.append(run.id)
        return replaced

    def _is_free(self, s: Session) -> bool:
        return not self.gate.is_closed and self.gate.lanes[0].may_take(s.tenant, BEGINS, self.now)

    def dispatch(self, key: Key, run_id: str, now: float) -> str | None:
        def step(s: Session | None) -> str | None:
            run = _run(s, run_id)
            assert s is not None
            if run.place != "reserved":
                raise Refused("UnknownRun", run_id)
            self._disarm(key, "reservation", run.id)
            if run.cut is not None:
                self._leave_line(s, run)
                self.fx.append(("closed", run.id, "cancelled", run.cut.reason, None))
                return None
            run.place = "queued"
            if run.start_at is not None:
                self._arm(key, "start", run.id, run.start_at)
            target = run.steers
            turn = target if isinstance(target, Turn) else s.floor if target is s.open and target is not None else None
            if turn is not None and turn.held == "step":
                self._unhold(s, turn, force=True)
            self._settle(s)
            return self.place(key, run_id)

        return self._step(key, now, step)

    def abandon(self, key: Key, run_id: str, now: float) -> None:
        def step(s: Session | None) -> None:
            run = _run(s, run_id)
            assert s is not None
            if run.place == "open" and not run.concluded and run.is_started:
                if run.fresh is None:
                    raise Refused("BadState")
                self._discard_open(s, run)
                return
            if run.place != "reserved":
                raise Refused("UnknownRun", run_id)
            self._leave_line(s, run)

        self._step(key, now, step)

    def finish(self, key: Key, run_id: str, now: float) -> None:
        def step(s: Session | None) -> None:
            run = s.open if s else None
            if s is None or run is None or run.id != run_id or not run.concluded:
                raise Refused("UnknownRun", run_id)
            s.open = None
            del s.runs[run.id]
            _loosen(run)

        self._step(key, now, step)

    def _leave_line(self, s: Session, run: Run) -> None:
        _loosen(run)
        s.line.remove(run)
        del s.runs[run.id]
        self._gone(s, run)

    def _gone(self, s: Session, run: Run) -> None:
        for kind in ("start", "reservation", "disconnect"):
            self._disarm(s.key, kind, run.id)

    def _discard_open(self, s: Session, run: Run) -> None:
        """The open run and its turn have never been."""
        turn = s.floor
        assert turn is not None
        self._disarm(s.key, "run", run.id)
        self._disarm(s.key, "stop", run.id)
        self._disarm(s.key, "grace", turn.id)
        for guard in run.guards:
            self._disarm(s.key, "guard", (run.id, guard))
        self._gone(s, run)
        turn.alive = False
        self._drop_permit(s, turn)
        del s.turns[turn.id]
        _loosen(run)
        del s.runs[run.id]
        s.open = None

    def _take_out(self, s: Session, run: Run, why: str, reason: str | None = None) -> None:
        """A run that never began leaves: from the line, or from the gate."""
        if run.place == "queued":
            self._leave_line(s, run)
        else:
            self._discard_open(s, run)
        self.fx.append(("closed", run.id, why, reason, None))

    # ---------------------------------------------------------------- the floor

    def _advance(self, s: Session) -> None:
        if s.open is not None or self.phase != "serving":
            return
        head = next((run for run in s.line if not (run.place == "reserved" and run.cut)), None)
        if head is not None and head.place == "queued":
            s.line.remove(head)
            self._begin(s, self._open(s, head))

    def _open(self, s: Session, run: Run) -> Turn:
        run.place, s.open = "open", run
        turn = self._new_turn(s, "summary" if run.kind == "summary" else "prompt", run)
        run.acts += 1
        return turn

    def _new_turn(self, s: Session, role: Literal["prompt", "summary", "child"], run: Run) -> Turn:
        self.last_turn += 1
        turn = s.turns[self.last_turn] = Turn(self.last_turn, role, run)
        return turn

    def _begin(self, s: Session, turn: Turn) -> None:
        self._ask(s, turn, BEGINS)

    def _ask(self, s: Session, turn: Turn, cls: int) -> None:
        turn.ticket = self.gate.ask(turn.depth, cls, Waiter(s.key, turn.id), self.now)
        if turn.ticket is None:
            self._has_permit(s, turn)
        else:
            turn.stand = "waiting"

    def _has_permit(self, s: Session, turn: Turn) -> None:
        turn.stand, turn.ticket = "running", None
        if turn.begun:
            self.fx.append(("goon", turn.id))
            return
        turn.begun = True
        run = turn.run
        if turn.is_floor and not run.begun:
            run.begun = True
            self.fx.append(("opened", run.id))
            self._disarm(s.key, "start", run.id)
            if run.timeout is not None:
                self._arm(s.key, "run", run.id, self.now + run.timeout)
        self.fx.append(("begun", turn.id))
        self.fx.append(("begin", turn.id))

    def _drop_permit(self, s: Session, turn: Turn) -> None:
        if turn.stand == "running":
            self.gate.release(turn.depth, s.tenant, self.now)
        elif turn.stand == "waiting" and turn.ticket is not None:
            self.gate.abandon(turn.depth, turn.ticket)
        turn.stand, turn.ticket = "parked", None

    def _park_if(self, s: Session, turn: Turn) -> None:
        if turn.waits and not turn.has_free_strand and turn.begun and turn.stand != "parked":
            self._drop_permit(s, turn)

    def _wake_if(self, s: Session, turn: Turn) -> None:
        may_go_on = turn.alive and not turn.closing and turn.cut is None
        if turn.stand == "parked" and turn.has_free_strand and may_go_on:
            self._ask(s, turn, GOES_ON)

    # ---------------------------------------------------------------- strands and waits

    def strands(self, key: Key, turn_id: int, count: int, now: float) -> None:
        def step(s: Session | None) -> None:
            turn = self._live(s, turn_id)
            if turn.waits or turn.strands != 1 or count == 0:
                raise Refused("BadState")
            turn.strands = count

        self._step(key, now, step)

    def strand_ends(self, key: Key, turn_id: int, now: float) -> bool:
        def step(s: Session | None) -> bool:
            turn = self._driven(s, turn_id)
            assert s is not None
            if not turn.has_free_strand:
                raise Refused("BadState")
            turn.strands -= 1
            if turn.strands == 0:
                turn.strands = 1
            else:
                self._park_if(s, turn)
            return turn.stand == "running"

        return self._step(key, now, step)

    def _driven(self, s: Session | None, turn_id: int) -> Turn:
        turn = s.turns.get(turn_id) if s else None
        if turn is None:
            raise Refused("BadState")
        if turn.run.fresh == turn_id:
            turn.run.fresh = None
        return turn

    def _live(self, s: Session | None, turn_id: int) -> Turn:
        turn = self._driven(s, turn_id)
        if turn.cut is not None:
            raise Refused("Aborted", turn_id)
        if turn.stand != "running" or not turn.has_free_strand or turn.held:
            raise Refused("BadState")
        return turn

    def wait(
        self,
        key: Key,
        turn_id: int,
        kind: str,
        now: float,
        *,
        deadline: float | None = None,
        target: str | None = None,
        by: int | None = None,
    ) -> tuple[int, bool]:
        """The number of the wait, and whether the turn is parked."""

        def step(s: Session | None) -> tuple[int, bool]:
            if by is None:
                turn = self._live(s, turn_id)
            else:
                turn = self._driven(s, turn_id)
                if kind != "run":
                    raise Refused("BadState")
                if turn.cut is not None or not _is_tool(turn, by):
                    raise Refused("Aborted", turn_id)
            assert s is not None
            edge = None
            if kind == "run" and turn.holds and turn.run is s.open:
                edge = (key[0], target or "")
                if edge == key:
                    raise Refused("WouldDeadlock")
                if self._reaches(edge, key):
                    raise Refused("WaitCycle")
                self.edges[(key, edge)] += 1
            if by is not None:
                number = turn.mint_wait()
                turn.calls[number] = Call("run", by, edge)
                return number, turn.stand != "running"
            return self._add_wait(s, turn, Wait(kind, edge), deadline)

        return self._step(key, now, step)

    def _add_wait(self, s: Session, turn: Turn, wait: Wait, deadline: float | None = None) -> tuple[int, bool]:
        number = turn.mint_wait()
        if deadline is not None:
            self._arm(s.key, "wait", (turn.id, number), deadline)
        turn.waits[number] = wait
        parked = not turn.has_free_strand
        self._park_if(s, turn)
        return number, parked

    def _reaches(self, start: Key, end: Key) -> bool:
        seen: set[Key] = set()
        todo = [start]
        while todo:
            at = todo.pop()
            if at == end:
                return True
            if at not in seen:
                seen.add(at)
                todo += [to for (other, to), count in self.edges.items() if other == at and count]
        return False

    def waited(self, key: Key, turn_id: int, number: int, now: float) -> bool:
        def step(s: Session | None) -> bool:
            turn = s.turns.get(turn_id) if s else None
            if s is None or turn is None:
                return False
            if number in turn.calls:
                if turn.calls[number].kind != "run":
                    raise Refused("BadState")
                self._edge_gone(key, turn.calls.pop(number).target)
                return True
            if number not in turn.waits:
                return False
            if turn.waits[number].kind in ("child", "slot", "children", "lane"):
                raise Refused("BadState")
            self._resolve(s, turn, number)
            return True

        return self._step(key, now, step)

    def _resolve(self, s: Session, turn: Turn, number: int) -> None:
        wait = turn.waits.pop(number)
        self._disarm(s.key, "wait", (turn.id, number))
        if wait.kind == "tool":
            self._drop_calls(s, turn, number)
        self._edge_gone(s.key, wait.target)
        if wait.kind == "lane":
            self.gate.abandon(wait.lane, wait.ticket)
        self._wake_if(s, turn)

    def _drop_calls(self, s: Session, turn: Turn, by: int | None = None) -> None:
        """The tool is over: what it asked for and has not got is given up; what it started goes on."""
        for number, call in list(turn.calls.items()):
            if by is not None and call.by != by:
                continue
            if call.kind == "slot" and number in turn.tickets:
                self._decide(s, turn, number, "cancelled")
            self._edge_gone(s.key, call.target)
            turn.calls.pop(number, None)

    def _edge_gone(self, start: Key, end: Key | None) -> None:
        if end is not None:
            self.edges[(start, end)] -= 1
            if not self.edges[(start, end)]:
                del self.edges[(start, end)]

    def _drop_waits(self, s: Session, turn: Turn) -> None:
        for number, wait in turn.waits.items():
            self._disarm(s.key, "wait", (turn.id, number))
            self._edge_gone(s.key, wait.target)
            if wait.kind == "lane":
                self.gate.abandon(wait.lane, wait.ticket)
        turn.waits.clear()
        self._drop_calls(s, turn)
        slots, turn.slots = turn.slots, {}
        for lane in slots.values():
            self.gate.release(lane, s.tenant, self.now)

    # ---------------------------------------------------------------- providers' lanes

    def enter_lane(
        self, key: Key, turn_id: int | None, lane: str, now: float, *, deadline: float | None = None
    ) -> tuple[int, bool, bool]:
        """The number of the entry, whether it has its slot, whether the turn is parked."""
        if turn_id is None:
            return self._enter_errand(key, lane, now, deadline)

        def step(s: Session | None) -> tuple[int, bool, bool]:
            turn = self._live(s, turn_id)
            assert s is not None
            number = turn.last_wait + 1
            ticket = self._ask_lane(lane, GOES_ON, Waiter(key, turn_id, number))
            if ticket is None:
                turn.slots[turn.mint_wait()] = lane
                return number, True, False
            _, parked = self._add_wait(s, turn, Wait("lane", lane=lane, ticket=ticket), deadline)
            return number, False, parked

        return self._step(key, now, step)

    def _ask_lane(self, lane: str, cls: int, waiter: Waiter) -> int | None:
        is_full = self.gate.is_full(lane, cls, self.bounds.lane_waiters)
        ticket = self.gate.ask(lane, cls, waiter, self.now)
        if ticket is not None and is_full:
            self.gate.abandon(lane, ticket)
            raise Refused("LaneFull", lane)
        return ticket

    def _enter_errand(self, key: Key, lane: str, now: float, deadline: float | None) -> tuple[int, bool, bool]:
        self.now, self.fx = now, []
        session = self.sessions.get(key)
        if session is not None and session.closing:
            raise Refused("SessionDeleting")
        if self.phase != "serving":
            raise Refused("Draining")
        number = self.gate.last_errand + 1
        ticket = self._ask_lane(lane, BEGINS, Waiter(key, None, number))
        self.gate.last_errand = number
        self.gate.errands[number] = Errand(key, lane, ticket)
        if ticket is not None and deadline is not None:
            self._arm(key, "errand", number, deadline)
        return number, ticket is None, False

    def leave_lane(self, key: Key, turn_id: int | None, number: int, now: float) -> bool:
        if turn_id is None:
            self.now, self.fx = now, []
            found = number in self.gate.errands
            if found:
                self._end_errand(number)
            self._carry()
            return found

        def step(s: Session | None) -> bool:
            turn = s.turns.get(turn_id) if s else None
            if s is None or turn is None:
                return False
            if number in turn.slots:
                self.gate.release(turn.slots.pop(number), s.tenant, self.now)
                return True
            if number in turn.waits and turn.waits[number].kind == "lane":
                self._resolve(s, turn, number)
                return True
            return False

        return self._step(key, now, step)

    def _end_errand(self, number: int) -> None:
        errand = self.gate.errands.pop(number)
        self._disarm(errand.session, "errand", number)
        if errand.ticket is None:
            self.gate.release(errand.lane, errand.session[0], self.now)
        else:
            self.gate.abandon(errand.lane, errand.ticket)

    def _cut_errand(self, number: int, news: News) -> None:
        self.fx.append(("errand", number, news))
        if self.gate.errands[number].ticket is not None:
            self._end_errand(number)

    # ---------------------------------------------------------------- the tree

    def spawn(
        self,
        key: Key,
        turn_id: int,
        now: float,
        *,
        on_parent_end: OnParentEnd = "wait",
        is_async: bool = False,
        is_valid: bool = True,
        caller_cancelled: bool = False,
        timeout: float | None = None,
        slot_wait: float | None = None,
        by: int | None = None,
    ) -> tuple[int | None, int | None, bool]:
        """The child if it is admitted, the number of the wait, whether the turn is parked."""

        def step(s: Session | None) -> tuple[int | None, int | None, bool]:
            parent = self._driven(s, turn_id)
            assert s is not None
            bounds = self.bounds
            if parent.cut is not None or caller_cancelled or (by is not None and not _is_tool(parent, by)):
                raise Refused("Spawn", "cancelled")
            if not parent.begun or parent.held:
                raise Refused("Spawn", "parent_ended")
            if parent.depth >= bounds.depth:
                raise Refused("Spawn", "depth_limit")
            if not is_valid:
                raise Refused("Spawn", "invalid")
            is_full = self.children[s.tenant] >= bounds.children_per_tenant or self.children.total() >= bounds.children
            if bounds.children_per_turn == 0 or parent.run.admitted >= bounds.children_per_run or is_full:
                raise Refused("Spawn", "child_limit")
            if self.phase != "serving":
                raise Refused("Draining")
            if by is None and (parent.stand != "running" or not parent.has_free_strand):
                raise Refused("BadState")
            seconds = bounds.child_timeout if timeout is None else timeout
            spec = Spec(on_parent_end if is_async else "wait", is_async, seconds, bounds.children_per_turn)
            if len(parent.children) < spec.slots and not parent.tickets:
                return self._admit_at_once(s, parent, spec, by)
            most = bounds.slot_wait if slot_wait is None else slot_wait
            if most <= 0:
                raise Refused("Spawn", "slot_timeout")
            parked = True
            if by is None:
                number, parked = self._add_wait(s, parent, Wait("slot"))
            else:
                number = parent.mint_wait()
                parent.calls[number] = Call("slot", by)
            self._arm(key, "slot", (turn_id, number), now + most)
            parent.tickets[number] = spec
            return None, number, parked

        return self._step(key, now, step)

    def _admit_at_once(
        self, s: Session, parent: Turn, spec: Spec, by: int | None
    ) -> tuple[int | None, int | None, bool]:
        number = None
        if not spec.is_async:
            number = parent.last_wait + 1
            if by is not None:
                parent.mint_wait()
        child = self._new_child(s, parent, spec, outside=by is not None)
        parked = by is not None
        if number is not None and by is not None:
            parent.calls[number] = Call("child", by, child=child.id)
        elif number is not None:
            _, parked = self._add_wait(s, parent, Wait("child", child=child.id))
        self._begin(s, child)
        return child.id, number, parked

    def _admit_next(self, s: Session, parent: Turn, number: int) -> None:
        spec = parent.tickets.pop(number)
        self._disarm(s.key, "slot", (parent.id, number))
        outside = number in parent.calls
        child = self._new_child(s, parent, spec, outside=outside)
        self.fx.append(("decided", parent.id, number, child.id, None))
        if outside and spec.is_async:
            del parent.calls[number]
        elif outside:
            parent.calls[number] = Call("child", parent.calls[number].by, child=child.id)
        elif spec.is_async:
            self._resolve(s, parent, number)
        else:
            parent.waits[number] = Wait("child", child=child.id)
        self._begin(s, child)

    def _new_child(self, s: Session, parent: Turn, spec: Spec, *, outside: bool) -> Turn:
        child = self._new_turn(s, "child", parent.run)
        child.parent, child.parent_id = parent, parent.id
        child.depth, child.outside = parent.depth + 1, outside
        child.on_parent_end, child.is_async = spec.on_parent_end, spec.is_async
        child.holds = parent.holds and spec.on_parent_end != "continue"
        parent.children[child.id] = child
        parent.run.admitted += 1
        self.children[s.tenant] += 1
        if child.holds:
            parent.run.kids += 1
        deadline = self.now + spec.timeout
        self.fx.append(
            ("spawned", child.id, parent.id, child.depth, spec.on_parent_end, spec.is_async, outside, deadline)
        )
        self._arm(s.key, "child", child.id, deadline)
        return child

    def abandon_spawn(self, key: Key, turn_id: int, number: int, now: float) -> bool:
        def step(s: Session | None) -> bool:
            turn = s.turns.get(turn_id) if s else None
            if s is None or turn is None or number not in turn.tickets:
                return False
            self._decide(s, turn, number, "cancelled")
            return True

        return self._step(key, now, step)

    def _decide(self, s: Session, parent: Turn, number: int, refused: str) -> None:
        del parent.tickets[number]
        self._disarm(s.key, "slot", (parent.id, number))
        self.fx.append(("decided", parent.id, number, None, refused))
        parent.calls.pop(number, None)
        if number in parent.waits:
            self._resolve(s, parent, number)

    # ---------------------------------------------------------------- fold points and loans

    def fold_point(self, key: Key, turn_id: int, now: float, *, most: int | None = None) -> Answer:
        def step(s: Session | None) -> Answer:
            turn = self._driven(s, turn_id)
            assert s is not None
            if turn.cut is not None:
                raise Refused("Aborted", turn_id)
            if not turn.is_in_its_loop or turn.loan or turn.held:
                raise Refused("BadState")
            leave = self.phase != "serving"
            if not leave:
                self._lend(s, turn, 0 if turn.is_stopping else most)
            return {**_loan(turn), "leave": leave}

        return self._step(key, now, step)

    def _lend(self, s: Session, turn: Turn, most: int | None) -> bool:
        pool = turn.bound if turn.role == "child" else turn.run.bound if turn.role == "prompt" else {}
        steers = [pool[sequence] for sequence in sorted(pool) if pool[sequence].place == "queued"][:most]
        for run in steers:
            run.place = "lent"
            s.line.remove(run)
            self._disarm(s.key, "start", run.id)
        results, turn.inbox = turn.inbox, []
        turn.loan = (steers, results) if steers or results else None
        return turn.loan is not None

    def taken(self, key: Key, turn_id: int, now: float) -> None:
        def step(s: Session | None) -> None:
            turn = self._driven(s, turn_id)
            assert s is not None
            loan, turn.loan = turn.loan, None
            for run in loan[0] if loan else ():
                _loosen(run)
                del s.runs[run.id]
                self._gone(s, run)
                self.fx.append(("closed", run.id, "folded", None, turn.id))
            for child, _ in loan[1] if loan else ():
                self.fx.append(("delivered", child, turn.id))

        self._step(key, now, step)

    def _give_back(self, s: Session, turn: Turn) -> None:
        loan, turn.loan = turn.loan, None
        if loan is None:
            return
        for run in loan[0]:
            run.place = "queued"
            s.line.append(run)
        s.line.sort(key=lambda run: run.sequence)
        for run in loan[0]:
            if run.cut is not None:
                self.fx.append(("requested", run.id, None, "abort", run.cut.reason))
                self._take_out(s, run, "cancelled", run.cut.reason)
            elif run.start_at is not None:
                self._arm(s.key, "start", run.id, run.start_at)
        turn.inbox[:0] = loan[1]

    # ---------------------------------------------------------------- the end of a turn

    def conclude(
        self,
        key: Key,
        turn_id: int,
        proposal: str,
        now: float,
        *,
        may_step: bool = True,
        most: int | None = None,
        if_last: bool = False,
    ) -> Answer:
        def step(s: Session | None) -> Answer:
            turn = self._driven(s, turn_id)
            assert s is not None
            if not turn.begun:
                raise Refused("BadState")
            if turn.cut is None and proposal == "answer" and not turn.is_in_its_loop:
                raise Refused("BadState")
            may_be_last = if_last and turn.loan is None
            self._give_back(s, turn)
            if turn.cut is not None:
                if _living(turn):
                    self._decide_all(s, turn, "cancelled")
                    self._drop_permit(s, turn)
                    self._drop_waits(s, turn)
                    turn.closing = True
                    self._disarm(key, "grace", turn.id)
                    return {"status": "held"}
                return self._concluded(s, turn, turn.cut.end)
            if proposal != "answer":
                return self._concluded(s, turn, "failed")
            if not turn.is_stopping:
                waits_for = [child for child in turn.children.values() if child.on_parent_end == "wait"]
                if self.phase != "serving":
                    if waits_for:
                        return {"status": "leaves"}
                elif may_step and self._lend(s, turn, most):
                    return {"status": "goes_on", **_loan(turn), "leave": False}
                elif any(child.is_async for child in waits_for):
                    turn.held = "step" if may_step else "end"
                    self._add_wait(s, turn, Wait("children"))
                    return {"status": "held"}
                run = s.open
                if may_be_last and turn.is_floor and run is not None and run.acts <= 1 and not run.guards:
                    return {"status": "last"}
            return self._concluded(
                s, turn, "parent_ended" if turn.parent_ended else "stopped" if turn.stop else "answered"
            )

        return self._step(key, now, step)

    def _concluded(self, s: Session, turn: Turn, end: End) -> Answer:
        self._end(s, turn, end)
        return {"status": "concluded", "end": end}

    def _decide_all(self, s: Session, turn: Turn, refused: str) -> None:
        for number in list(turn.tickets):
            self._decide(s, turn, number, refused)

    def _end(self, s: Session, turn: Turn, end: End) -> None:
        turn.alive = False
        self._decide_all(s, turn, "cancelled" if turn.cut else "parent_ended")
        self._drop_permit(s, turn)
        self._drop_waits(s, turn)
        self._give_back(s, turn)
        for kind in ("child", "grace", "turn-stop"):
            self._disarm(s.key, kind, turn.id)
        for steer in turn.bound.values():
            steer.steers = None
        turn.bound = {}
        del s.turns[turn.id]
        if turn.begun or not turn.is_floor:
            self.fx.append(("ended", turn.id, end))
        cause = "parent_cancelled" if turn.cut else "step_limit" if end == "answered" else "parent_ended"
        self._orphan_inbox(turn, cause)
        for child in list(turn.children.values()):
            if child.on_parent_end != "continue" and child.alive:
                self._tell_ended(s, child)
        parent = turn.parent
        if turn.is_floor:
            turn.run.acts -= 1
            return
        self.children[s.tenant] -= 1
        if turn.holds:
            turn.run.kids -= 1
        if parent is None or not parent.alive:
            if turn.is_async:
                self.fx.append(("orphaned", turn.id, "parent_ended"))
            return
        del parent.children[turn.id]
        while self.phase == "serving" and parent.tickets:
            number, spec = next(iter(parent.tickets.items()))
            if len(parent.children) >= spec.slots:
                break
            self._admit_next(s, parent, number)
        if turn.is_async and parent.cut is not None:
            self.fx.append(("orphaned", turn.id, "parent_cancelled"))
        elif turn.is_async and parent.held == "end":
            self.fx.append(("orphaned", turn.id, "step_limit"))
        elif turn.is_async:
            parent.inbox.append((turn.id, end))
        else:
            self._answer(s, parent, turn.id, end)
        if parent.held:
            self._unhold(s, parent)
        if parent.closing and not _living(parent):
            self.fx.append(("conclude", parent.id))

    def _answer(self, s: Session, parent: Turn, child: int, end: End) -> None:
        for number, wait in list(parent.waits.items()):
            if wait.kind == "child" and wait.child == child:
                self.fx.append(("came", parent.id, number, "ended", child, end))
                self._resolve(s, parent, number)
        for number, call in list(parent.calls.items()):
            if call.kind == "child" and call.child == child:
                self.fx.append(("came", parent.id, number, "ended", child, end))
                del parent.calls[number]

    def _orphan_inbox(self, turn: Turn, cause: str) -> None:
        inbox, turn.inbox = turn.inbox, []
        self.fx += [("orphaned", child, cause) for child, _ in inbox]

    def _unhold(self, s: Session, turn: Turn, *, force: bool = False) -> None:
        left = any(child.on_parent_end == "wait" and child.is_async for child in turn.children.values())
        if not left or (turn.held == "step" and turn.inbox) or turn.is_stopping or force:
            turn.held = None
            self._resolve(s, turn, next(number for number, wait in turn.waits.items() if wait.kind == "children"))

    def _tell_ended(self, s: Session, child: Turn) -> None:
        if child.cut is not None or child.parent_ended:
            return
        child.parent_ended = True
        if not child.begun:
            self._end(s, child, "parent_ended")
            return
        self.fx.append(("stop", child.id, "parent_ended"))
        self._stop_grace(s, child)
        if child.held:
            self._unhold(s, child)

    def _stop_grace(self, s: Session, turn: Turn) -> None:
        if (s.key, "turn-stop", turn.id) not in self.deadlines:
            self._arm(s.key, "turn-stop", turn.id, self.now + self.bounds.stop_grace)

    # ---------------------------------------------------------------- cancels

    def cancel(self, key: Key, scope: str, cancel: Cancel, now: float, *, of: object = None) -> Answer:
        """``scope``: session (``of`` a sequence, or None), clear (likewise), run (its id), subtree (a turn)."""

        def step(s: Session | None) -> Answer:
            out: Answer = {"covered": [], "finished": [], "lent": [], "turns": []}
            if s is None:
                if scope == "subtree":
                    raise Refused("TurnNotFound", of)
                return out
            if scope == "subtree":
                turn = s.turns.get(of) if isinstance(of, int) else None
                if turn is None:
                    raise Refused("TurnNotFound", of)
                if turn.is_floor:
                    return self._cancel_runs(s, [turn.run], cancel, out)
                _list(out, "turns").append(turn.id)
                self._cut_turn(s, turn, cutting(cancel))
                return out
            return self._cancel_scope(s, scope, cancel, of, out)

        return self._step(key, now, step)

    def _cancel_scope(self, s: Session, scope: str, cancel: Cancel, of: object, out: Answer) -> Answer:
        bound = of if isinstance(of, int) else self.last_sequence
        runs = list(s.runs.values())
        if scope == "run":
            runs = [run for run in runs if run.id == of]
        elif scope == "clear":
            runs = [run for run in runs if run.sequence <= bound and run is not s.open and run.kind != "bootstrap"]
        else:
            runs = [run for run in runs if run.sequence <= bound]
        ghosts = [
            turn
            for turn in s.turns.values()
            if not turn.is_floor
            and turn.run is not s.open
            and scope != "clear"
            and (turn.run.id == of if scope == "run" else turn.run.sequence <= bound)
        ]
        self._cancel_runs(s, runs, cancel, out)
        self._cut_ghosts(s, ghosts, cancel, out)
        return out

    def _cut_ghosts(self, s: Session, ghosts: list[Turn], cancel: Cancel, out: Answer) -> None:
        for turn in sorted(ghosts, key=lambda turn: turn.id):
            if turn.alive and turn.cut is None:
                _list(out, "turns").append(turn.id)
                self._cut_turn(s, turn, cutting(cancel))

    def cancel_tenant(self, tenant: str, cancel: Cancel, now: float) -> Answer:
        """The order of its sessions is the compiled core's own: only what it answers is compared."""
        out: Answer = {"covered": [], "finished": [], "lent": [], "turns": []}
        fx: list[Effect] = []
        self.now, self.fx = now, fx
        for session in [session for key, session in self.sessions.items() if key[0] == tenant]:
            self._cancel_scope(session, "session", cancel, None, out)
            self._settle(session)
            self._drop(session)
        self._carry()
        return out

    def _cancel_runs(self, s: Session, runs: list[Run], cancel: Cancel, out: Answer) -> Answer:
        for run in sorted(runs, key=lambda run: run.sequence):
            if run.id not in s.runs:
                continue
            if run.concluded:
                _list(out, "finished").append(run.id)
                for turn in sorted(s.turns.values(), key=lambda turn: turn.id):
                    if turn.run is run and not turn.is_floor and turn.alive:
                        self._cut_turn(s, turn, cutting(cancel))
            elif run.place == "lent":
                run.cut = run.cut or cutting(cancel.as_abort())
                _list(out, "lent").append(run.id)
            else:
                _list(out, "covered").append((run.id, self._place(s, run)))
                self._cover(s, run, cancel)
        return out

    def _cover(self, s: Session, run: Run, cancel: Cancel) -> None:
        is_stop = cancel.mode == "stop"
        if run.is_hard or (run.cut is not None and (is_stop or run.place == "reserved")):
            return
        self.fx.append(("requested", run.id, None, cancel.mode, cancel.reason))
        if run.place == "queued" or (run.place == "open" and not run.begun):
            self._take_out(s, run, "cancelled", cancel.reason)
        elif run.place == "reserved":
            _loosen(run)
            run.cut = cutting(cancel.as_abort())
        elif is_stop:
            run.cut = cutting(cancel)
            self._arm(s.key, "stop", run.id, self.now + self.bounds.stop_grace)
            if s.floor is not None:
                self._stop_turn(s, s.floor, cancel)
        else:
            self._cut_run(s, run, cutting(cancel))

    def _stop_turn(self, s: Session, turn: Turn, cancel: Cancel) -> None:
        turn.stop = cancel
        if turn.begun:
            self.fx.append(("stop", turn.id, "stop"))
        if turn.held:
            self._unhold(s, turn)

    def _cut_run(self, s: Session, run: Run, cut: Cutting) -> None:
        run.cut = cut
        for guard in run.guards:
            self._disarm(s.key, "guard", (run.id, guard))
        run.guards.clear()
        self._disarm(s.key, "stop", run.id)
        self._disarm(s.key, "run", run.id)
        self._cut_all(s, [t for t in s.turns.values() if t.run is run and (t.holds or not cut.spares_continue)], cut)

    def _cut_turn(self, s: Session, turn: Turn, cut: Cutting) -> None:
        if turn.cut is not None or (not cut.is_hard and turn.stop is not None):
            return
        self.fx.append(("requested", turn.run.id, turn.id, cut.how, cut.reason))
        if not cut.is_hard:
            assert cut.cancel is not None
            if not turn.begun:
                self._end(s, turn, "cancelled")
                return
            self._stop_turn(s, turn, cut.cancel)
            self._stop_grace(s, turn)
            return
        below, todo = [], [turn]
        while todo:
            at = todo.pop()
            below.append(at)
            todo += [c for c in at.children.values() if not cut.spares_continue or c.on_parent_end != "continue"]
        self._cut_all(s, below, cut)

    def _cut_all(self, s: Session, turns: list[Turn], cut: Cutting) -> None:
        order = sorted((turn for turn in turns if turn.cut is None), key=lambda turn: (-turn.depth, turn.id))
        for turn in order:
            turn.cut, turn.held = cut, None
        for turn in order:
            self._decide_all(s, turn, "cancelled")
        for turn in order:
            if not turn.alive:
                continue
            self._disarm(s.key, "turn-stop", turn.id)
            self._disarm(s.key, "child", turn.id)
            self._orphan_inbox(turn, "parent_cancelled")
            if not turn.begun:
                self._end(s, turn, cut.end)
            elif not turn.closing:
                self.fx.append(("abort", turn.id, cut.how))
                self._arm(s.key, "grace", turn.id, self.now + self.bounds.cancel_grace)

    # ---------------------------------------------------------------- what a step leads to

    def _settle(self, s: Session) -> None:
        self._advance(s)
        run = s.open
        if run is None or run.concluded or run.acts or run.kids or run.guards:
            return
        run.concluded = True
        for kind in ("run", "stop", "disconnect"):
            self._disarm(s.key, kind, run.id)
        how = run.cut.how if run.cut else None
        status = "cancelled" if how == "abort" else "failed" if how == "deadline" else "completed"
        self.fx.append(("over", run.id, status, run.cut.reason if run.cut else None))

    def hold(self, key: Key, run_id: str, now: float, *, deadline: float | None = None) -> int:
        def step(s: Session | None) -> int:
            run = _run(s, run_id)
            if s is None or run is not s.open or run.concluded or run.is_hard:
                raise Refused("UnknownRun", run_id)
            run.last_guard += 1
            run.guards.add(run.last_guard)
            if deadline is not None:
                self._arm(key, "guard", (run_id, run.last_guard), deadline)
            return run.last_guard

        return self._step(key, now, step)

    def release(self, key: Key, run_id: str, guard: int, now: float) -> bool:
        def step(s: Session | None) -> bool:
            run = s.runs.get(run_id) if s else None
            if run is None or guard not in run.guards:
                return False
            run.guards.remove(guard)
            self._disarm(key, "guard", (run_id, guard))
            return True

        return self._step(key, now, step)

    # ---------------------------------------------------------------- closing, draining, time

    def close_session(self, key: Key, cancel: Cancel, now: float, *, force: bool) -> Answer:
        def step(found: Session | None) -> Answer:
            s = _there(found)
            if s.closing:
                return {"covered": [], "finished": [], "lent": [], "turns": []}
            if not force and (s.runs or s.turns):
                raise Refused("SessionBusy", s.open.id if s.open else None)
            s.closing = True
            return self._cancel_everything(s, cancel)

        return self._step(key, now, step, is_new=True)

    def _cancel_everything(self, s: Session, cancel: Cancel) -> Answer:
        out: Answer = {"covered": [], "finished": [], "lent": [], "turns": []}
        self._cancel_scope(s, "session", cancel.as_abort(), None, out)
        for number in [n for n, errand in self.gate.errands.items() if errand.session == s.key]:
            self._cut_errand(number, "cut")
        return out

    def forget_session(self, key: Key, now: float) -> None:
        def step(s: Session | None) -> None:
            if s is None:
                return
            if s.runs or s.turns or any(errand.session == key for errand in self.gate.errands.values()):
                raise Refused("SessionBusy", s.open.id if s.open else None)
            s.closing = False

        self._step(key, now, step)

    def drain(self, now: float) -> None:
        self.now, self.fx = now, []
        self.phase, self.gate.is_closed = "draining", True
        for number in list(self.gate.errands):
            self._cut_errand(number, "cut")

    def evict(self, key: Key, now: float) -> None:
        """The session goes elsewhere; what it had here goes on."""
        self.now, self.fx = now, []
        s = self.sessions.pop(key, None)
        if s is None:
            return
        for turn in sorted(s.turns.values(), key=lambda turn: turn.id):
            turn.alive = False
            self._drop_permit(s, turn)
            turn.tickets.clear()
            self._drop_waits(s, turn)
            self.children[s.tenant] -= not turn.is_floor
        for deadline in [deadline for deadline in self.deadlines if deadline[0] == key and deadline[1] != "errand"]:
            del self.deadlines[deadline]
        for number in [n for n, errand in self.gate.errands.items() if errand.session == key]:
            self._end_errand(number)
        self._carry()

    def set_limits(self, bounds: Bounds, now: float) -> None:
        """Bounds from here on, of the same lanes; what they let go, goes."""
        self.now, self.fx, self.bounds = now, [], bounds
        lanes = self.gate.lanes
        for name, lane in lanes.items():
            if isinstance(name, str):
                given = bounds.lanes[name]
                lane.limit, lane.tenant_limit, lane.pace, lane.waiters = (
                    given.limit,
                    given.tenant_limit,
                    given.pace,
                    given.waiters,
                )
            elif name == 0:
                lane.limit, lane.tenant_limit = bounds.running_turns, bounds.running_turns_per_tenant
            else:
                lane.limit, lane.tenant_limit = bounds.running_children, bounds.running_children_per_tenant
            places = sorted((ticket, waiter.tenant) for queue in lane.queues for ticket, waiter in queue.items())
            for tenant in dict.fromkeys(tenant for _, tenant in places):
                lane.settle(tenant)
        for name in lanes:
            while self.gate.grant(name, now):
                pass
        self._carry()

    def arm(
        self,
        key: Key,
        kind: Literal["reservation", "disconnect"],
        run_id: str,
        when: float,
        now: float,
        cancel: Cancel | None = None,
    ) -> None:
        def step(s: Session | None) -> None:
            run = _run(s, run_id)
            if run.concluded or (kind == "reservation" and run.place != "reserved"):
                raise Refused("UnknownRun", run_id)
            if kind == "disconnect":
                run.disconnect = cancel
            self._arm(key, kind, run_id, when)

        self._step(key, now, step)

    def disarm(self, key: Key, run_id: str, now: float) -> None:
        def step(s: Session | None) -> None:
            run = s.runs.get(run_id) if s else None
            if run is not None and not run.concluded:
                self._disarm(key, "disconnect", run_id)

        self._step(key, now, step)

    def _arm(self, key: Key, kind: Who, of: object, when: float) -> None:
        self.num_armed += 1
        self.deadlines[(key, kind, of)] = (when, self.num_armed)

    def _disarm(self, key: Key, kind: Who, of: object) -> None:
        self.deadlines.pop((key, kind, of), None)

    def next_due(self) -> float | None:
        deadlines = [when for when, _ in self.deadlines.values()]
        start = self.gate.next_start(self.now)
        return min([*deadlines, *([] if start is None else [start])], default=None)

    def due(self, now: float) -> list[tuple[Key, list[Effect]]]:
        """Every deadline that has passed, earliest first, each with the effects of its step."""
        steps: list[tuple[Key, list[Effect]]] = []
        while True:
            first = min(self.deadlines, key=lambda deadline: self.deadlines[deadline], default=None)
            when = self.deadlines[first][0] if first is not None else None
            start = self.gate.next_start(now)
            self.now, self.fx = now, []
            if start is not None and start <= now and (when is None or start < when):
                lane = next(name for name, it in self.gate.lanes.items() if self._starts(name, it))
                key = self.gate.grants[0].waiter.session
                assert lane is not None
                self._carry()
            elif first is not None and when is not None and when <= now:
                del self.deadlines[first]
                key = first[0]
                self._fire(*first)
            else:
                return steps
            steps.append((key, self.fx))

    def _starts(self, name: LaneKey, lane: Lane) -> bool:
        return lane.next_start(self.now) is not None and self.gate.grant(name, self.now)

    def _fire(self, key: Key, kind: Who, of: object) -> None:
        if kind == "errand":
            assert isinstance(of, int)
            self._cut_errand(of, "busy")
            self._carry()
            return
        session = self.sessions[key]
        if kind in ("reservation", "start", "run", "stop", "disconnect"):
            self._fire_run(session, kind, session.runs[str(of)])
        elif kind in ("child", "turn-stop", "grace"):
            assert isinstance(of, int)
            self._fire_turn(session, kind, session.turns[of])
        else:
            assert isinstance(of, tuple)
            self._fire_wait(session, kind, *of)
        self._settle(session)
        self._drop(session)
        self._carry()

    def _fire_run(self, s: Session, kind: Who, run: Run) -> None:
        if kind == "reservation":
            self._leave_line(s, run)
            why = "cancelled" if run.cut else "stranded"
            self.fx.append(("closed", run.id, why, run.cut.reason if run.cut else None, None))
        elif kind == "disconnect":
            assert run.disconnect is not None
            self._cancel_runs(s, [run], run.disconnect, {"covered": [], "finished": [], "lent": [], "turns": []})
        elif kind == "start":
            self._take_out(s, run, "expired")
        elif kind == "run":
            self.fx.append(("requested", run.id, None, "deadline", None))
            self._cut_run(s, run, Cutting("deadline"))
        else:
            assert run.cut is not None
            assert run.cut.cancel is not None
            self._cover(s, run, run.cut.cancel.as_abort())

    def _fire_turn(self, s: Session, kind: Who, turn: Turn) -> None:
        if kind == "grace":
            self.fx.append(("detach", turn.id))
        elif kind == "child":
            self._cut_turn(s, turn, Cutting("deadline"))
        else:
            self._cut_turn(s, turn, cutting(turn.stop.as_abort()) if turn.stop else Cutting("parent"))

    def _fire_wait(self, s: Session, kind: Who, of: object, number: int) -> None:
        if kind == "guard":
            s.runs[str(of)].guards.discard(number)
            return
        assert isinstance(of, int)
        turn = s.turns[of]
        if kind == "slot":
            self._decide(s, turn, number, "slot_timeout")
        else:
            self.fx.append(("came", turn.id, number, "due", None, None))
            self._resolve(s, turn, number)

    # ---------------------------------------------------------------- places

    def place(self, key: Key, run_id: str) -> str | None:
        """Where a run stands."""
        session = self.sessions.get(key)
        run = session.runs.get(run_id) if session else None
        return self._place(session, run) if session and run else None

    def _place(self, s: Session, run: Run) -> str:
        if run.place != "open":
            return run.place
        if run.concluded:
            return "concluded"
        turn = s.floor
        if turn is None:
            return "held"
        return (
            "parked"
            if turn.stand in ("parked", "none")
            else turn.stand
            if turn.stand == "running"
            else ("woken" if turn.begun else "waiting")
        )

    def _position(self, s: Session, run: Run) -> int:
        ahead = [r for r in s.line if r.sequence < run.sequence and not (r.place == "reserved" and r.cut)]
        is_open = s.open is not None and s.open.cut is None and s.open.sequence < run.sequence
        return len(ahead) + int(is_open)

    # ---------------------------------------------------------------- restore

    def restore(self, key: Key, left: Left, now: float) -> None:
        """A session as it was left, in one step."""
        self.now, self.fx = now, []
        s = self.sessions[key] = Session(key)
        for image in left.runs:
            self.last_sequence = max(self.last_sequence, image.sequence)
            if image.opened:
                self._restore_open(s, image)
        over: dict[int, Run] = {}
        turns: dict[int, Turn] = {}
        told: dict[int, tuple[list[int], list[tuple[int, int]]]] = {}
        for turn_left in left.turns:
            self.last_turn = max(self.last_turn, turn_left.id)
            self.children[s.tenant] += turn_left.role == "child"
            run = s.open if s.open and s.open.id == turn_left.run_id else None
            run = run or over.setdefault(turn_left.sequence, Run(turn_left.run_id, turn_left.sequence, "prompt"))
            turn = Turn(turn_left.id, turn_left.role, run, begun=turn_left.begun, stand="parked")
            turn.on_parent_end, turn.is_async = turn_left.on_parent_end, turn_left.is_async
            turn.outside, turn.parent_ended, turn.parent_id = (
                turn_left.outside,
                turn_left.parent_ended,
                turn_left.parent,
            )
            turn.depth, turn.holds, turn.inbox = turn_left.depth, turn_left.holds, list(turn_left.inbox)
            turn.strands = max(1, turn_left.strands, len(turn_left.waits))
            told[turn.id] = ([], [])
            for kind in turn_left.waits:
                number = turn.mint_wait()
                turn.waits[number] = Wait(kind)
                told[turn.id][0].append(number)
            turns[turn.id] = s.turns[turn.id] = turn
            parent = turns.get(turn_left.parent) if turn_left.parent is not None else None
            if parent is not None:
                self._hang(s, parent, turn, told[parent.id][1])
            if turn.is_floor:
                run.acts += 1
                if run.cut is not None and not run.cut.is_hard:
                    turn.stop = run.cut.cancel
                continue
            if turn.holds and run is s.open:
                run.kids += 1
            self._arm(key, "child", turn.id, now + self.bounds.child_timeout)
            if turn_left.cut is not None and turn_left.cut.is_hard:
                turn.cut = turn_left.cut
            elif turn_left.cut is not None:
                turn.stop = turn_left.cut.cancel
            if turn.cut is None and turn.is_stopping:
                self._stop_grace(s, turn)
        s.closing = left.closing is not None
        if s.open is not None and s.open.cut is not None and s.open.is_hard:
            for turn in s.turns.values():
                if turn.run is s.open and turn.cut is None and (turn.holds or not s.open.cut.spares_continue):
                    turn.cut = s.open.cut
        in_order = sorted(s.turns.values(), key=lambda turn: turn.id)
        for turn in in_order:
            if turn.begun and turn.cut is None:
                self.fx.append(("resume", turn.id, tuple(told[turn.id][0]), tuple(told[turn.id][1])))
        for image in left.runs:
            if not image.opened:
                self._restore_in_line(s, image)
        for turn in sorted((t for t in in_order if t.cut), key=lambda turn: (-turn.depth, turn.id)):
            self._orphan_inbox(turn, "parent_cancelled")
            if turn.alive and turn.cut is not None:
                self._disarm(key, "child", turn.id)
                if turn.begun:
                    self.fx.append(("abort", turn.id, turn.cut.how))
                else:
                    self._end(s, turn, turn.cut.end)
        for turn in in_order:
            if not turn.alive or turn.cut is not None:
                continue
            if turn.parent_ended and not turn.begun:
                self._end(s, turn, "parent_ended")
            elif not turn.begun:
                self._begin(s, turn)
            else:
                self._wake_if(s, turn)
        if left.closing is not None:
            self._cancel_everything(s, left.closing)
        self._settle(s)
        self._drop(s)
        self._carry()

    def _restore_open(self, s: Session, left: RunLeft) -> None:
        run = s.runs[left.id] = Run(left.id, left.sequence, left.kind, left.size, "open", left.cut, begun=True)
        run.admitted, s.open = left.admitted, run
        if left.timeout is not None and not run.is_hard:
            self._arm(s.key, "run", run.id, self.now + left.timeout)
        if run.cut is not None and not run.cut.is_hard:
            self._arm(s.key, "stop", run.id, self.now + self.bounds.stop_grace)

    def _restore_in_line(self, s: Session, left: RunLeft) -> None:
        if left.cut is not None:
            self.fx.append(("closed", left.id, "cancelled", left.cut.reason, None))
            return
        run = Run(left.id, left.sequence, left.kind, left.size, "queued", timeout=left.timeout)
        target: Run | Turn | None = None
        if isinstance(left.steers, str):
            aim = s.runs.get(left.steers)
            may = (
                aim is not None
                and aim.kind == "prompt"
                and not aim.cut
                and not aim.steers
                and aim.sequence < run.sequence
            )
            target = aim if may else None
        elif left.steers is not None:
            child = s.turns.get(left.steers)
            target = child if child is not None and child.cut is None and not child.is_floor else None
        run.steers = target if run.kind == "prompt" else None
        if run.steers is not None:
            run.steers.bound[run.sequence] = run
        s.runs[run.id] = run
        s.line.append(run)

    @staticmethod
    def _hang(s: Session, parent: Turn, child: Turn, told: list[tuple[int, int]]) -> None:
        child.parent = parent
        child.holds = parent.holds and child.on_parent_end != "continue"
        parent.children[child.id] = child
        if not child.is_async and not child.outside:
            number = parent.mint_wait()
            parent.waits[number] = Wait("child", child=child.id)
            parent.strands = max(parent.strands, len(parent.waits))
            told.append((child.id, number))


def _there(session: Session | None) -> Session:
    assert session is not None
    return session


def _list(answer: Answer, name: str) -> list[object]:
    found = answer[name]
    assert isinstance(found, list)
    return found


def _run(session: Session | None, run_id: str) -> Run:
    if session is None or run_id not in session.runs:
        raise Refused("UnknownRun", run_id)
    return session.runs[run_id]


def _is_tool(turn: Turn, wait: int) -> bool:
    return wait in turn.waits and turn.waits[wait].kind == "tool"


def _living(turn: Turn) -> list[Turn]:
    return [child for child in turn.children.values() if child.on_parent_end != "continue"]


def _loosen(run: Run) -> None:
    """Free it from what it steers, and what steers it from it."""
    if run.steers is not None:
        run.steers.bound.pop(run.sequence, None)
        run.steers = None
    for steer in run.bound.values():
        steer.steers = None
    run.bound = {}


def _target(s: Session) -> Run | None:
    """What a STEER that is accepted now would fold into."""
    if s.open is not None and s.open.kind == "prompt" and not s.open.concluded and s.open.cut is None:
        return s.open
    return next((run for run in s.line if run.kind == "prompt" and run.steers is None and run.cut is None), None)


def _named(target: Run | Turn | None) -> str | int | None:
    return None if target is None else target.id


def _loan(turn: Turn) -> Answer:
    steers, results = turn.loan or ([], [])
    return {
        "steers": [run.id for run in steers],
        "results": list(results),
        "stop": turn.stop.reason if turn.stop else None,
        "parent_ended": turn.parent_ended,
    }

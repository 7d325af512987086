"""What has to hold after every step, of both: I-1 to I-15 of the specification, as far as they apply."""

from __future__ import annotations

from collections import Counter

from .core import Core
from .gate import LaneKey
from .pair import Pair
from .state import Session, Turn


def check(pair: Pair) -> None:
    """All invariants, on the model; and that the compiled core looks the same from outside."""
    model = pair.model
    for session in model.sessions.values():
        check_turns(model, session)
        check_runs(model, session)
    check_permits(model)
    check_deadlines(model)
    check_views(pair)


def check_turns(model: Core, session: Session) -> None:
    """Who runs has something to do, and only who may (I-1, I-3, I-4, I-8)."""
    floors = [turn for turn in session.turns.values() if turn.is_floor]
    assert len(floors) <= 1, "I-1: one turn has the floor"
    for turn in session.turns.values():
        assert len(turn.waits) <= turn.strands or turn.closing, ("more waits than strands", turn.id)
        if turn.stand == "running":
            assert turn.has_free_strand, ("I-3: a permit with nothing that runs", turn.id)
        if turn.stand == "parked" and turn.begun and turn.cut is None:
            assert not turn.has_free_strand, ("I-4: parked with something to do", turn.id)
        assert len(turn.children) <= model.bounds.children_per_turn, ("I-8: slots", turn.id)
        assert turn.depth <= model.bounds.depth, ("I-8: depth", turn.id)
        if turn.tickets and model.phase == "serving":
            assert len(turn.children) == model.bounds.children_per_turn, ("I-8: a slot is free", turn.id)
        for call in turn.calls.values():
            tool = turn.waits.get(call.by)
            assert tool is not None, ("a call whose tool is over", turn.id)
            assert tool.kind == "tool", ("a call of no tool", turn.id)
        for sequence, steer in turn.bound.items():
            assert (steer.steers, steer.sequence) == (turn, sequence), ("I-14", turn.id)
        assert turn.is_async or turn.on_parent_end == "wait", ("a synchronous child is waited for", turn.id)
        check_held(turn)


def check_held(turn: Turn) -> None:
    """A turn that has answered and could take a STEER is not held."""
    if turn.held == "step":
        pool = turn.bound if turn.role == "child" else turn.run.bound if turn.role == "prompt" else {}
        assert not any(run.place == "queued" for run in pool.values()), ("held, and a STEER could fold", turn.id)


def check_runs(model: Core, session: Session) -> None:
    """What holds the open run is counted, and it is over when nothing does (I-2, I-9, I-14, I-15)."""
    for run in session.runs.values():
        for sequence, steer in run.bound.items():
            assert (steer.steers, steer.sequence) == (run, sequence), ("I-14", run.id)
    assert session.runs or session.turns or session.closing, "I-6: an entry without work"
    opened = session.open
    if opened is None:
        assert not any(turn.is_floor or turn.holds for turn in session.turns.values()), "I-15: held without a run"
        head = next((run for run in session.line if not (run.place == "reserved" and run.cut)), None)
        is_stuck = head is not None and head.place == "queued" and model.phase == "serving"
        assert not is_stuck, ("a head that is not opened", head)
        return
    acts = sum(turn.is_floor for turn in session.turns.values())
    kids = sum(not turn.is_floor and turn.holds and turn.run is opened for turn in session.turns.values())
    assert (opened.acts, opened.kids) == (acts, kids), ("I-2", opened.id)
    assert opened.concluded == (not acts and not kids and not opened.guards), ("I-9", opened.id)


def check_permits(model: Core) -> None:
    """Permits in use are those that somebody has, and none is free that somebody could have (I-10, I-12)."""
    in_use: Counter[LaneKey] = Counter()
    for session in model.sessions.values():
        for turn in session.turns.values():
            in_use[turn.depth] += turn.stand == "running"
            in_use.update(turn.slots.values())
    in_use.update(errand.lane for errand in model.gate.errands.values() if errand.ticket is None)
    for name, lane in model.gate.lanes.items():
        assert lane.in_use == in_use[name], ("I-10", name)
        is_open = not model.gate.is_closed and lane.in_use < lane.limit and lane.paced_until(model.now) is None
        if is_open and lane.next_start(model.now) is None:
            waiting = [waiter for queue in lane.queues for waiter in queue.values()]
            assert not any(lane.by[waiter.tenant] < lane.tenant_limit for waiter in waiting), ("I-12", name)


def check_deadlines(model: Core) -> None:
    """Deadlines and edges belong to what lives (I-6)."""
    for (key, kind, of), _ in model.deadlines.items():
        if kind == "errand":
            assert of in model.gate.errands, ("I-6", kind, of)
            continue
        session = model.sessions[key]
        owner = of[0] if isinstance(of, tuple) else of
        assert owner in session.runs or owner in session.turns, ("I-6", kind, of)
    for key, _ in model.edges:
        assert key in model.sessions, ("I-6: an edge of nobody", key)


def check_views(pair: Pair) -> None:
    """Snapshots and counts of the compiled core say what the model has (I-11, I-13)."""
    model, core = pair.model, pair.core
    stats = core.stats()
    runs = [run for session in model.sessions.values() for run in session.runs.values()]
    turns = [turn for session in model.sessions.values() for turn in session.turns.values()]
    assert stats.sessions == len(model.sessions)
    assert (stats.open_runs, stats.open_bytes) == (len(runs), sum(run.size for run in runs))
    assert stats.running_turns == sum(turn.stand == "running" for turn in turns)
    assert stats.parked_turns == sum(turn.begun and turn.stand == "parked" for turn in turns)
    assert stats.waiting_turns == sum(turn.stand == "waiting" for turn in turns)
    assert stats.children == sum(not turn.is_floor for turn in turns)
    assert stats.errands == len(model.gate.errands)
    assert stats.deadlines == len(model.deadlines)
    for key, session in model.sessions.items():
        check_snapshot(pair, key, session)
    active = core.active(limit=100).turns
    assert {view.turn.id for view in active} == {turn.id for turn in turns if turn.is_floor}


def check_snapshot(pair: Pair, key: tuple[str, str], session: Session) -> None:
    """One session."""
    snapshot = pair.core.snapshot(*key)
    assert snapshot is not None
    opened = session.open
    assert (snapshot.open.run.run_id if snapshot.open else None) == (opened.id if opened else None)
    assert [view.run.run_id for view in snapshot.line] == [run.id for run in session.line]
    assert [view.place for view in snapshot.line] == [run.place for run in session.line]
    assert {view.run.run_id for view in snapshot.lent} == {r.id for r in session.runs.values() if r.place == "lent"}
    assert [view.turn.id for view in snapshot.turns] == sorted(session.turns)
    for view in snapshot.turns:
        turn = session.turns[view.turn.id]
        stand = {"waiting": "woken" if turn.begun else "waiting"}.get(turn.stand, turn.stand)
        told = (view.stand, view.strands, view.waits, view.children, view.tickets, view.inbox, view.held, view.cut)
        own = (stand, turn.strands, len(turn.waits), len(turn.children), len(turn.tickets), len(turn.inbox))
        assert told == (*own, turn.held is not None, turn.cut.how if turn.cut else None), turn.id
    if opened is not None:
        assert snapshot.held_by == (opened.acts, opened.kids, len(opened.guards))
    assert snapshot.closing == session.closing
    for run in session.runs.values():
        place = pair.core.place(*key, run.id)
        assert place is not None
        assert place[0] == pair.model.place(key, run.id)
        assert pair.core.holds(*key, run.id), ("not over, and nothing holds it", run.id)


def check_empty(pair: Pair) -> None:
    """Nothing is left of anything (L-5)."""
    model = pair.model
    assert not model.sessions, [(key, list(s.runs), list(s.turns)) for key, s in model.sessions.items()]
    left = (model.deadlines, dict(model.edges), +model.children, model.gate.errands)
    assert not any(left), left
    stats = pair.core.stats()
    counts = (stats.sessions, stats.open_runs, stats.open_bytes, stats.running_turns, stats.waiting_turns)
    assert counts == (0, 0, 0, 0, 0), stats
    rest = (stats.parked_turns, stats.children, stats.lane_slots, stats.lane_waiters, stats.errands, stats.deadlines)
    assert rest == (0, 0, 0, 0, 0, 0), stats

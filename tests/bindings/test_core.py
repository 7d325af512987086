"""The binding: its types, its exceptions, its effects. What the core decides is compared in ``tests/model``."""

from __future__ import annotations

import math
import pickle
import threading

import pytest

from turnkeeper_core import (
    Abort,
    AbortedError,
    Act,
    BadStateError,
    Begin,
    Begun,
    Cancel,
    Closed,
    DrainingError,
    Ended,
    Fact,
    GoOn,
    Image,
    Lane,
    LaneFullError,
    Limits,
    Opened,
    OpenRunMismatchError,
    QueueFullError,
    Requested,
    Resume,
    RunExistsError,
    RunImage,
    RunOver,
    Scheduler,
    SchedulerError,
    SessionBusyError,
    SpawnRefusedError,
    Step,
    TurnImage,
    TurnNotFoundError,
    UnknownRunError,
    WaitImage,
    WouldDeadlockError,
    __version__,
)

AT = ("tenant", "session")


def begins(step: Step[object]) -> int:
    """The turn that a step begins."""
    (turn,) = (effect.turn.id for effect in step.effects if isinstance(effect, Begin))
    return turn


def submit(scheduler: Scheduler, run: str, **options: object) -> Step[object]:
    scheduler.accept(*AT, run, 0.0, **options)  # type: ignore[arg-type]  # The tests name the options rightly.
    return scheduler.dispatch(*AT, run, 0.0)


def test_a_run_goes_its_way() -> None:
    scheduler = Scheduler(epoch=3)
    accepted = scheduler.accept(*AT, "a", 1.0, kind="summary", size=7)
    answer = accepted.answer
    assert (answer.sequence, answer.position, answer.steers, answer.replaced, answer.starts) == (
        (3 << 32) + 1,
        0,
        None,
        [],
        None,
    )
    assert (accepted.effects, accepted.wake_at) == ((), None)
    dispatched = scheduler.dispatch(*AT, "a", 2.0)
    assert (dispatched.answer.status, dispatched.answer.place, dispatched.answer.position) == ("queued", "running", 0)
    opened, begun, begin = dispatched.effects
    assert isinstance(opened, Opened)
    assert isinstance(begun, Begun)
    assert isinstance(begin, Begin)
    assert isinstance(opened, Fact)
    assert isinstance(begin, Act)
    turn, run = begin.turn, opened.run
    assert (run.tenant, run.session_id, run.run_id, run.kind, run.key) == (*AT, "a", "summary", AT)
    assert (turn.id, turn.run, turn.role, turn.parent, turn.depth, turn.key) == (
        (3 << 32) + 1,
        run,
        "summary",
        None,
        0,
        AT,
    )
    assert begun.turn == turn
    assert hash(begun.turn) == hash(turn)
    assert scheduler.place(*AT, "a") == ("running", 0)
    counts = scheduler.counts(*AT)
    assert counts is not None
    assert (counts.open_run_id, counts.reserved, counts.queued, counts.turns, counts.bytes) == ("a", 0, 0, 1, 7)
    concluded = scheduler.conclude(*AT, turn.id, "answer", 3.0)
    assert (concluded.answer.status, concluded.answer.end, concluded.answer.cancel) == ("concluded", "answered", None)
    match concluded.effects:
        case (Ended(ended, "answered", None), RunOver(over, "completed", None)):
            assert (ended, over) == (turn, run)
        case other:
            raise AssertionError(other)
    finished = scheduler.finish(*AT, "a", 4.0)
    assert (finished.answer, finished.effects) == (None, ())
    assert scheduler.snapshot(*AT) is None
    stats = scheduler.stats()
    assert (stats.sessions, stats.open_runs, stats.running_turns, stats.deadlines) == (0, 0, 0, 0)
    assert stats.last_sequence == answer.sequence


def test_a_run_may_begin_in_the_step_of_its_accept() -> None:
    scheduler = Scheduler()
    step = scheduler.accept(*AT, "a", 0.0, may_start=True)
    assert step.answer.starts is not None
    assert begins(step) == step.answer.starts.id
    assert scheduler.abandon(*AT, "a", 0.0).effects == ()
    assert scheduler.stats().sessions == 0
    turn = begins(scheduler.accept(*AT, "a", 0.0, may_start=True))
    scheduler.fold_point(*AT, turn, 0.0)
    with pytest.raises(BadStateError):
        scheduler.abandon(*AT, "a", 0.0)


def test_refusals_are_exceptions_with_fields() -> None:
    limits = Limits(queue_per_session=1, open_runs=3, lanes=(Lane("p", 1, waiters=0),))
    scheduler = Scheduler(limits)
    with pytest.raises(UnknownRunError) as unknown:
        scheduler.dispatch(*AT, "a", 0.0)
    assert unknown.value.run_id == "a"
    turn = begins(submit(scheduler, "a"))
    with pytest.raises(RunExistsError) as exists:
        submit(scheduler, "a")
    assert exists.value.run_id == "a"
    with pytest.raises(SessionBusyError) as busy:
        submit(scheduler, "b", delivery="reject")
    assert busy.value.open_run_id == "a"
    with pytest.raises(OpenRunMismatchError) as mismatch:
        submit(scheduler, "b", expected_open_run_id="c")
    assert mismatch.value.open_run_id == "a"
    submit(scheduler, "b")
    with pytest.raises(QueueFullError) as full:
        submit(scheduler, "c")
    assert (full.value.scope, full.value.of, full.value.limit) == ("session", "runs", 1)
    scheduler.accept("tenant", "other", "d", 0.0)
    with pytest.raises(QueueFullError) as full:
        scheduler.accept("tenant", "third", "e", 0.0)
    assert (full.value.scope, full.value.of, full.value.limit) == ("process", "runs", 3)
    with pytest.raises(TurnNotFoundError) as not_found:
        scheduler.cancel_subtree(*AT, 99, Cancel("USER"), 0.0)
    assert not_found.value.turn_id == 99
    with pytest.raises(SpawnRefusedError) as spawn:
        scheduler.spawn(*AT, turn, 0.0, is_valid=False)
    assert spawn.value.why == "invalid"
    with pytest.raises(WouldDeadlockError):
        scheduler.wait(*AT, turn, "run", 0.0, target="session")
    scheduler.enter_lane(*AT, None, "p", 0.0)
    with pytest.raises(LaneFullError) as lane:
        scheduler.enter_lane(*AT, turn, "p", 0.0)
    assert lane.value.lane == "p"
    scheduler.cancel_run(*AT, "a", Cancel("USER"), 0.0)
    with pytest.raises(AbortedError) as aborted:
        scheduler.strands(*AT, turn, 2, 0.0)
    assert aborted.value.turn_id == turn
    scheduler.drain("draining", 0.0)
    with pytest.raises(DrainingError):
        submit(scheduler, "f")
    scheduler.drain("cut", 0.0)
    with pytest.raises(DrainingError):
        scheduler.conclude(*AT, turn, "cut", 0.0)
    assert scheduler.place(*AT, "a") == ("running", 0)
    refusals = [unknown, exists, busy, mismatch, full, not_found, spawn, lane, aborted]
    for refusal in (refusal.value for refusal in refusals):
        assert isinstance(refusal, SchedulerError)
        copy = pickle.loads(pickle.dumps(refusal))
        assert (type(copy), str(copy), copy.args) == (type(refusal), str(refusal), refusal.args)
        assert str(refusal) == refusal.args[0] != ""


def test_words_and_numbers_that_are_none_are_refused() -> None:
    scheduler = Scheduler()
    with pytest.raises(ValueError, match="kind must be one of prompt, summary, bootstrap"):
        submit(scheduler, "a", kind="other")
    with pytest.raises(ValueError, match="delivery must be one of"):
        submit(scheduler, "a", delivery="later")
    with pytest.raises(ValueError, match="mode must be one of abort, stop"):
        Cancel("USER", mode="kill")  # type: ignore[arg-type]  # That is the point.
    with pytest.raises(ValueError, match="a target"):
        scheduler.wait(*AT, 1, "run", 0.0)
    with pytest.raises(ValueError, match="have a cancel"):
        RunImage("a", 1, cut="abort")
    with pytest.raises(ValueError, match="no lane"):
        scheduler.enter_lane(*AT, None, "p", 0.0)
    with pytest.raises(OverflowError):
        Limits(open_runs=-1)
    with pytest.raises(ValueError, match="sequences"):
        Scheduler(epoch=1 << 21)
    with pytest.raises(ValueError, match="sequences"):
        scheduler.raise_sequence(1 << 21)
    for image in (
        Image((RunImage("a", 0),)),
        Image((RunImage("a", 2), RunImage("b", 1))),
        Image((RunImage("a", 1), RunImage("a", 2))),
        Image((RunImage("a", 1, opened=True), RunImage("b", 2, opened=True))),
        Image((RunImage("a", 1),), (TurnImage(1, "a", 1),)),
        Image((RunImage("a", 1, opened=True),), (TurnImage(1, "a", 1), TurnImage(1, "a", 1))),
        Image((), (TurnImage(1, "a", 1, role="child"),)),
    ):
        with pytest.raises(ValueError, match="the image is refused"):
            scheduler.restore(*AT, image, 0.0)
    assert scheduler.stats().sessions == 0
    assert __version__


def test_values_compare_and_show_themselves() -> None:
    cancel = Cancel("USER", actor="ada", mode="stop", superseded_by="run", rollback=True, unwind=True, hint="enough")
    same = Cancel("USER", actor="ada", mode="stop", superseded_by="run", rollback=True, unwind=True, hint="enough")
    assert (cancel.reason, cancel.actor, cancel.mode, cancel.superseded_by) == ("USER", "ada", "stop", "run")
    assert (cancel.rollback, cancel.unwind, cancel.hint) == (True, True, "enough")
    assert (cancel, hash(cancel)) == (same, hash(same))
    assert cancel != Cancel("USER")
    assert "ada" in repr(cancel)
    limits = Limits(open_runs=7, lanes=(Lane("p", None, starts=3),))
    assert (limits.queue_per_session, limits.open_runs, limits.slot_wait) == (10_000, 7, 30.0)
    (lane,) = limits.lanes
    assert (lane.name, lane.limit, lane.starts, lane.per, lane.waiters) == ("p", None, 3, 60.0, None)
    assert "open_runs: 7" in repr(limits)
    with pytest.raises(AttributeError):
        limits.open_runs = 8  # type: ignore[misc]  # Frozen.


def test_a_cancel_is_carried_through() -> None:
    scheduler = Scheduler()
    cancel = Cancel("USER", actor="ada")
    turn = begins(submit(scheduler, "a"))
    scheduler.accept(*AT, "b", 0.0)
    submit(scheduler, "c")
    step = scheduler.cancel_session(*AT, cancel, 0.0)
    assert [(covered.run.run_id, covered.was) for covered in step.answer.covered] == [
        ("a", "running"),
        ("b", "reserved"),
        ("c", "queued"),
    ]
    assert {covered.cancel for covered in step.answer.covered} == {cancel}
    assert [type(effect) for effect in step.effects] == [Requested, Abort, Requested, Requested, Closed]
    assert [effect.cancel for effect in step.effects if isinstance(effect, Requested | Closed)] == [cancel] * 4
    assert step.wake_at == Limits().cancel_grace
    dispatched = scheduler.dispatch(*AT, "b", 0.0)
    assert (dispatched.answer.status, dispatched.answer.place) == ("cancelled", None)
    (closed,) = dispatched.effects
    assert isinstance(closed, Closed)
    assert (closed.why, closed.cancel, closed.into) == ("cancelled", cancel, None)
    concluded = scheduler.conclude(*AT, turn, "answer", 0.0)
    assert (concluded.answer.end, concluded.answer.cancel) == ("cancelled", cancel)
    assert [run.run_id for run in scheduler.cancel_run(*AT, "a", cancel, 0.0).answer.finished] == ["a"]
    assert scheduler.cancel_tenant("tenant", cancel, 0.0).answer.covered == []
    assert scheduler.finish(*AT, "a", 0.0).effects == ()


def test_a_wait_has_a_deadline_and_a_timer() -> None:
    scheduler = Scheduler()
    turn = begins(submit(scheduler, "a"))
    wait = scheduler.wait(*AT, turn, "approval", 1.0, label="rm", deadline=5.0)
    assert (wait.answer.parked, wait.wake_at, scheduler.next_due()) == (True, 5.0, 5.0)
    held, waits = scheduler.holds(*AT, "a")
    assert (held.kind, held.turn, held.since) == ("turn", turn, 0.0)
    assert (waits.kind, waits.label, waits.since, waits.deadline) == ("approval", "rm", 1.0, 5.0)
    assert scheduler.due(4.9) == []
    ((key, step),) = scheduler.due(5.0)
    assert key == AT
    assert [type(effect).__name__ for effect in step.effects] == ["Came", "GoOn"]
    assert not scheduler.waited(*AT, turn, wait.answer.id, 6.0).answer
    assert scheduler.next_due() is None


def test_a_permit_that_is_freed_goes_to_another_session() -> None:
    scheduler = Scheduler(Limits(running_turns=1))
    turn = begins(submit(scheduler, "a"))
    scheduler.accept("other", "session", "b", 0.0)
    assert scheduler.dispatch("other", "session", "b", 0.0).answer.place == "waiting"
    wait = scheduler.wait(*AT, turn, "tool", 1.0)
    assert [effect.key for effect in wait.effects if isinstance(effect, Begin)] == [("other", "session")]
    assert scheduler.waited(*AT, turn, wait.answer.id, 2.0).effects == ()
    assert scheduler.place(*AT, "a") == ("woken", 0)
    (goes_on,) = scheduler.evict("other", "session", 3.0).effects
    assert isinstance(goes_on, GoOn)
    assert (goes_on.turn.id, goes_on.key) == (turn, AT)


def test_new_limits_let_more_begin() -> None:
    scheduler = Scheduler(Limits(running_turns=0))
    assert submit(scheduler, "a").effects == ()
    begins(scheduler.set_limits(Limits(running_turns=1), 1.0))


def test_restore() -> None:
    scheduler = Scheduler()
    image = Image(
        (RunImage("a", 5, opened=True, run_deadline=9.0), RunImage("s", 6, steers="a"), RunImage("b", 7)),
        (TurnImage(3, "a", 5, strands=2, waits=(WaitImage("approval", label="rm", deadline=4.0),)),),
    )
    step = scheduler.restore(*AT, image, 1.0)
    resume, goes_on = step.effects
    assert isinstance(resume, Resume)
    assert isinstance(goes_on, GoOn)
    assert (resume.turn.id, resume.waits, resume.children) == (3, (1,), ())
    assert step.wake_at == 4.0
    assert scheduler.waited(*AT, 3, 1, 2.0).answer
    assert scheduler.accept(*AT, "c", 2.0).answer.sequence == 8
    with pytest.raises(SessionBusyError):
        scheduler.restore(*AT, image, 2.0)


def test_active_turns_come_in_pages() -> None:
    scheduler = Scheduler()
    turns = set()
    for number in range(25):
        scheduler.accept("t", f"s{number}", "run", 0.0)
        turns.add(begins(scheduler.dispatch("t", f"s{number}", "run", 0.0)))
    found: list[int] = []
    page = scheduler.active(limit=10)
    found += [view.turn.id for view in page.turns]
    while page.cursor is not None:
        page = scheduler.active(page.cursor, limit=10)
        found += [view.turn.id for view in page.turns]
    assert (len(found), set(found)) == (25, turns)
    assert scheduler.active(tenant="other").turns == []
    (view,) = scheduler.tree("t", "s3", "run")
    assert (view.stand, view.begun, view.strands, view.waits) == ("running", True, 1, 0)


def test_ids_may_be_any_text() -> None:
    scheduler = Scheduler()
    for tenant, session in (("a", "bc"), ("ab", "c"), ("", "abc"), ("ä\0", "🐢")):
        scheduler.accept(tenant, session, "run", math.inf)
        effects = scheduler.dispatch(tenant, session, "run", 0.0).effects
        assert {effect.key for effect in effects if isinstance(effect, Opened | Begun | Begin)} == {(tenant, session)}
    assert scheduler.stats().sessions == 4


def test_threads_may_share_a_scheduler() -> None:
    scheduler = Scheduler(Limits(running_turns=1))
    started: list[int] = []
    begun = threading.Barrier(8)

    def work(name: str) -> None:
        begun.wait()
        for number in range(200):
            run = f"{name}-{number}"
            scheduler.accept(*AT, run, 0.0)
            todo = [effect for effect in scheduler.dispatch(*AT, run, 0.0).effects if isinstance(effect, Begin)]
            while todo:
                turn = todo.pop().turn
                started.append(turn.id)
                scheduler.conclude(*AT, turn.id, "failed", 0.0)
                finished = scheduler.finish(*AT, turn.run.run_id, 0.0)
                todo += [effect for effect in finished.effects if isinstance(effect, Begin)]

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == len(set(started)) == 1600
    assert scheduler.stats().sessions == 0

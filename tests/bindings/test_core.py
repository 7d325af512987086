"""The binding: every call, its types, its exceptions."""

import math
import pickle
import threading

import pytest

from turnkeeper_core import (
    Cancel,
    Limits,
    OpenRunMismatchError,
    QueueFullError,
    RunExistsError,
    Scheduler,
    SchedulerError,
    SessionBusyError,
    UnknownRunError,
    __version__,
)

AT = ("tenant", "session")


def submit(scheduler: Scheduler, run: str, **options: object) -> str:
    scheduler.accept(*AT, run, 0.0, **options)  # type: ignore[arg-type]  # The tests name the options rightly.
    return scheduler.dispatch(*AT, run, 0.0).status


def end(scheduler: Scheduler, run: str) -> list[str]:
    scheduler.conclude(*AT, run, answer=False)
    return [start.run_id for start in scheduler.finish(*AT, run, 0.0)]


def test_a_run_goes_its_way() -> None:
    scheduler = Scheduler(epoch=3)
    accepted = scheduler.accept(*AT, "a", 1.0, kind="summary")
    assert (accepted.sequence, accepted.position, accepted.steers, accepted.replaced, accepted.starts) == (
        (3 << 32) + 1,
        0,
        None,
        [],
        [],
    )
    dispatched = scheduler.dispatch(*AT, "a", 2.0)
    assert (dispatched.status, dispatched.cancel, dispatched.position, dispatched.steers) == ("started", None, 0, None)
    (start,) = dispatched.starts
    assert (start.tenant, start.session_id, start.run_id, start.kind) == ("tenant", "session", "a", "summary")
    assert start.sequence == accepted.sequence
    snapshot = scheduler.snapshot(*AT)
    assert snapshot is not None
    assert snapshot.open is not None
    assert (snapshot.open.run, snapshot.open.place, snapshot.open.since) == (start, "running", 2.0)
    assert (snapshot.line, snapshot.mark, snapshot.reserved, snapshot.queued) == ([], None, 0, 0)
    conclusion = scheduler.conclude(*AT, "a", answer=True)
    assert (conclusion.status, conclusion.fold, conclusion.cancel) == ("concluded", [], None)
    assert scheduler.finish(*AT, "a", 3.0) == []
    assert scheduler.snapshot(*AT) is None
    stats = scheduler.stats()
    assert (stats.sessions, stats.open_runs, stats.running_turns, stats.waiting_turns) == (0, 0, 0, 0)
    assert stats.last_sequence == accepted.sequence


def test_refusals_are_exceptions_with_fields() -> None:
    scheduler = Scheduler(Limits(queue_per_session=1, open_runs=3))
    with pytest.raises(UnknownRunError) as unknown:
        scheduler.dispatch(*AT, "a", 0.0)
    assert unknown.value.run_id == "a"
    submit(scheduler, "a")
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
    assert (full.value.scope, full.value.limit) == ("session", 1)
    scheduler.accept("tenant", "other", "d", 0.0)
    with pytest.raises(QueueFullError) as full:
        scheduler.accept("tenant", "third", "e", 0.0)
    assert (full.value.scope, full.value.limit, full.value.unit) == ("process", 3, "runs")
    for refusal in (unknown.value, exists.value, busy.value, mismatch.value, full.value):
        assert isinstance(refusal, SchedulerError)
        copy = pickle.loads(pickle.dumps(refusal))
        assert (type(copy), str(copy), copy.args) == (type(refusal), str(refusal), refusal.args)
        assert str(refusal) == refusal.args[0] != ""


def test_places_and_counts_need_no_snapshot() -> None:
    scheduler = Scheduler()
    submit(scheduler, "open")
    scheduler.accept(*AT, "a", 0.0, bytes=5)
    submit(scheduler, "b")
    assert scheduler.place(*AT, "open") == ("running", 0)
    assert scheduler.place(*AT, "a") == ("reserved", 1)
    assert scheduler.place(*AT, "b") == ("queued", 2)
    assert scheduler.place(*AT, "c") is None
    counts = scheduler.counts(*AT)
    assert (counts.open, counts.head, counts.reserved, counts.queued, counts.bytes) == ("open", "a", 1, 1, 5)
    idle = scheduler.counts("tenant", "other")
    assert (idle.open, idle.head, idle.reserved, idle.queued, idle.bytes) == (None, None, 0, 0, 0)


def test_prompts_in_line_are_bounded_by_their_bytes() -> None:
    scheduler = Scheduler(Limits(line_bytes_per_session=10, line_bytes=15))
    scheduler.accept(*AT, "a", 0.0, bytes=10)
    with pytest.raises(QueueFullError) as full:
        scheduler.accept(*AT, "b", 0.0, bytes=1)
    assert (full.value.scope, full.value.limit, full.value.unit) == ("session", 10, "bytes")
    with pytest.raises(QueueFullError) as full:
        scheduler.accept("tenant", "other", "c", 0.0, bytes=6)
    assert (full.value.scope, full.value.limit, full.value.unit) == ("process", 15, "bytes")
    scheduler.accept(*AT, "tombstoned", 0.0, bytes=100, cancelled=Cancel("USER"))
    scheduler.restore(*AT, "stored", 50, 0.0, bytes=100)
    assert scheduler.stats().line_bytes == 210


def test_words_and_numbers_that_are_none_are_refused() -> None:
    scheduler = Scheduler()
    with pytest.raises(ValueError, match="kind must be one of prompt, summary, bootstrap"):
        submit(scheduler, "a", kind="other")
    with pytest.raises(ValueError, match="delivery must be one of"):
        submit(scheduler, "a", delivery="later")
    with pytest.raises(ValueError, match="mode must be one of abort, stop"):
        Cancel("USER", mode="kill")  # type: ignore[arg-type]  # That is the point.
    with pytest.raises(OverflowError):
        Limits(open_runs=-1)
    with pytest.raises(ValueError, match="sequences"):
        Scheduler(epoch=1 << 21)
    with pytest.raises(ValueError, match="sequence 0"):
        scheduler.restore(*AT, "a", 0, 0.0)
    assert scheduler.stats().sessions == 0
    assert __version__


def test_values_compare_and_show_themselves() -> None:
    cancel = Cancel("USER", actor="ada", mode="stop", superseded_by="run")
    assert (cancel.reason, cancel.actor, cancel.mode, cancel.superseded_by) == ("USER", "ada", "stop", "run")
    assert cancel == Cancel("USER", actor="ada", mode="stop", superseded_by="run")
    assert hash(cancel) == hash(Cancel("USER", actor="ada", mode="stop", superseded_by="run"))
    assert cancel != Cancel("USER")
    assert "ada" in repr(cancel)
    limits = Limits(open_runs=7)
    assert (limits.queue_per_session, limits.open_runs) == (10_000, 7)
    assert (limits.running_turns, limits.running_turns_per_tenant) == (256, 64)
    assert "open_runs=7" in repr(limits)
    with pytest.raises(AttributeError):
        limits.open_runs = 8  # type: ignore[misc]  # Frozen.


def test_a_cancel_is_carried_through() -> None:
    scheduler = Scheduler()
    cancel = Cancel("USER", actor="ada")
    submit(scheduler, "a")
    scheduler.accept(*AT, "b", 0.0)
    submit(scheduler, "c")
    result = scheduler.cancel_session(*AT, cancel, 0.0)
    assert [(covered.run.run_id, covered.was) for covered in result.covered] == [
        ("a", "running"),
        ("b", "reserved"),
        ("c", "queued"),
    ]
    assert {covered.cancel for covered in result.covered} == {cancel}
    assert (result.concluded, result.starts) == ([], [])
    snapshot = scheduler.snapshot(*AT)
    assert snapshot is not None
    assert snapshot.mark == scheduler.stats().last_sequence
    assert [(view.run.run_id, view.cancel) for view in snapshot.line] == [("b", cancel)]
    assert scheduler.partition(*AT, "a").cancel == cancel
    dispatched = scheduler.dispatch(*AT, "b", 0.0)
    assert (dispatched.status, dispatched.cancel) == ("cancelled", cancel)
    conclusion = scheduler.conclude(*AT, "a", answer=True)
    assert (conclusion.status, conclusion.cancel) == ("cancelled", cancel)
    assert [run.run_id for run in scheduler.cancel_run(*AT, "a", cancel, 0.0).concluded] == ["a"]
    assert scheduler.cancel_tenant("tenant", cancel, 0.0).covered == []
    assert scheduler.finish(*AT, "a", 0.0) == []


def test_steering() -> None:
    scheduler = Scheduler()
    submit(scheduler, "a")
    assert scheduler.accept(*AT, "s", 0.0, delivery="steer").steers == "a"
    assert scheduler.dispatch(*AT, "s", 0.0).steers == "a"
    submit(scheduler, "t", delivery="steer")
    assert [run.run_id for run in scheduler.partition(*AT, "a", limit=1).fold] == ["s"]
    conclusion = scheduler.conclude(*AT, "a", answer=True)
    assert (conclusion.status, [run.run_id for run in conclusion.fold]) == ("steered", ["t"])
    accepted = scheduler.accept(*AT, "new", 0.0, delivery="replace")
    assert [(covered.cancel.reason, covered.cancel.superseded_by) for covered in accepted.replaced] == [
        ("REPLACED", "new")
    ]


def test_a_conclusion_returns_as_many_steers_as_are_asked_for() -> None:
    scheduler = Scheduler()
    submit(scheduler, "a")
    for run in ("s", "t"):
        submit(scheduler, run, delivery="steer")
    one = scheduler.conclude(*AT, "a", answer=True, limit=1)
    assert (one.status, [run.run_id for run in one.fold]) == ("steered", ["s"])
    assert scheduler.conclude(*AT, "a", answer=True, limit=0).status == "concluded"
    assert [run.run_id for run in scheduler.finish(*AT, "a", 0.0)] == ["t"]


def test_a_parked_turn_comes_back_ahead_of_new_ones() -> None:
    scheduler = Scheduler(Limits(running_turns=1))
    other, third = ("tenant", "other"), ("tenant", "third")
    submit(scheduler, "a")
    for at in (other, third):
        scheduler.accept(*at, "run", 0.0)
        assert scheduler.dispatch(*at, "run", 0.0).status == "waiting"
    assert [run.session_id for run in scheduler.park(*AT, "a", 3.0)] == ["other"]
    snapshot = scheduler.snapshot(*AT)
    assert snapshot is not None
    assert snapshot.open is not None
    assert (snapshot.open.place, snapshot.open.since) == ("parked", 3.0)
    assert (scheduler.stats().parked_turns, scheduler.stats().waiting_turns) == (1, 1)
    assert scheduler.wake(*AT, "a", 4.0) == "waiting"
    assert [covered.was for covered in scheduler.cancel_run(*AT, "a", Cancel("USER", mode="stop"), 4.0).covered] == [
        "woken"
    ]
    assert scheduler.conclude(*other, "run", answer=False).status == "concluded"
    assert [run.run_id for run in scheduler.finish(*other, "run", 5.0)] == ["a"]
    with pytest.raises(UnknownRunError):
        scheduler.wake(*AT, "a", 6.0)
    assert [run.session_id for run in scheduler.park(*AT, "a", 6.0)] == ["third"]
    assert scheduler.conclude(*third, "run", answer=False).status == "concluded"
    assert scheduler.finish(*third, "run", 7.0) == []
    assert scheduler.wake(*AT, "a", 8.0) == "running"
    scheduler.drain()
    assert scheduler.park(*AT, "a", 9.0) == []
    assert scheduler.wake(*AT, "a", 9.0) == "closed"
    assert end(scheduler, "a") == []


def test_expire_abandon_restore_and_drain() -> None:
    scheduler = Scheduler()
    submit(scheduler, "a")
    submit(scheduler, "b")
    assert scheduler.expire(*AT, "b", 0.0) == (True, [])
    assert scheduler.expire(*AT, "a", 0.0) == (False, [])
    scheduler.restore(*AT, "old", 100, 0.0, kind="prompt", delivery="steer", steers="a")
    assert scheduler.accept(*AT, "c", 0.0).sequence == 101
    assert scheduler.dispatch(*AT, "old", 0.0).steers == "a"
    assert scheduler.abandon(*AT, "c", 0.0) == []
    scheduler.restore(*AT, "dead", 200, 0.0, cancelled=Cancel("USER"))
    assert scheduler.dispatch(*AT, "dead", 0.0).status == "cancelled"
    scheduler.drain()
    assert end(scheduler, "a") == []
    assert submit(scheduler, "d") == "queued"


def test_holds() -> None:
    scheduler = Scheduler()
    submit(scheduler, "a")
    hold = scheduler.hold(*AT, "a", "child", 4.0)
    snapshot = scheduler.snapshot(*AT)
    assert snapshot is not None
    assert snapshot.open is not None
    assert [(hold.label, hold.since) for hold in snapshot.open.holds] == [("child", 4.0)]
    assert scheduler.release_hold(*AT, "a", hold) == 0
    assert scheduler.release_hold(*AT, "a", hold) == 0
    assert scheduler.release_hold(*AT, "gone", hold) == 0


def test_ids_may_be_any_text() -> None:
    scheduler = Scheduler()
    for tenant, session in (("a", "bc"), ("ab", "c"), ("", "abc"), ("ä\0", "🐢")):
        scheduler.accept(tenant, session, "run", math.inf)
        (start,) = scheduler.dispatch(tenant, session, "run", 0.0).starts
        assert (start.tenant, start.session_id) == (tenant, session)
    assert scheduler.stats().sessions == 4


def test_threads_may_share_a_scheduler() -> None:
    scheduler = Scheduler(Limits(running_turns=1))
    started: list[str] = []
    begun = threading.Barrier(8)

    def work(name: str) -> None:
        begun.wait()
        for number in range(200):
            run = f"{name}-{number}"
            scheduler.accept(*AT, run, 0.0)
            starts = [start.run_id for start in scheduler.dispatch(*AT, run, 0.0).starts]
            while starts:
                started.extend(starts)
                scheduler.conclude(*AT, starts[0], answer=False)
                starts = [start.run_id for start in scheduler.finish(*AT, starts[0], 0.0)]

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == len(set(started)) == 1600
    assert scheduler.stats().sessions == 0

"""The asyncio face: blocks begin in order, end once, and leave nothing."""

import asyncio

import pytest

from turnkeeper_core import (
    AsyncScheduler,
    BadStateError,
    Cancel,
    Delivery,
    Limits,
    RunCancelled,
    RunExistsError,
    RunExpired,
    RunFolded,
    SessionBusyError,
)

pytestmark = pytest.mark.asyncio

USER = Cancel("USER", actor="ada")


class Bench:
    """Bodies that stand at a gate until the test lets them go."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.scheduler = AsyncScheduler(limits)
        self.order: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.begun: dict[str, asyncio.Event] = {}

    async def body(self, session: str, run: str, delivery: Delivery = "queue") -> str:
        async with self.scheduler.turn(session, run, delivery=delivery) as turn:
            assert turn.run_id == run
            self.order.append(run)
            self.begun[run].set()
            await self.gates[run].wait()
            turn.raise_if_cancelled()
            return run

    def spawn(self, run: str, session: str = "s", delivery: Delivery = "queue") -> asyncio.Task[str]:
        self.gates[run] = asyncio.Event()
        self.begun[run] = asyncio.Event()
        return asyncio.create_task(self.body(session, run, delivery))

    async def accepted(self, *runs: str) -> None:
        """Returns when the tasks have entered their blocks, which they do in their first step."""
        await asyncio.sleep(0)
        assert {key[2] for key in self.scheduler._blocks} >= set(runs)

    def assert_idle(self) -> None:
        stats = self.scheduler.stats()
        assert (stats.sessions, stats.open_runs, stats.running_turns, stats.waiting_turns) == (0, 0, 0, 0)
        assert (stats.parked_turns, stats.deadlines) == (0, 0)
        assert not self.scheduler._blocks


async def test_blocks_of_a_session_run_in_order_of_arrival() -> None:
    bench = Bench()
    runs = [f"run-{number}" for number in range(20)]
    tasks = [bench.spawn(run) for run in runs]
    for run in runs:
        await bench.begun[run].wait()
        assert bench.scheduler.stats().running_turns == 1
        bench.gates[run].set()
    assert await asyncio.gather(*tasks) == bench.order == runs
    bench.assert_idle()


async def test_sessions_run_beside_each_other_within_the_limits() -> None:
    bench = Bench(Limits(running_turns=2))
    tasks = [bench.spawn(run, session=run) for run in ("a", "b", "c")]
    await bench.accepted("a", "b", "c")
    assert bench.scheduler.stats().waiting_turns == 1
    bench.gates["b"].set()
    await bench.begun["c"].wait()
    assert bench.order == ["a", "b", "c"]
    for gate in bench.gates.values():
        gate.set()
    await asyncio.gather(*tasks)
    bench.assert_idle()


async def test_an_exception_ends_the_turn_and_the_next_begins() -> None:
    bench = Bench()
    waiting: list[asyncio.Task[str]] = []

    async def fails() -> None:
        async with bench.scheduler.turn("s", "fails"):
            waiting.append(bench.spawn("next"))
            await bench.accepted("next")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails()
    await bench.begun["next"].wait()
    bench.gates["next"].set()
    assert await waiting[0] == "next"
    bench.assert_idle()


async def test_a_cancel_ends_a_running_body_and_all_that_wait() -> None:
    bench = Bench()
    tasks = [bench.spawn(run) for run in ("a", "b")]
    await bench.begun["a"].wait()
    result = bench.scheduler.cancel_session("s", USER)
    assert [covered.was for covered in result.covered] == ["running", "queued"]
    later = bench.spawn("later")
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [(type(end), getattr(end, "cancel", None)) for end in ends] == [(RunCancelled, USER)] * 2
    assert "USER" in str(ends[0])
    assert not any(task.cancelled() for task in tasks)
    await bench.begun["later"].wait()
    bench.gates["later"].set()
    await later
    assert bench.order == ["a", "later"]
    bench.assert_idle()


async def test_a_stop_is_told_and_leaves_the_task_alone() -> None:
    scheduler = AsyncScheduler()
    async with scheduler.turn("s", "a") as turn:
        assert turn.cancel is None
        scheduler.cancel_run("s", "a", Cancel("USER", mode="stop"))
        await turn.cancelled.wait()
        assert turn.cancel is not None
        with pytest.raises(RunCancelled):
            turn.raise_if_cancelled()
    assert scheduler.stats().sessions == 0


async def test_a_cancel_of_one_run_by_the_body_itself() -> None:
    scheduler = AsyncScheduler()

    async def cancels_itself() -> None:
        async with scheduler.turn("s", "a"):
            scheduler.cancel_run("s", "a", USER)
            await asyncio.Event().wait()

    with pytest.raises(RunCancelled):
        await cancels_itself()
    # One that comes when the body is at its end does not hit what follows.
    async with scheduler.turn("s", "b"):
        scheduler.cancel_tenant("default", USER)
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert scheduler.stats().sessions == 0


async def test_cancelling_a_task_that_waits_cancels_its_run() -> None:
    bench = Bench()
    first, second, third = (bench.spawn(run) for run in ("a", "b", "c"))
    await bench.accepted("a", "b", "c")
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    snapshot = bench.scheduler.snapshot("s")
    assert snapshot is not None
    assert [view.run.run_id for view in snapshot.line] == ["c"]
    bench.gates["a"].set()
    bench.gates["c"].set()
    assert [await first, await third] == ["a", "c"]
    bench.assert_idle()


async def test_cancelling_a_task_whose_start_is_on_its_way_passes_the_floor_on() -> None:
    bench = Bench()
    async with bench.scheduler.turn("s", "a"):
        second, third = bench.spawn("b"), bench.spawn("c")
        await bench.accepted("b", "c")
    # The floor is b's by now, but its task has not gone on.
    assert bench.scheduler.stats().running_turns == 1
    assert bench.order == []
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    bench.gates["c"].set()
    assert await third == "c"
    assert bench.order == ["c"]
    bench.assert_idle()


async def test_a_cancel_that_meets_a_start_on_its_way_ends_the_block() -> None:
    bench = Bench()
    async with bench.scheduler.turn("s", "a"):
        second = bench.spawn("b")
        await bench.accepted("b")
    assert [covered.was for covered in bench.scheduler.cancel_session("s", USER).covered] == ["running"]
    with pytest.raises(RunCancelled):
        await second
    assert bench.order == []
    bench.assert_idle()


async def test_cancelling_the_task_of_a_running_body_stays_a_cancellation() -> None:
    bench = Bench()
    task = bench.spawn("a")
    await bench.begun["a"].wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    bench.assert_idle()


async def test_both_cancellations_at_once_stay_a_cancellation() -> None:
    bench = Bench()
    task = bench.spawn("a")
    await bench.begun["a"].wait()
    bench.scheduler.cancel_run("s", "a", USER)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    bench.assert_idle()


async def test_a_time_limit_around_a_block_that_waits() -> None:
    bench = Bench()
    first = bench.spawn("a")
    await bench.begun["a"].wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0), bench.scheduler.turn("s", "late"):
            raise AssertionError("it never begins")
    bench.gates["a"].set()
    await first
    bench.assert_idle()


async def test_a_steer_is_folded_and_its_block_says_so() -> None:
    bench = Bench()
    async with bench.scheduler.turn("s", "main") as turn:
        steers = [bench.spawn(run, delivery="steer") for run in ("x", "y", "z")]
        await bench.accepted("x", "y", "z")
        assert [run.run_id for run in turn.fold(1)] == ["x"]
        assert [run.run_id for run in turn.conclude()] == ["y", "z"]
        assert turn.conclude() == []
        with pytest.raises(BadStateError):
            turn.fold()
    ends = await asyncio.gather(*steers, return_exceptions=True)
    assert [(type(end), getattr(end, "into_run_id", None)) for end in ends] == [(RunFolded, "main")] * 3
    assert str(ends[0]) == "run x was folded into main"
    bench.assert_idle()


async def test_a_steer_that_came_too_late_has_its_own_turn() -> None:
    bench = Bench()
    async with bench.scheduler.turn("s", "main"):
        steer = bench.spawn("x", delivery="steer")
        await bench.accepted("x")
    bench.gates["x"].set()
    assert await steer == "x"
    bench.assert_idle()


async def test_replace_ends_what_came_before() -> None:
    bench = Bench()
    tasks = [bench.spawn(run) for run in ("a", "b")]
    await bench.begun["a"].wait()
    new = bench.spawn("new", delivery="replace")
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [getattr(end, "cancel", USER).superseded_by for end in ends] == ["new", "new"]
    bench.gates["new"].set()
    assert await new == "new"
    bench.assert_idle()


async def test_refusals_come_from_entering_and_leave_nothing() -> None:
    scheduler = AsyncScheduler()
    async with scheduler.turn("s", "a"):
        with pytest.raises(RunExistsError):
            await scheduler.turn("s", "a").__aenter__()
        with pytest.raises(SessionBusyError):
            await scheduler.turn("s", "b", delivery="reject").__aenter__()
        assert len(scheduler._blocks) == 1
    block = scheduler.turn("s", "a")
    async with block:
        with pytest.raises(RuntimeError, match="once"):
            await block.__aenter__()
    assert scheduler.stats().sessions == 0


async def test_a_parked_block_lets_others_run_and_goes_on_before_new_ones() -> None:
    bench = Bench(Limits(running_turns=1))
    parked, answered = asyncio.Event(), asyncio.Event()

    async def asks() -> None:
        async with bench.scheduler.turn("asks", "asks") as turn:
            async with turn.parked():
                parked.set()
                await answered.wait()
            bench.order.append("asks")

    asking = asyncio.create_task(asks())
    await parked.wait()
    first, second = bench.spawn("first", session="one"), bench.spawn("second", session="two")
    await bench.begun["first"].wait()
    answered.set()
    await bench.accepted("second")
    for run in ("first", "second"):
        bench.gates[run].set()
    await asyncio.gather(asking, first, second)
    assert bench.order == ["first", "asks", "second"]
    bench.assert_idle()


@pytest.mark.parametrize("is_woken", [False, True])
async def test_a_parked_block_that_is_cancelled_needs_no_permit_to_end(is_woken: bool) -> None:
    bench = Bench(Limits(running_turns=1))
    parked, answered = asyncio.Event(), asyncio.Event()

    async def asks() -> None:
        async with bench.scheduler.turn("asks", "asks") as turn, turn.parked():
            parked.set()
            await answered.wait()

    asking = asyncio.create_task(asks())
    await parked.wait()
    other = bench.spawn("other")
    await bench.begun["other"].wait()
    if is_woken:
        answered.set()
        await bench.accepted("other")
    result = bench.scheduler.cancel_run("asks", "asks", USER)
    assert [covered.was for covered in result.covered] == ["woken" if is_woken else "parked"]
    with pytest.raises(RunCancelled):
        await asking
    assert bench.scheduler.stats().running_turns == 1
    bench.gates["other"].set()
    assert await other == "other"
    bench.assert_idle()


async def test_a_parked_block_that_fails_waits_for_its_permit_too() -> None:
    bench = Bench(Limits(running_turns=1))
    async with bench.scheduler.turn("s", "run") as turn:
        with pytest.raises(ValueError, match="no answer"):
            async with turn.parked():
                raise ValueError("no answer")
        assert bench.scheduler.stats().running_turns == 1
        assert turn.fold() == []
    bench.assert_idle()


async def test_drain_lets_nobody_begin() -> None:
    bench = Bench()
    first, second = bench.spawn("a"), bench.spawn("b")
    await bench.accepted("a", "b")
    bench.scheduler.drain()
    bench.gates["a"].set()
    await first
    bench.scheduler.cancel_session("s", USER)
    with pytest.raises(RunCancelled):
        await second
    assert bench.order == ["a"]
    bench.assert_idle()


class Clock:
    """A clock that the test moves; the loop's own timer fires at once."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def past(scheduler: AsyncScheduler, clock: Clock, seconds: float) -> None:
    """Some time later: what was due has been."""
    clock.now += seconds
    scheduler._due()
    await asyncio.sleep(0)


async def test_a_block_that_does_not_begin_in_time_never_does() -> None:
    clock = Clock()
    scheduler = AsyncScheduler(clock=clock)

    async def late() -> None:
        async with scheduler.turn("s", "late", start_timeout=5.0):
            raise AssertionError("it never begins")

    async with scheduler.turn("s", "first", start_timeout=5.0):
        waits = asyncio.create_task(late())
        await asyncio.sleep(0)
        await past(scheduler, clock, 4.9)
        assert not waits.done()
        await past(scheduler, clock, 0.1)
        with pytest.raises(RunExpired, match="late"):
            await waits
    assert (scheduler.stats().sessions, scheduler.stats().deadlines) == (0, 0)


async def test_a_block_that_takes_too_long_is_cut() -> None:
    clock = Clock()
    scheduler = AsyncScheduler(clock=clock)

    async def slow() -> None:
        async with scheduler.turn("s", "slow", run_timeout=5.0) as turn, turn.parked("answer"):
            await asyncio.Event().wait()

    task = asyncio.create_task(slow())
    await asyncio.sleep(0)
    assert [(hold.kind, hold.label, hold.deadline) for hold in scheduler.holds("s", "slow")] == [
        ("turn", "", 5.0),
        ("tool", "answer", None),
    ]
    await past(scheduler, clock, 5.0)
    with pytest.raises(RunExpired):
        await task
    assert not task.cancelled()
    assert (scheduler.stats().sessions, scheduler.stats().deadlines) == (0, 0)


async def test_a_parked_block_waits_no_longer_than_it_says() -> None:
    clock = Clock()
    scheduler = AsyncScheduler(Limits(running_turns=1), clock=clock)
    parked = asyncio.Event()

    async def asks() -> str:
        async with scheduler.turn("s", "asks") as turn:
            try:
                async with turn.parked("approval", timeout=5.0):
                    parked.set()
                    await asyncio.Event().wait()
            except TimeoutError:
                assert scheduler.stats().running_turns == 1
                return "no answer"
            return "an answer"

    task = asyncio.create_task(asks())
    await parked.wait()
    async with scheduler.turn("other", "other"):
        await past(scheduler, clock, 5.0)
        assert not task.done()
        assert scheduler.stats().waiting_turns == 1
    assert await task == "no answer"
    assert (scheduler.stats().sessions, scheduler.stats().deadlines) == (0, 0)


async def test_a_held_run_is_over_when_it_is_released() -> None:
    clock = Clock()
    bench = Bench()
    bench.scheduler = AsyncScheduler(clock=clock)
    async with bench.scheduler.turn("s", "a") as turn:
        upload, index = turn.hold("upload"), turn.hold("index", timeout=5.0)
    following = bench.spawn("b")
    await bench.accepted("b")
    assert [(hold.kind, hold.label) for hold in bench.scheduler.holds("s", "a")] == [
        ("guard", "upload"),
        ("guard", "index"),
    ]
    assert upload.release()
    assert not upload.release()
    assert bench.order == []
    await past(bench.scheduler, clock, 5.0)
    assert not index.release()
    await bench.begun["b"].wait()
    bench.gates["b"].set()
    assert await following == "b"
    bench.assert_idle()


async def test_the_timer_of_the_loop_stands_for_all_deadlines() -> None:
    scheduler = AsyncScheduler()
    async with scheduler.turn("s", "a") as turn:
        with pytest.raises(TimeoutError):
            async with turn.parked(timeout=0.01):
                await asyncio.Event().wait()
    assert scheduler.stats().sessions == 0

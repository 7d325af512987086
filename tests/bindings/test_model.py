"""Random operations through the binding against a scheduler in plain Python, which passes as its own model."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.baselines.python_scheduler import PythonScheduler, Refused
from turnkeeper_core import Cancel, Limits, Scheduler, SchedulerError

TENANTS = ("t0", "t1")
SESSIONS = ("a", "b", "c")
RUNS = tuple(f"run-{number}" for number in range(6))

Step = tuple[str, str, str, str]

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["accept", "accept", "dispatch", "dispatch", "conclude", "finish", "cancel_run", "cancel_session"]
        ),
        st.sampled_from(TENANTS),
        st.sampled_from(SESSIONS),
        st.sampled_from(RUNS),
    ),
    min_size=200,
    max_size=250,
)


def through_the_binding(scheduler: Scheduler, step: Step) -> object:
    """One step, and what it said, in plain values."""
    operation, tenant, session, run = step
    at = (tenant, session)
    try:
        match operation:
            case "accept":
                accepted = scheduler.accept(*at, run, 0.0)
                return (accepted.sequence, accepted.position)
            case "dispatch":
                dispatched = scheduler.dispatch(*at, run, 0.0)
                return (dispatched.status, [start.run_id for start in dispatched.starts])
            case "conclude":
                return scheduler.conclude(*at, run, answer=True).status
            case "finish":
                starts = scheduler.finish(*at, run, 0.0)
                return sorted((start.tenant, start.session_id, start.run_id) for start in starts)
            case "cancel_run":
                result = scheduler.cancel_run(*at, run, Cancel("USER"), 0.0)
            case _:
                result = scheduler.cancel_session(*at, Cancel("USER"), 0.0)
        covered = [(covered.run.run_id, covered.was) for covered in result.covered]
        return (covered, [run.run_id for run in result.concluded], [start.run_id for start in result.starts])
    except SchedulerError:
        return "refused"


def through_plain_python(scheduler: PythonScheduler, step: Step) -> object:
    """The same of the plain one."""
    operation, tenant, session, run = step
    at = (tenant, session)
    try:
        match operation:
            case "accept":
                return scheduler.accept(*at, run)
            case "dispatch":
                status, starts = scheduler.dispatch(*at, run)
                return (status, [start.run for start in starts])
            case "conclude":
                return scheduler.conclude(*at, run)
            case "finish":
                return sorted((start.tenant, start.session, start.run) for start in scheduler.finish(*at, run))
            case _:
                covered, concluded, starts = scheduler.cancel(*at, run if operation == "cancel_run" else None)
                return (covered, concluded, [start.run for start in starts])
    except Refused:
        return "refused"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(steps=steps, line=st.integers(1, 4), permits=st.integers(0, 3))
def test_the_binding_and_plain_python_say_the_same(steps: list[Step], line: int, permits: int) -> None:
    limits = Limits(queue_per_session=line, open_runs=10, running_turns=permits, running_turns_per_tenant=2)
    core = Scheduler(limits)
    plain = PythonScheduler(line=line, open_runs=10, running=permits, per_tenant=2)
    for step in steps:
        assert through_the_binding(core, step) == through_plain_python(plain, step), step
        stats = core.stats()
        assert (stats.sessions, stats.open_runs, stats.running_turns) == plain.counts()
        assert stats.running_turns <= permits

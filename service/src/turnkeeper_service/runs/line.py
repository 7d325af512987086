"""The line of runs: what is accepted and not over, and how each run gets to its one terminal.

All methods are called on the event loop's thread and none of them waits, so each is one step: what the core decided is
in a submitted draft before anything else can happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from turnkeeper.v1 import content_pb2, event_pb2, session_service_pb2
from turnkeeper_service.clock import Clock, seconds_of
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.engine.usage import add_run
from turnkeeper_service.errors import Refused, draining, store_unavailable
from turnkeeper_service.ids import short_id
from turnkeeper_service.metrics import TokenType
from turnkeeper_service.providers.retry import RetryPolicy
from turnkeeper_service.store.base import RunState, Store
from turnkeeper_service.tasks import TaskOwner

from .observed import ModelObserver
from .run import Run
from .scheduler import CoreScheduler, RunRef

CANCELLED = event_pb2.OUTCOME_STATUS_CANCELLED


class Checkpoints(Protocol):
    """Places where a test may hold a run. ``reach`` returns None where nothing holds there."""

    def reach(self, place: str, run_id: str) -> Coroutine[Any, Any, None] | None:
        """The wait of this run at this place: ``dispatch`` or ``turn``."""
        ...


class Observer(ModelObserver, Protocol):
    """Who counts what happens to runs."""

    def run_finished(self, outcome: str, seconds: float) -> None:
        """A run ended, so long after its accept."""
        ...

    def run_started(self, waited_seconds: float) -> None:
        """A run's floor turn begins, so long after its accept."""
        ...

    def turn_started(self) -> None:
        """One more turn runs."""
        ...

    def turn_ended(self) -> None:
        """One turn less runs."""
        ...

    def tokens(self, kind: TokenType, model: str, count: int) -> None:
        """A run used tokens of a model."""
        ...

    def commits(self, count: int = 1) -> None:
        """So many more commits are durable."""
        ...

    def watch_queue(self, depth: Callable[[], float]) -> None:
        """Ask for the number of runs that wait whenever somebody looks."""
        ...

    def cancelled(self, seconds: float) -> None:
        """A cancelled run has its terminal, so long after its cancel was durable."""
        ...


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Numbers that runs live by; seconds where a time is meant."""

    default_model: str = "scripted/echo"
    default_system_prompt: str = ""
    steering_mode: session_service_pb2.SteeringMode.ValueType = session_service_pb2.STEERING_MODE_ALL
    small_model: str = ""
    makes_titles: bool = True
    has_todos: bool = False
    is_summarized: bool = True
    """Whether a context that gets full is summarised where its session does not say."""
    max_steps: int = 50
    max_steered_steps: int = 10
    max_answer_bytes: int = 8 << 20
    cancel_grace: float = 2.0
    stop_grace: float = 30.0
    run_timeout: float | None = None
    max_tombstones: int = 10_000
    tool_timeout: float = 120.0
    max_tool_result_bytes: int = 1 << 20
    approval_timeout: float = 86_400.0
    is_allowed_by_default: bool = False
    max_page_bytes: int = 4 << 20
    partial_flush_interval: float = 0.5
    partial_flush_bytes: int = 16 << 10
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """Which model calls that failed are made again, and when."""


class Line:
    """Runs in memory, and the steps between the core and the store that all who handle runs share."""

    def __init__(
        self,
        core: CoreScheduler,
        store: Store,
        clock: Clock,
        options: RunOptions,
        owner: TaskOwner,
        *,
        checkpoints: Checkpoints | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.core = core
        self.store = store
        self.clock = clock
        self.options = options
        self.owner = owner
        self.runs: dict[tuple[str, str], Run] = {}
        self.is_draining = False
        self.is_failed = False
        """The store is lost: whether what was asked took effect is unknown (U-14)."""
        self.is_cut = False
        """The drain's deadline has passed: what is cut now gets no terminal and is left to recovery (U-17)."""
        self.finished_by_status: dict[str, int] = {}
        self._checkpoints = checkpoints
        self._observer = observer
        self._drive: Callable[[Run], Coroutine[Any, Any, None]] | None = None
        self._close_begun: Callable[[Run], None] | None = None
        self._cancelled_at: dict[str, float] = {}
        self._stood = asyncio.Event()

    @property
    def num_detached(self) -> int:
        """Work that ignores its cancel and has not ended yet (U-12)."""
        return sum(name.startswith(("turn ", "tool ")) for name in self.owner.names())

    def arm(self, run: Run, name: str, seconds: float, callback: Callable[[], object]) -> None:
        """Give a run a timer of this name, in the place of an earlier one; none any more once the server is cut."""
        if not self.is_cut:
            run.set_timer(name, self.clock.call_later(seconds, callback))

    def going_away(self) -> Refused:
        """Why nothing new is taken."""
        return store_unavailable() if self.is_failed else draining()

    def driven_by(self, drive: Callable[[Run], Coroutine[Any, Any, None]], close_begun: Callable[[Run], None]) -> None:
        """Say who drives a run whose floor turn begins, and who ends one whose turn a lost process had begun."""
        self._drive, self._close_begun = drive, close_begun

    def add(self, run: Run) -> None:
        """Take a run that the core has stamped."""
        self.runs[run.key] = run
        run.session.runs.add(run.run_id)

    def remove(self, run: Run) -> None:
        """Let a run go: it is over, or its accept was never committed."""
        run.stop_timers()
        # A turn and its run know each other: parted here, they are freed without the garbage collector.
        run.turn, run.work = None, None
        self.runs.pop(run.key, None)
        run.session.remove_run(run.run_id)

    def dispatch(self, run: Run) -> None:
        """Let the core decide about a run whose accept is durable."""
        held = self._checkpoints.reach("dispatch", run.run_id) if self._checkpoints is not None else None
        if held is not None:
            self.owner.spawn(f"dispatch {run.run_id}", self._dispatch_later(held, run))
        else:
            self._dispatch(run)

    async def _dispatch_later(self, held: Coroutine[Any, Any, None], run: Run) -> None:
        await held
        self._dispatch(run)

    def _dispatch(self, run: Run) -> None:
        decided = self.core.dispatch(run.session.key, run.run_id)
        run.is_dispatched = True
        run.steers = decided.steers
        if decided.status == "cancelled":
            self.close_cancelled(run)
        elif decided.status != "started" and run.resume is None and run.submission.HasField("start_timeout"):
            passed = self.clock.time() - run.created_us / 1e6
            remaining = seconds_of(run.submission.start_timeout) - passed
            self.arm(run, "start", remaining, lambda: self.expire(run))
        self.begin(decided.starts)

    def begin(self, starts: Iterable[RunRef]) -> None:
        """Begin the floor turns that the core says begin; let those that were woken go on."""
        for ref in starts:
            run = self.runs[(ref.tenant, ref.run_id)]
            if run.state == RunState.STARTED:
                self._go_on(run)
                continue
            run.stop_timer("start")
            run.state = RunState.STARTED
            assert self._drive is not None
            held = self._checkpoints.reach("turn", run.run_id) if self._checkpoints is not None else None
            drive = self._drive(run) if held is None else self._drive_later(held, run)
            if self._observer is not None:
                self._observer.run_started(self.clock.time() - run.created_us / 1e6)
                self._observer.turn_started()
            self.owner.spawn(f"run {run.run_id}", drive)

    def park(self, run: Run) -> None:
        """A run's turn waits for somebody outside: others have its permit meanwhile (U-3)."""
        if run.permit is None:
            run.permit = asyncio.Event()
            self._turn_stands()
        self.begin(self.core.park(run.session.key, run.run_id))

    def wake(self, run: Run) -> None:
        """What it waited for has come: it goes on as soon as it has its permit."""
        if self.core.wake(run.session.key, run.run_id):
            self._go_on(run)

    def _go_on(self, run: Run) -> None:
        permit, run.permit = run.permit, None
        if permit is not None:
            permit.set()
        if self._observer is not None:
            self._observer.turn_started()

    def _turn_stands(self) -> None:
        """One turn less runs."""
        self._stood.set()
        if self._observer is not None:
            self._observer.turn_ended()

    async def still(self) -> None:
        """Wait until no turn runs; parked ones do not (U-17)."""
        while any(run.state == RunState.STARTED and run.permit is None for run in self.runs.values()):
            self._stood.clear()
            await self._stood.wait()

    async def _drive_later(self, held: Coroutine[Any, Any, None], run: Run) -> None:
        await held
        assert self._drive is not None
        await self._drive(run)

    def expire(self, run: Run) -> None:
        """End a run whose start deadline has passed in the line."""
        if self.is_cut:
            return
        taken, starts = self.core.expire(run.session.key, run.run_id)
        if taken:
            outcome = event_pb2.Outcome(status=event_pb2.OUTCOME_STATUS_EXPIRED)
            draft = run.session.draft()
            if run.kind == event_pb2.RUN_KIND_PROMPT:
                draft.message(run.user_message(short_id("msg"), "", in_context=False), run_id=run.run_id)
            self.close(run, draft, outcome)
            run.session.submit(draft)
        self.begin(starts)

    def close_cancelled(self, run: Run) -> None:
        """End a run that is covered by a cancel and never started: both rows, neither in context (U-28)."""
        if run.resume is not None:
            # It waited to go on: what there is of its turn is kept, marked (U-16).
            assert self._close_begun is not None
            self._close_begun(run)
            return
        draft = run.session.draft()
        if run.kind == event_pb2.RUN_KIND_PROMPT:
            self.unstarted_rows(run, draft, content_pb2.MESSAGE_STATUS_CANCELLED, in_context=False)
        self.close(run, draft, self.cancelled_outcome(run))
        run.session.submit(draft)

    @staticmethod
    def unstarted_rows(
        run: Run,
        draft: Draft,
        status: content_pb2.MessageStatus.ValueType,
        *,
        in_context: bool,
        error: content_pb2.ErrorText | None = None,
    ) -> None:
        """Write the user's and the assistant's message of a run that made no request."""
        draft.message(run.user_message(short_id("msg"), "", in_context=in_context), run_id=run.run_id)
        answer = content_pb2.Message(
            message_id=short_id("msg"),
            role=content_pb2.ROLE_ASSISTANT,
            status=status,
            run_id=run.run_id,
            context_id="main",
            in_context=in_context,
            error=error,
        )
        draft.message(answer, run_id=run.run_id)

    @staticmethod
    def cancelled_outcome(run: Run) -> event_pb2.Outcome:
        """The outcome that a run's cancel leads to."""
        outcome = event_pb2.Outcome(status=CANCELLED)
        if run.cancel is not None:
            outcome.reason = run.cancel.reason
            outcome.actor = run.cancel.actor
            outcome.superseded_by_run_id = run.cancel.superseded_by_run_id
        return outcome

    def close(self, run: Run, draft: Draft, outcome: event_pb2.Outcome, *, turn_id: str = "") -> None:
        """Write a run's terminal into a draft; when it is durable the run is over."""
        outcome.usage.SetInParent()
        if outcome.usage.own.num_calls:
            add_run(run.session.usage, outcome.usage)
            draft.commit.session_usage = run.session.usage.SerializeToString()
        run.is_ending = True
        draft.finish_run(run.run_id, outcome, turn_id)
        draft.on_durable.append(lambda: self.over(run, outcome))

    def over(self, run: Run, outcome: event_pb2.Outcome) -> None:
        """A run's terminal is durable."""
        was_running = run.state == RunState.STARTED and run.permit is None
        run.state = RunState.FINISHED
        self.remove(run)
        if not run.finished.done():
            run.finished.set_result(outcome)
        if was_running:
            self._turn_stands()
        status = event_pb2.OutcomeStatus.Name(outcome.status).removeprefix("OUTCOME_STATUS_").lower()
        self.finished_by_status[status] = self.finished_by_status.get(status, 0) + 1
        if self._observer is not None:
            now = self.clock.time()
            self._observer.run_finished(status, now - run.created_us / 1e6)
            self.count_tokens(outcome.usage)
            since = self._cancelled_at.pop(run.run_id, None)
            if since is not None:
                self._observer.cancelled(now - since)

    def count_tokens(self, usage: content_pb2.RunUsage) -> None:
        """Tell whoever counts what models used."""
        if self._observer is not None:
            for used in usage.models:
                self._observer.tokens("input", used.model, used.usage.input_tokens)
                self._observer.tokens("output", used.model, used.usage.output_tokens)

    def note_cancel(self, run: Run) -> None:
        """Remember when a run's cancel became durable."""
        if self._observer is not None:
            self._cancelled_at.setdefault(run.run_id, self.clock.time())

    def abort(self, run: Run) -> None:
        """Cut the running turn; its driver writes the terminal."""
        work = run.work
        if work is not None and not work.done():
            work.cancel()
            self.arm(run, "grace", self.options.cancel_grace, lambda: self._detach(run))

    @staticmethod
    def _detach(run: Run) -> None:
        if not run.detached.done():
            run.detached.set_result(None)

"""The model calls of a turn: a step is asked for again until it has an answer or an error that is final (C-93).

What a failed attempt has shown is taken back by an event before the next one shows anything, and what it used is
counted. Nothing of a step is committed before its answer is whole, so every attempt may be made again.
"""

from __future__ import annotations

from collections.abc import Callable

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.journal import Draft, Journal
from turnkeeper_service.engine.models import Model
from turnkeeper_service.engine.plan import TurnPlan
from turnkeeper_service.engine.scheduling import Scheduling
from turnkeeper_service.engine.usage import add_step, filled_in
from turnkeeper_service.process.clock import Clock
from turnkeeper_service.providers.base import ModelRequest, ProviderError

from .step import Step, StepAnswer

PROCESS_LOST = "PROCESS_LOST"


class ModelCall:
    """Makes the model calls of one turn, one after another."""

    def __init__(
        self,
        plan: TurnPlan,
        journal: Journal,
        scheduling: Scheduling,
        clock: Clock,
        note: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._scheduling = scheduling
        self._clock = clock
        self._note = note
        self.usage = content_pb2.RunUsage()
        """What all attempts used, those that failed included."""
        self.errors: list[event_pb2.RunError] = []
        """What was overcome."""
        self.step: Step | None = None
        """The attempt that is under way, or the last one."""
        self._not_before = 0.0

    def beside(self) -> ModelCall:
        """For steps that are none of the turn's answer and count with it."""
        other = ModelCall(self._plan, self._journal, self._scheduling, self._clock, self._note)
        other.usage, other.errors = self.usage, self.errors
        return other

    def open(self, number: int, message_id: str, attempt: int = 1) -> Step:
        """Begin a step, or go on with one whose process was lost, at this attempt."""
        model = self._plan.models.choose()
        assert model is not None
        self.step = self._attempt(number, message_id, attempt, model)
        return self.step

    def wait_until(self, time: float) -> None:
        """Begin the next attempt no earlier, as wall-clock seconds: a lost process had promised it."""
        self._not_before = time

    def _attempt(self, number: int, message_id: str, attempt: int, model: Model) -> Step:
        return Step(
            self._plan,
            model,
            self._journal.log,
            self._clock,
            number=number,
            message_id=message_id,
            attempt=attempt,
            context_id=self._plan.context.context_id,
        )

    async def ask(self, request: Callable[[Model], ModelRequest]) -> StepAnswer:
        """Ask until the open step has its answer. Raises ProviderError where trying again is of no use.

        A model that failed is followed by one that stands in for it, at once; where there is none, the policy says
        whether and when to ask again. An overflow of the context is always the caller's to deal with.
        """
        plan = self._plan
        left, self._not_before = self._not_before - self._clock.time(), 0.0
        if left > 0:
            await self._back_off(left)
        lost: set[str] = set()
        tried: set[str] = set()
        num_failed = 0
        while True:
            step = self.step
            assert step is not None
            try:
                answer = await self._stream(step, request(step.model))
            except ProviderError as error:
                if error.is_context_overflow:
                    raise
                tried.add(step.model.name)
                if not error.is_retryable:
                    lost.add(step.model.name)
                delay: float | None = 0.0
                model = plan.models.stands_in(step.model, error, tried)
                if model is None:
                    num_failed += 1
                    delay = plan.retry.delay(error, num_failed)
                    model = plan.models.choose(lost)
                    tried = set(lost)
                if delay is None or model is None:
                    raise
                await self.again(error, model, delay)
            else:
                plan.models.answered(step.model)
                add_step(self.usage, step.model.name, answer.usage)
                return answer

    async def again(self, error: ProviderError, model: Model, delay: float = 0.0, *, cause: str = "") -> None:
        """Take back what the attempt has shown and open the next one, durably; then wait so many seconds."""
        failed = self.step
        assert failed is not None
        opened = failed.opened
        reason = event_pb2.OutcomeReason.Value(f"OUTCOME_REASON_{cause or error.reason}")
        found = event_pb2.RunError(
            reason=reason,
            title=error.title,
            detail=error.detail,
            http_status=error.status or 0,
            turn_id=self._plan.turn_id,
        )
        self.errors.append(found)
        draft = self._journal.draft()
        self.discard(draft, cause or error.reason, self.settle_failed(error))
        self.step = self._attempt(failed.number, opened.message_id, opened.attempt + 1, model)
        event = self._plan.event(opened.attempt + 1)
        scheduled = event.retry_scheduled
        scheduled.step, scheduled.model = failed.number, model.name
        scheduled.error.CopyFrom(found)
        scheduled.delay.FromNanoseconds(int(delay * 1e9))
        draft.event(event)
        self._note("store")
        await self._journal.submit(draft)
        if delay > 0:
            await self._back_off(delay)
        self._note("model")

    async def _stream(self, step: Step, request: ModelRequest) -> StepAnswer:
        """The answer to one request, after those that came to its provider before."""
        lane = self._scheduling.lane(step.model.name)
        if lane is None:
            return await step.stream(request)
        async with lane:
            return await step.stream(request)

    async def _back_off(self, seconds: float) -> None:
        """Wait before the next attempt, without a permit; a stop cuts it short, for the last step is not put off."""
        self._note("retry")
        await self._scheduling.wait("backoff", "retry", seconds).came
        permit = self._scheduling.permit()
        if permit is not None:
            self._note("permit")
            await permit
        self._note("model")

    def discard(self, draft: Draft, cause: str, usage: content_pb2.Usage | None = None) -> None:
        """Write that what the open attempt has shown is void."""
        step = self.step
        assert step is not None
        event = self._plan.event(step.opened.attempt)
        discarded = event.attempt_discarded
        discarded.message_id, discarded.attempt = step.opened.message_id, step.opened.attempt
        discarded.cause = cause
        if usage is not None:
            discarded.usage.CopyFrom(usage)
        draft.event(event, closes=step.opened if step.is_shown else None)
        if step.opened.has_flushed:
            draft.commit.drop_partials.append(self._plan.run_id)

    def settle_failed(self, failure: ProviderError | None) -> content_pb2.Usage:
        """Count what the open attempt used that has no answer: as reported, else by what it has shown."""
        step = self.step
        assert step is not None
        told = failure.usage if failure is not None else None
        nothing = content_pb2.Usage(num_calls=step.num_calls)
        usage = filled_in(told, lambda: step.estimated() if step.opened.num_bytes else nothing)
        step.model.settle(usage, None)
        add_step(self.usage, step.model.name, usage)
        return usage

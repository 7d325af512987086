"""The turn loop: prepare a step, stream it, commit it, and again, until an answer concludes the run.

Written once for every kind of turn. What it does between two awaits is one step: what the scheduler gave at a fold
point is in a submitted draft before anything else can happen. A turn can be cut at any await, also while it ignores
that; its owner then calls `FloorTurn.cut`, which writes what there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.clock import Clock
from turnkeeper_service.ids import short_id
from turnkeeper_service.providers.base import ModelRequest, ProviderError

from .journal import MAIN_CONTEXT, Draft, Journal
from .plan import TurnEnd, TurnPlan
from .scheduling import FoldedRun, Scheduling
from .step import Step, StepAnswer
from .usage import add_step, estimate

COMPLETED = event_pb2.OUTCOME_STATUS_COMPLETED
FAILED = event_pb2.OUTCOME_STATUS_FAILED

_REASONS = {
    content_pb2.FINISH_REASON_MAX_TOKENS: event_pb2.OUTCOME_REASON_MAX_TOKENS,
    content_pb2.FINISH_REASON_CONTENT_FILTER: event_pb2.OUTCOME_REASON_CONTENT_FILTERED,
}


class FloorTurn:
    """One floor turn of one run."""

    def __init__(self, plan: TurnPlan, journal: Journal, scheduling: Scheduling, clock: Clock) -> None:
        self.plan = plan
        self._journal = journal
        self._scheduling = scheduling
        self._clock = clock
        self._resume = plan.resume
        self._step: Step | None = None
        self._final: StepAnswer | None = None
        self._messages: list[str] = []
        self.num_steps = plan.resume.step - 1 if plan.resume else 0
        self.has_started = plan.resume is not None
        """Whether a step_started has been submitted: from then on its messages stay in context (U-28)."""
        self.usage = content_pb2.RunUsage()
        if plan.resume is not None:
            self.usage.CopyFrom(plan.resume.usage)
        self.text = ""
        self.message_id = ""
        self.finish_reason = content_pb2.FINISH_REASON_UNSPECIFIED
        self.label = "starting"
        """What the turn does, for the run's holds."""
        self.since = clock.monotonic()
        if plan.resume is not None:
            self._messages.extend(plan.resume.message_ids)
            if plan.resume.message_id:
                # Until the step runs again, what was flushed of its last attempt is what there is of it.
                self.num_steps = plan.resume.step
                self._step = self._new_step(plan.resume.message_id, plan.resume.attempt)
                self._step.preload(plan.resume.partial)
                self._messages.append(plan.resume.message_id)

    @property
    def message_ids(self) -> Sequence[str]:
        """The messages that this turn has committed or will commit at its end, for a rollback."""
        return self._messages

    async def run(self) -> TurnEnd:
        """Run to an end that concludes the run.

        Raises ProviderError where a model call fails, TurnCancelledError where an abort came between steps.
        """
        history = await self._journal.history()
        fold: Sequence[FoldedRun] = ()
        is_answered = False
        while True:
            if not is_answered:
                fold = self._scheduling.fold_point().fold
            draft = self._journal.draft()
            self._prepare(draft, fold)
            if self._step is None:
                # Shielded: a turn that is cut must not take the commit's end from those who publish it.
                await asyncio.shield(self._journal.submit(draft))
                end = self._end(None)
            else:
                durable = self._journal.submit(draft)
                self._note("store")
                await asyncio.shield(durable)
                self._note("model")
                self._final = await self._step.stream(self._request(history))
                self._count(self._final.usage)
                end = self._end(self._final)
            if isinstance(end, TurnEnd):
                return end
            # Steered after its answer: the answer stays, a further step of the same run follows (U-21).
            fold = end
            is_answered = True

    def _note(self, label: str) -> None:
        self.label = label
        self.since = self._clock.monotonic()

    def _prepare(self, draft: Draft, fold: Sequence[FoldedRun]) -> None:
        """Write what the next step begins with: the answer before it, the prompt, folded prompts, its start."""
        plan = self.plan
        if self._final is not None:
            self.write_end(draft)
        resume = self._resume
        self._resume = None
        if resume is not None and resume.message_id:
            # What was bound while the stream was open folds before the step is run again.
            self._fold(draft, fold)
            self._step = self._new_step(resume.message_id, resume.attempt + 1)
            draft.commit.drop_partials.append(plan.run_id)
            event = event_pb2.Event(
                run_id=plan.run_id, turn_id=plan.turn_id, context_id=MAIN_CONTEXT, attempt=resume.attempt
            )
            event.attempt_discarded.message_id = resume.message_id
            event.attempt_discarded.attempt = resume.attempt
            event.attempt_discarded.cause = "PROCESS_LOST"
            draft.event(event)
            return
        if not self.has_started:
            started = event_pb2.Event(run_id=plan.run_id, turn_id=plan.turn_id)
            started.run_started.model = plan.model
            draft.event(started)
            draft.commit.start_runs.append((plan.run_id, int(draft.now * 1_000_000)))
            self._user_message(draft, plan.prompt, plan.run_id)
        self.has_started = True
        limit = plan.max_steps + (plan.max_steered_steps if fold else 0)
        is_allowed = self.num_steps < limit
        if is_allowed:
            self.num_steps += 1
        self._fold(draft, fold)
        if not is_allowed:
            self._step = None
            return
        step = self._open_step(short_id("msg"), 1)
        event = event_pb2.Event(run_id=plan.run_id, turn_id=plan.turn_id, context_id=MAIN_CONTEXT, attempt=1)
        event.step_started.step = self.num_steps
        event.step_started.model = plan.model
        event.step_started.message_id = step.opened.message_id
        draft.event(event)

    def _fold(self, draft: Draft, fold: Sequence[FoldedRun]) -> None:
        """Put the prompts of folded runs into the context, and write their terminals."""
        plan = self.plan
        for run in fold:
            message_id = self._user_message(draft, run.prompt, run.run_id)
            run.fold(
                draft,
                event_pb2.Fold(
                    into_run_id=plan.run_id, turn_id=plan.turn_id, step=self.num_steps, message_id=message_id
                ),
            )

    def _open_step(self, message_id: str, attempt: int) -> Step:
        self._step = self._new_step(message_id, attempt)
        self._messages.append(message_id)
        return self._step

    def _new_step(self, message_id: str, attempt: int) -> Step:
        return Step(
            self.plan,
            self._journal.log,
            self._clock,
            number=self.num_steps,
            message_id=message_id,
            attempt=attempt,
            context_id=MAIN_CONTEXT,
        )

    def _user_message(self, draft: Draft, prompt: Sequence[content_pb2.Part], run_id: str) -> str:
        message = content_pb2.Message(
            message_id=short_id("msg"),
            role=content_pb2.ROLE_USER,
            parts=prompt,
            status=content_pb2.MESSAGE_STATUS_COMPLETE,
            run_id=run_id,
            turn_id=self.plan.turn_id,
            context_id=MAIN_CONTEXT,
            in_context=True,
        )
        draft.message(message, run_id=self.plan.run_id)
        self._messages.append(message.message_id)
        return message.message_id

    def _request(self, history: Sequence[content_pb2.Message]) -> ModelRequest:
        plan = self.plan
        messages = history
        if plan.prompt_prefix:
            prefix = content_pb2.Message(role=content_pb2.ROLE_USER)
            prefix.parts.add().text.text = plan.prompt_prefix
            messages = [prefix, *history]
        return ModelRequest(
            model=plan.provider_model,
            messages=messages,
            system=plan.system_prompt,
            parameters=plan.parameters,
            tool_choice=plan.tool_choice or "auto",
            output_schema_json=plan.output_schema_json,
            session_hash=plan.session_hash,
        )

    def _count(self, usage: content_pb2.Usage) -> None:
        add_step(self.usage, self.plan.model, usage)

    def _end(self, answer: StepAnswer | None) -> TurnEnd | Sequence[FoldedRun]:
        """What the step's answer leads to; the runs to fold where the turn goes on."""
        if answer is not None and answer.tool_calls:
            detail = "no tools are offered in this session, and the model called " + ", ".join(
                sorted({call.name for call in answer.tool_calls})
            )
            return TurnEnd(FAILED, event_pb2.OUTCOME_REASON_TOOL, errors=[self._error("Unknown tool", detail)])
        concluding = self._scheduling.conclude_answer(
            steer=answer is not None and self.num_steps < self.plan.max_steps + self.plan.max_steered_steps
        )
        if not concluding.is_concluded:
            return concluding.fold
        reason = event_pb2.OUTCOME_REASON_ANSWERED
        if concluding.is_stopped:
            reason = event_pb2.OUTCOME_REASON_STOPPED
        elif answer is None:
            reason = event_pb2.OUTCOME_REASON_STEP_LIMIT
        else:
            reason = _REASONS.get(answer.message.finish_reason, reason)
        return TurnEnd(COMPLETED, reason, is_cancelled=concluding.is_cancelled)

    def _error(self, title: str, detail: str) -> event_pb2.RunError:
        return event_pb2.RunError(
            reason=event_pb2.OUTCOME_REASON_TOOL, title=title, detail=detail, turn_id=self.plan.turn_id
        )

    def write_end(self, draft: Draft) -> None:
        """Write the answer of the last step; nothing where there is none."""
        answer, step = self._final, self._step
        if answer is None or step is None:
            return
        self._final = None
        self._commit_message(draft, answer.message, step)
        for event in answer.step_events:
            draft.event(event)
        if answer.tool_calls:
            # No tools are offered yet: every call gets its one result, directly after it (promise 8).
            results = content_pb2.Message(
                message_id=short_id("msg"),
                role=content_pb2.ROLE_TOOL,
                status=content_pb2.MESSAGE_STATUS_COMPLETE,
                run_id=self.plan.run_id,
                turn_id=self.plan.turn_id,
                context_id=MAIN_CONTEXT,
                in_context=True,
            )
            for call in answer.tool_calls:
                result = results.parts.add().tool_result
                result.tool_call_id, result.name = call.tool_call_id, call.name
                result.is_error = result.is_synthetic = True
                result.content.add().text.text = f"there is no tool {call.name!r} in this session"
            draft.message(results, run_id=self.plan.run_id)
            self._messages.append(results.message_id)

    def _commit_message(self, draft: Draft, message: content_pb2.Message, step: Step) -> None:
        draft.message(message, run_id=self.plan.run_id, attempt=step.opened.attempt, closes=step.opened)
        text = "".join(part.text.text for part in message.parts if part.HasField("text"))
        self.text, self.message_id = text, message.message_id
        self.finish_reason = message.finish_reason

    def cut(
        self,
        draft: Draft,
        status: content_pb2.MessageStatus.ValueType,
        error: content_pb2.ErrorText | None = None,
        failure: ProviderError | None = None,
    ) -> None:
        """Write what there is of a turn that does not end by itself: its partial answer, marked, and its usage."""
        if self._final is not None:
            self.write_end(draft)
            return
        step = self._step
        if step is None or step.opened.closed:
            return
        message = step.partial(status, error)
        usage = failure.usage if failure is not None else None
        if usage is None:
            usage = content_pb2.Usage(num_calls=1)
            if step.opened.num_bytes:
                usage = estimate((), self.plan.system_prompt, step.opened.num_bytes)
        self._count(usage)
        self._commit_message(draft, message, step)
        draft.event(step.finished(usage, message.finish_reason))

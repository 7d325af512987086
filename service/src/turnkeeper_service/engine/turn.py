"""The turn loop: prepare a step, stream it, run its tools, and again, until an answer concludes the run.

Written once for every kind of turn. What it does between two awaits is one step: what the scheduler gave at a fold
point is in a submitted draft before anything else can happen. A turn can be cut at any await, also while it ignores
that; its owner then calls `FloorTurn.cut`, which writes what there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.clock import Clock
from turnkeeper_service.ids import short_id
from turnkeeper_service.providers.base import ModelRequest, ProviderError
from turnkeeper_service.tools.arguments import malformed
from turnkeeper_service.tools.base import OfferedTool

from .approval import Approvals
from .batch import ToolBatch
from .context_room import ContextRoom
from .ends import completed, is_cut_short, output_invalid, tool_loop
from .journal import Draft, Journal, TurnJournal
from .loops import LoopDetector, signature
from .model_call import PROCESS_LOST, ModelCall
from .models import Model
from .output import TypedOutput
from .parking import Parking
from .plan import CallState, Resume, TurnEnd, TurnPlan
from .request import step_request
from .scheduling import FoldedRun, Scheduling
from .served import holders_back, holders_of
from .step import StepAnswer, text_of
from .summarizer import CUT, LOST
from .transcript import Transcript

SKIPPED = "skipped: an earlier result ended the turn"
STEERED = "skipped: a message of the user came first"
STOPPED = "skipped: the run was asked to stop"
CANCELLED = "the run was cancelled before this call had a result"
FAILED_CALL = "the run failed before this call had a result"
NO_TOOLS = "no tools may be used now"
CUT_SHORT = "not run: the answer was cut short"


class FloorTurn:
    """One floor turn of one run."""

    def __init__(
        self, plan: TurnPlan, journal: Journal, scheduling: Scheduling, clock: Clock, approvals: Approvals
    ) -> None:
        self.plan = plan
        self._journal = journal = TurnJournal(journal)
        self._scheduling = scheduling
        self._clock = clock
        self._approvals = approvals
        self._resume = plan.resume
        self._calls = ModelCall(plan, journal, clock, self._note)
        self._room = ContextRoom(plan, journal, self._calls)
        self._final: StepAnswer | None = None
        self._batch: ToolBatch | None = None
        self._fold: Sequence[FoldedRun] = ()
        self._is_stopping = False
        self._hint = self._reprompt = ""
        """What the next step is to be told, until it is: by a stop, or of an answer that is no valid output."""
        self._output = TypedOutput(plan)
        self._had_tools_withheld = False
        self._may_call = False
        """Whether the calls of the step that runs are answered: none in a last step whose tools were taken away."""
        self._loops = LoopDetector()
        self._transcript = Transcript(plan)
        self.num_steps = plan.resume.step - 1 if plan.resume else 0
        self.has_started = plan.resume is not None
        """Whether a step_started has been submitted: from then on its messages stay in context (U-28)."""
        self.label = "starting"
        """What the turn does, for the run's holds."""
        self.since = clock.monotonic()
        self._parking = Parking(scheduling, clock, plan, self._note)
        if plan.resume is not None:
            self._restore(plan)

    def _restore(self, plan: TurnPlan) -> None:
        """Stand where the lost process stood."""
        resume = plan.resume
        assert resume is not None
        self._calls.usage.CopyFrom(resume.usage)
        self._calls.errors.extend(resume.errors)
        for one in resume.signatures:
            self._loops.step(one)
        if resume.message_id:
            # Until the step runs again, what was flushed of its last attempt is what there is of it.
            self.num_steps = resume.step
            self._calls.open(resume.step, resume.message_id, resume.attempt).preload(resume.partial)
            self._transcript.ids.append(resume.message_id)
        if resume.calls:
            self._batch = self._new_batch(resume.calls)

    @property
    def message_ids(self) -> Sequence[str]:
        """The messages that this turn has committed or will commit at its end, for a rollback."""
        return [*self._transcript.ids, *self._room.summarizer.message_ids]

    @property
    def text(self) -> str:
        """The text of its last answer."""
        return self._transcript.text

    @property
    def message_id(self) -> str:
        """The message that holds it."""
        return self._transcript.message_id

    @property
    def finish_reason(self) -> content_pb2.FinishReason.ValueType:
        """Why the model stopped last."""
        return self._transcript.finish_reason

    @property
    def covered_ids(self) -> Sequence[str]:
        """The messages that its summaries stand for."""
        return self._room.summarizer.covered_ids

    @property
    def output_json(self) -> str:
        """The JSON of its last answer, where a schema was asked for and it matches."""
        return self._output.json_of(self.text)

    @property
    def usage(self) -> content_pb2.RunUsage:
        """What the turn has used so far."""
        return self._calls.usage

    @property
    def errors(self) -> Sequence[event_pb2.RunError]:
        """The errors that were overcome."""
        return self._calls.errors

    def doing(self) -> Sequence[tuple[str, float]]:
        """What the turn does or waits for, each with the time since which it does."""
        return self._parking.waits() or [(self.label, self.since)]

    def _note(self, label: str) -> None:
        self.label = label
        self.since = self._clock.monotonic()

    # ---- the loop

    async def run(self) -> TurnEnd:
        """Run to an end that concludes the run, or to one that its owner concludes.

        Raises ProviderError where a model call fails, ContextExhaustedError where its context does not fit,
        TurnCancelledError where an abort came between steps.
        """
        ready = self.plan.toolbox.ready()
        if ready is not None:
            self._note("tool servers that connect")
            await ready
        is_steered = False
        while True:
            if self._batch is not None:
                end = await self._run_batch(self._batch)
                if end is not None:
                    return end
                is_steered = bool(self._fold)
            if not is_steered:
                await self._boundary()
                if self._resume is not None and self._resume.holders:
                    await self._holders_back(self._resume)
                await self._keep_room()
                self._look()
            is_steered = False
            draft = self._journal.draft()
            tools = self._prepare(draft)
            durable = self._journal.submit(draft)
            self._note("store")
            await durable
            if tools is None:
                end = self._conclude(None)
            else:
                self._note("model")
                self._final = await self._ask(tools)
                if self._final.tool_calls and self._may_call and not is_cut_short(self._final):
                    await self._begin_batch(self._final)
                    continue
                self._loops.step("")
                if self._final.is_paused:
                    # The provider's own tools are not done: what it said goes back to it, as far as steps are left.
                    continue
                await self._output.check(text_of(self._final.message))
                end = self._conclude(self._final)
            if end is not None:
                return end
            # Steered after its answer, or asked again: the answer stays, a further step of the same run follows (U-21).
            is_steered = True

    async def _holders_back(self, resume: Resume) -> None:
        """Wait for those who served the tools before a restart; others run meanwhile (U-3)."""
        self._scheduling.park()
        await holders_back(self.plan, resume, self._note)
        self._scheduling.wake()
        await self._parking.permit()

    async def _boundary(self) -> None:
        """A server that goes away begins no further step (U-17): the turn stands here until it is cut.

        Everything that it did is durable; the next process goes on from here.
        """
        if self._scheduling.is_leaving and self.has_started:
            self._note("drain")
            self._scheduling.park()
            await asyncio.get_running_loop().create_future()

    async def _ask(self, tools: Mapping[str, OfferedTool]) -> StepAnswer:
        """Have the step that was begun answered, after a summary where its request is too long."""
        while True:
            history = await self._journal.history()
            try:
                return await self._calls.ask(self._request(history, tools))
            except ProviderError as error:
                if not error.is_context_overflow:
                    raise
                await self._room.make_for(error, self.num_steps, tools)

    def _request(
        self, history: Sequence[content_pb2.Message], tools: Mapping[str, OfferedTool]
    ) -> Callable[[Model], ModelRequest]:
        return lambda model: step_request(self.plan, model, history, tools)

    async def _keep_room(self) -> None:
        """Between two steps: summarise what came so far where the context gets full (U-29)."""
        is_open = self._resume is not None and self._resume.message_id
        if is_open or self._is_stopping or not await self._room.is_due(self.num_steps):
            return
        if self._batch is not None or self._final is not None:
            draft = self._journal.draft()
            self._close_batch(draft, SKIPPED, is_cancelled=False)
            self.write_end(draft)
            await self._journal.submit(draft)
        await self._room.make(self.num_steps, self._tools())

    def _look(self) -> bool:
        """A fold point: take what is to be folded. Whether there is nothing that comes first."""
        point = self._scheduling.fold_point()
        self._fold = point.fold
        if point.is_stopping and not self._is_stopping:
            self._is_stopping = True
            self._hint = "" if self.plan.resume is not None and self.plan.resume.has_hint else point.hint
        return not point.fold and not point.is_stopping

    # ---- steps

    def _tools(self) -> Mapping[str, OfferedTool]:
        """The tools of the session as they are now."""
        plan = self.plan
        offered = plan.toolbox.tools(plan.tenant, plan.session_id)
        return {name: tool for name, tool in offered.items() if plan.tool_filter(name)}

    def _prepare(self, draft: Draft) -> Mapping[str, OfferedTool] | None:
        """Write what the next step begins with: what came before it, folded prompts, its start.

        Returns its tools; None where no further step may be taken.
        """
        plan = self.plan
        skipped = STEERED if self._fold else STOPPED if self._is_stopping else SKIPPED
        self._close_batch(draft, skipped, is_cancelled=False)
        if self._final is not None:
            self.write_end(draft)
        fold, self._fold = self._fold, ()
        resume, self._resume = self._resume, None
        self._room.summarizer.discard(draft, LOST)
        if resume is not None and resume.message_id:
            # What was bound while the stream was open folds before the step is run again.
            self._transcript.folds(draft, fold, self.num_steps)
            self._write_words(draft)
            if resume.retry_at > draft.now:
                # Its next attempt had not begun: the wait goes on.
                self._calls.wait_until(resume.retry_at)
            else:
                self._calls.discard(draft, PROCESS_LOST)
                self._calls.open(self.num_steps, resume.message_id, resume.attempt + 1)
            return self._step_tools()
        if not self.has_started:
            draft.start_run(plan.run_id, plan.turn_id, plan.model)
            self._transcript.user(draft, plan.prompt, plan.run_id)
        self.has_started = True
        limit = plan.max_steps + (plan.max_steered_steps if fold else 0)
        is_allowed = self.num_steps < limit or (self._is_stopping and plan.max_steps > 0)
        if is_allowed:
            self.num_steps += 1
        self._transcript.folds(draft, fold, self.num_steps)
        if not is_allowed:
            return None
        self._write_words(draft)
        step = self._calls.open(self.num_steps, short_id("msg"))
        self._transcript.ids.append(step.opened.message_id)
        tools = self._step_tools()
        event = plan.event(attempt=1)
        event.step_started.step = self.num_steps
        event.step_started.model = step.model.name
        event.step_started.message_id = step.opened.message_id
        event.step_started.tool_holders.extend(holders_of(tools))
        draft.event(event)
        return tools

    def _write_words(self, draft: Draft) -> None:
        """Tell the step that begins what a stop said, or what its last answer lacks."""
        self._transcript.words(draft, self._hint, content_pb2.MESSAGE_ORIGIN_STOP_HINT)
        self._transcript.words(draft, self._reprompt, content_pb2.MESSAGE_ORIGIN_OUTPUT_INVALID)
        self._hint = self._reprompt = ""

    def _step_tools(self) -> Mapping[str, OfferedTool]:
        """The tools of the step that begins: none in the last one that may be taken, and none after a stop."""
        tools = self._tools()
        self._had_tools_withheld = bool(tools) and self.num_steps >= self.plan.max_steps
        # Where there are no tools at all a call is still answered: there is no such tool.
        self._may_call = not self._is_stopping and not self._had_tools_withheld
        return tools if self._may_call else {}

    # ---- tools

    def _new_batch(self, calls: Sequence[CallState]) -> ToolBatch:
        return ToolBatch(
            self.plan,
            self._journal,
            self._clock,
            self._approvals,
            calls,
            tools=self._tools,
            may_go_on=self._look,
            parking=self._parking,
            note=self._note,
        )

    async def _begin_batch(self, answer: StepAnswer) -> None:
        """Commit the answer with its calls: from here on each of them will have its result."""
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # The provider has swallowed the cancel of this turn; nothing runs any more.
            raise asyncio.CancelledError
        draft = self._journal.draft()
        self._write_answer(draft)
        bad = malformed(answer.message.parts)
        message_id = answer.message.message_id
        self._batch = self._new_batch(
            [CallState(call, message_id, is_malformed=call.tool_call_id in bad) for call in answer.tool_calls]
        )
        await self._journal.submit(draft)

    async def _run_batch(self, batch: ToolBatch) -> TurnEnd | None:
        """Run the calls of an answer; the end of the turn, if they lead to it."""
        await batch.run()
        if batch.is_turn_end:
            return self._conclude(None, event_pb2.OUTCOME_REASON_TOOL_ENDED)
        is_loop = self._loops.step(signature((state.call, state.result) for state in batch.states))
        # What a fold point has given is folded, whatever the model does: it comes before the end.
        if is_loop and not self._fold:
            return tool_loop(self.plan)
        return None

    def _close_batch(self, draft: Draft, why: str, *, is_cancelled: bool) -> None:
        if self._batch is not None:
            message = self._batch.close(draft, why, is_cancelled=is_cancelled)
            self._transcript.ids.append(message.message_id)
            self._batch = None

    # ---- ends

    def _conclude(
        self, answer: StepAnswer | None, reason: event_pb2.OutcomeReason.ValueType | None = None
    ) -> TurnEnd | None:
        """Propose that the turn ends here; None where it goes on: a steer comes first, or the model is asked again."""
        limit = self.plan.max_steps + self.plan.max_steered_steps if self.plan.max_steps else 0
        may_be_steered = self.num_steps < limit
        mismatch = self._output.mismatch if answer is not None and not is_cut_short(answer) else None
        if mismatch is not None and not self._had_tools_withheld:
            if may_be_steered:
                # What was bound by now is asked first, and what was cancelled by now is not asked again.
                self._look()
            if not self._fold and not self._is_stopping:
                if not self._output.may_ask_again:
                    return output_invalid(self.plan, mismatch)
                if self.num_steps < self.plan.max_steps:
                    self._reprompt = self._output.ask_again()
            if self._fold or self._reprompt:
                return None
        concluding = self._scheduling.conclude_answer(steer=may_be_steered)
        if not concluding.is_concluded:
            self._fold = concluding.fold
            return None
        is_at_limit = self._had_tools_withheld or mismatch is not None
        return completed(concluding, answer, is_at_limit=is_at_limit, reason=reason)

    def write_end(self, draft: Draft) -> None:
        """Write the answer of the last step, and results for the calls that no tool will answer."""
        self._close_batch(draft, SKIPPED, is_cancelled=False)
        self._write_unanswered(draft, CUT_SHORT if self._may_call else NO_TOOLS, is_cancelled=False)

    def _write_unanswered(self, draft: Draft, why: str, *, is_cancelled: bool) -> None:
        """Write the answer of the last step whose calls, if it has any, will not run."""
        answer = self._write_answer(draft)
        if answer is not None and answer.tool_calls:
            unanswered = self._new_batch([CallState(call, answer.message.message_id) for call in answer.tool_calls])
            message = unanswered.close(draft, why, is_cancelled=is_cancelled)
            self._transcript.ids.append(message.message_id)

    def _write_answer(self, draft: Draft) -> StepAnswer | None:
        """Write the answer of the last step, where that has not been done; its calls need results behind it."""
        answer, step = self._final, self._calls.step
        if answer is None or step is None:
            return None
        self._final = None
        self._transcript.answer(draft, answer.message, step)
        for event in answer.step_events:
            draft.event(event)
        return answer

    def abandon(self) -> None:
        """Write nothing more from inside: its owner writes the end."""
        self._journal.close()

    def cut(
        self,
        draft: Draft,
        status: content_pb2.MessageStatus.ValueType,
        error: content_pb2.ErrorText | None = None,
        failure: ProviderError | None = None,
    ) -> None:
        """Write what there is of a turn that does not end by itself: its partial answer, marked, and its usage."""
        is_cancelled = status == content_pb2.MESSAGE_STATUS_CANCELLED
        self._room.summarizer.discard(draft, CUT)
        why = CANCELLED if is_cancelled else FAILED_CALL
        self._close_batch(draft, why, is_cancelled=is_cancelled)
        if self._final is not None:
            self._write_unanswered(draft, why, is_cancelled=is_cancelled)
            return
        step = self._calls.step
        if step is None or step.is_committed:
            return
        message = step.partial(status, error)
        usage = self._calls.settle_failed(failure)
        self._transcript.answer(draft, message, step)
        draft.event(step.finished(usage, message.finish_reason))

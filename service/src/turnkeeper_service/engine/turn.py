"""The turn loop: prepare a step, stream it, run its tools, and again, until an answer concludes the run.

Written once for every kind of turn. What it does between two awaits is one step: what the scheduler gave at a fold
point is in a submitted draft before anything else can happen. A turn can be cut at any await, also while it ignores
that; its owner then calls `FloorTurn.cut`, which writes what there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.calls.batch import ToolBatch
from turnkeeper_service.engine.calls.served import holders_back, holders_of
from turnkeeper_service.engine.calls.waits import Waits
from turnkeeper_service.engine.context.context_room import ContextRoom
from turnkeeper_service.engine.context.summarizer import LOST
from turnkeeper_service.engine.context.transcript import Transcript
from turnkeeper_service.engine.steps.loops import LoopDetector, signature
from turnkeeper_service.engine.steps.model_call import PROCESS_LOST
from turnkeeper_service.engine.steps.output import TypedOutput
from turnkeeper_service.engine.steps.request import step_request
from turnkeeper_service.engine.steps.step import StepAnswer, text_of
from turnkeeper_service.ids import short_id
from turnkeeper_service.process.clock import Clock
from turnkeeper_service.providers.base import ModelRequest, ProviderError
from turnkeeper_service.tools.arguments import malformed
from turnkeeper_service.tools.base import OfferedTool

from .abstract_turn import Turn
from .approval import Approvals
from .journal import Draft, Journal
from .models import Model
from .plan import CallState, TurnPlan
from .scheduling import FoldedRun, Scheduling, stand
from .turn_end import TurnEnd
from .turn_ends import completed, is_cut_short, output_invalid, tool_loop
from .unwritten import SKIPPED, Unwritten

STEERED = "skipped: a message of the user came first"
STOPPED = "skipped: the run was asked to stop"


@dataclass(frozen=True, slots=True)
class _BegunStep:
    """A step that begins; without ``tools`` none may be taken any more."""

    tools: Mapping[str, OfferedTool] | None


class FloorTurn(Turn):
    """One floor turn of one run."""

    def __init__(
        self, plan: TurnPlan, journal: Journal, scheduling: Scheduling, clock: Clock, approvals: Approvals
    ) -> None:
        super().__init__(plan, journal, scheduling, clock)
        self._approvals = approvals
        self._resume = plan.resume
        self._room = ContextRoom(plan, self._journal, self._calls)
        self._begun: _BegunStep | None = None
        """The first step, where it was begun with the run's accept."""
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
        self._unwritten = Unwritten(self._calls, self._transcript, self._room.summarizer)
        self.num_steps = plan.resume.step - 1 if plan.resume else 0
        self._waits = Waits(scheduling, plan, self._note)
        if plan.resume is not None:
            self._restore(plan)

    def _restore(self, plan: TurnPlan) -> None:
        """Stand where the lost process stood."""
        resume = plan.resume
        assert resume is not None
        for one in resume.signatures:
            self._loops.step(one)
        if resume.message_id:
            # Until the step runs again, what was flushed of its last attempt is what there is of it.
            self.num_steps = resume.step
            self._calls.open(resume.step, resume.message_id, resume.attempt).preload(resume.partial)
            self._transcript.ids.append(resume.message_id)
        if resume.calls:
            self._unwritten.take(self._new_batch(resume.calls))

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

    # ---- the loop

    async def run(self) -> None:
        """Run until the turn is concluded."""
        begun, self._begun = self._begun, None
        if begun is None:
            await self._servers_ready()
        is_steered = False
        while True:
            if self._unwritten.batch is not None:
                if await self._run_batch(self._unwritten.batch):
                    return
                is_steered = bool(self._fold)
            if begun is None:
                begun = await self._begin_step(is_steered=is_steered)
            tools, begun, is_steered = begun.tools, None, False
            if tools is None:
                is_over = self._conclude(None)
            else:
                self._note("model")
                answer = self._unwritten.answer = await self._ask(tools)
                if answer.tool_calls and self._may_call and not is_cut_short(answer):
                    await self._begin_batch(answer)
                    continue
                self._loops.step("")
                if answer.is_paused:
                    # The provider's own tools are not done: what it said goes back to it, as far as steps are left.
                    continue
                await self._output.check(text_of(answer.message))
                is_over = self._conclude(answer)
            if is_over:
                return
            # Steered after its answer, or asked again: the answer stays, a further step of the same run follows (U-21).
            is_steered = True

    def begin(self, draft: Draft) -> None:
        """Write the first step into the commit that accepts the run; `run` goes on from there once it is durable."""
        self._begun = _BegunStep(self._prepare(draft))
        self.has_started = True

    async def _begin_step(self, *, is_steered: bool) -> _BegunStep:
        """Begin the next step, durably."""
        if not is_steered:
            await self._boundary()
            if self._resume is not None and self._resume.holders:
                await holders_back(self.plan, self._resume, self._scheduling)
                await self._waits.permit()
            await self._keep_room()
            await self._boundary(is_lending=True)
        for run in self._fold:
            await run.read()
        draft = self._journal.draft()
        begun = _BegunStep(self._prepare(draft))
        durable = self._submitted(draft)
        self._scheduling.taken()
        self._note("store")
        await durable
        return begun

    def _submitted(self, draft: Draft) -> asyncio.Future[None]:
        """Hand a draft over. What one would have held that could not be filled is still to be written."""
        durable = self._journal.submit(draft)
        self.has_started = True
        self._unwritten.submitted(draft)
        return durable

    async def _servers_ready(self) -> None:
        """Wait for tool servers that connect; others run meanwhile (U-3)."""
        ready = self.plan.toolbox.ready()
        if ready is not None:
            wait = self._scheduling.wait("servers", "tool servers that connect")
            await ready
            wait.end()
            await self._waits.permit()

    async def _boundary(self, *, is_lending: bool = False) -> None:
        """The turn may go on with its next step, unless the server goes away."""
        if self._look(is_lending=is_lending):
            await stand(self._scheduling, self._note)

    async def _ask(self, tools: Mapping[str, OfferedTool]) -> StepAnswer:
        """Have the step that was begun answered, after a summary where its request is too long."""
        while True:
            history = await self.plan.context.history()
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
        if not self._unwritten.is_empty:
            draft = self._journal.draft()
            self.write_end(draft)
            await self._submitted(draft)
        await self._room.make(self.num_steps, self._tools())

    def _look(self, *, is_lending: bool = True) -> bool:
        """A fold point: take what is to be folded. Whether the server goes away."""
        point = self._scheduling.fold_point(is_lending=is_lending)
        self._fold = point.fold
        if point.is_stopping and not self._is_stopping:
            self._is_stopping = True
            self._hint = "" if self.plan.resume is not None and self.plan.resume.has_hint else point.hint
        return point.is_leaving

    def _may_go_on(self) -> bool:
        """Between two calls of a batch: whether nothing comes first."""
        self._look()
        return not self._fold and not self._is_stopping

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
        self._unwritten.close_batch(draft, skipped)
        if self._unwritten.answer is not None:
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
            may_go_on=self._may_go_on,
            waits=self._waits,
            note=self._note,
        )

    async def _begin_batch(self, answer: StepAnswer) -> None:
        """Commit the answer with its calls: from here on each of them will have its result."""
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # The provider has swallowed the cancel of this turn; nothing runs any more.
            raise asyncio.CancelledError
        draft = self._journal.draft()
        self._unwritten.write_answer(draft)
        durable = self._submitted(draft)
        bad = malformed(answer.message.parts)
        message_id = answer.message.message_id
        calls = [CallState(call, message_id, is_malformed=call.tool_call_id in bad) for call in answer.tool_calls]
        self._unwritten.take(self._new_batch(calls))
        await durable

    async def _run_batch(self, batch: ToolBatch) -> bool:
        """Run the calls of an answer; whether they have ended the turn."""
        await batch.run()
        if batch.is_turn_end:
            return self._conclude(None, event_pb2.OUTCOME_REASON_TOOL_ENDED)
        is_loop = self._loops.step(signature((state.call, state.result) for state in batch.states))
        # What a fold point has given is folded, whatever the model does: it comes before the end.
        return is_loop and not self._fold and self._end(tool_loop(self.plan))

    # ---- ends

    def _end(self, end: TurnEnd, *, may_step: bool = False) -> bool:
        """Propose an end; false where something is folded first."""
        fold = self._scheduling.conclude(end, may_step=may_step)
        self._fold = fold or ()
        return fold is None

    def _conclude(self, answer: StepAnswer | None, reason: event_pb2.OutcomeReason.ValueType | None = None) -> bool:
        """Propose that the turn ends here; false where it goes on: a steer comes first, or the model is asked again."""
        limit = self.plan.max_steps + self.plan.max_steered_steps if self.plan.max_steps else 0
        may_be_steered = self.num_steps < limit
        mismatch = self._output.mismatch if answer is not None and not is_cut_short(answer) else None
        if mismatch is not None and not self._had_tools_withheld:
            if may_be_steered:
                # What was bound by now is asked first, and what was cancelled by now is not asked again.
                self._look()
            if not self._fold and not self._is_stopping:
                if not self._output.may_ask_again:
                    return self._end(output_invalid(self.plan, mismatch))
                if self.num_steps < self.plan.max_steps:
                    self._reprompt = self._output.ask_again()
            if self._fold or self._reprompt:
                return False
        is_at_limit = self._had_tools_withheld or mismatch is not None
        return self._end(completed(answer, is_at_limit=is_at_limit, reason=reason), may_step=may_be_steered)

    def write_end(self, draft: Draft) -> None:
        """Write the answer of the last step, and results for the calls that no tool will answer."""
        self._unwritten.write(draft, self._new_batch, may_call=self._may_call)

    def cut(
        self,
        draft: Draft,
        status: content_pb2.MessageStatus.ValueType,
        error: content_pb2.ErrorText | None = None,
        failure: ProviderError | None = None,
    ) -> None:
        """Write what there is of a turn that does not end by itself: its partial answer, marked, and its usage."""
        self._unwritten.cut(draft, self._new_batch, status, error, failure)

"""Writes a summary of the main context, as a step of the turn that needs it (U-29).

It is shown while it grows and stands only when it is committed; until then the context is as it was. The turn that is
cut meanwhile, or whose process is lost, discards it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from turnkeeper.v1 import content_pb2
from turnkeeper_service.engine.journal import Draft, Journal
from turnkeeper_service.engine.models import Model
from turnkeeper_service.engine.plan import TurnPlan
from turnkeeper_service.engine.steps.model_call import ModelCall
from turnkeeper_service.engine.steps.step import StepAnswer, text_of
from turnkeeper_service.ids import short_id
from turnkeeper_service.providers.base import ModelRequest, ProviderError

from .summary import NUM_LENGTHS, kept_parts, num_tokens, shortened, summary_request

LOST = "the process was lost"
CUT = "the run has ended"
TOO_LONG = "CONTEXT_EXHAUSTED"


class NoSummaryError(Exception):
    """There is no summary that would help. The message says why; the context is as it was."""


class Summarizer:
    """The summaries of one turn."""

    def __init__(self, plan: TurnPlan, journal: Journal, calls: ModelCall) -> None:
        self._plan = plan
        self._journal = journal
        self._calls = calls
        self._open_id = plan.resume.summary_id if plan.resume is not None else ""
        """The message of a summary that was begun and neither stands nor was discarded."""
        self._answer: StepAnswer | None = None
        self._covered: Sequence[content_pb2.Message] = ()
        self._message = content_pb2.Message()
        self.message_id = ""
        """The message of the summary that was written last."""
        self.message_ids: list[str] = []
        """The messages of all that stand."""
        self.covered_ids: list[str] = list(plan.resume.covered_ids) if plan.resume is not None else []
        """Messages that the turn's summaries stand for, for a rollback."""

    async def write(self, *, num_steps: int) -> None:
        """Write a summary that the turn needs, and have it stand.

        Raises NoSummaryError where none is gained, ProviderError where the model cannot be asked.
        """
        await self.compose(is_automatic=True, num_steps=num_steps)
        if num_tokens([self._message]) >= num_tokens(self._covered):
            await self._give_up("the summary would be as long as what it stands for")
        draft = self._journal.draft()
        self.stand(draft)
        await self._journal.submit(draft)

    async def compose(self, *, is_automatic: bool, num_steps: int) -> None:
        """Have a model write a summary, without letting it stand yet. Raises as `write` does."""
        history = list(await self._plan.context.history())
        turn_id = self._plan.turn_id if is_automatic else ""
        draft = self._journal.draft()
        self.discard(draft, LOST)
        self._open_id = short_id("msg")
        step = self._calls.open(num_steps, self._open_id)
        event = self._plan.event()
        event.summary_started.is_automatic = is_automatic
        event.summary_started.message_id, event.summary_started.model = self._open_id, step.model.name
        draft.event(event)
        await self._journal.submit(draft)
        try:
            answer = await self._ask(history)
        except ProviderError as error:
            await self._give_up(f"{error.title}: {error.detail}", error)
            raise
        text = text_of(answer.message).strip()
        self._answer, self._covered = answer, history
        if not text:
            await self._give_up("the model wrote none")
        message = self._message = content_pb2.Message(
            message_id=self._open_id,
            role=content_pb2.ROLE_USER,
            status=content_pb2.MESSAGE_STATUS_COMPLETE,
            run_id=self._plan.run_id,
            turn_id=self._plan.turn_id,
            context_id=self._plan.context.context_id,
            in_context=True,
            model=answer.message.model,
        )
        summary = message.parts.add().summary
        summary.text, summary.covers_seq = text, history[-1].seq if history else 0
        message.parts.extend(kept_parts(history, turn_id) if turn_id else ())

    async def _ask(self, history: Sequence[content_pb2.Message]) -> StepAnswer:
        """The model's answer; a conversation that is too long for one request is shortened."""
        for level in range(NUM_LENGTHS):
            try:
                return await self._calls.ask(self._request(shortened(history, level)))
            except ProviderError as error:
                step = self._calls.step
                if not error.is_context_overflow or level == NUM_LENGTHS - 1 or step is None:
                    raise
                await self._calls.again(error, step.model, cause=TOO_LONG)
        raise AssertionError("a loop without an end")

    def _request(self, messages: Sequence[content_pb2.Message]) -> Callable[[Model], ModelRequest]:
        return lambda model: summary_request(self._plan, model, messages, self._journal.todos)

    def stand(self, draft: Draft) -> None:
        """Write the summary that was composed: from now on it stands for what it covers."""
        answer, step = self._answer, self._calls.step
        assert answer is not None
        assert step is not None
        self._answer = None
        draft.message(self._message, run_id=self._plan.run_id, attempt=step.opened.attempt, closes=step.opened)
        step.is_committed = True
        covered = [message.message_id for message in self._covered]
        if covered:
            draft.context_change(self._plan.run_id, self._plan.context.context_id, covered, False)
        event = self._plan.event()
        finished = event.summary_finished
        finished.message_id, finished.covers_seq = self._open_id, self._message.parts[0].summary.covers_seq
        finished.usage.CopyFrom(answer.usage)
        draft.event(event)
        self.covered_ids.extend(covered)
        self.message_id, self._open_id = self._open_id, ""
        self.message_ids.append(self.message_id)

    @property
    def text(self) -> str:
        """The text of the summary that was composed last."""
        return self._message.parts[0].summary.text if self._message.parts else ""

    async def _give_up(self, detail: str, failure: ProviderError | None = None) -> None:
        """Discard what was begun. Raises NoSummaryError unless a failure is given, which the caller raises."""
        draft = self._journal.draft()
        self.discard(draft, detail, failure)
        await self._journal.submit(draft)
        if failure is None:
            raise NoSummaryError(detail)

    def discard(self, draft: Draft, detail: str, failure: ProviderError | None = None) -> None:
        """Write that a summary that was begun is given up; nothing where none was."""
        if not self._open_id:
            return
        step = self._calls.step
        if step is not None and step.opened.message_id != self._open_id:
            step = None
        event = self._plan.event()
        discarded = event.summary_discarded
        discarded.message_id, discarded.detail = self._open_id, detail
        if step is not None:
            answer = self._answer
            discarded.usage.CopyFrom(answer.usage if answer is not None else self._calls.settle_failed(failure))
            step.is_committed = True
        if step is None or step.opened.has_flushed:
            # Of one that a lost process had begun, nobody knows what was flushed.
            draft.commit.drop_partials.append(self._plan.run_id)
        draft.event(event, closes=step.opened if step is not None else None)
        self._open_id, self._answer = "", None

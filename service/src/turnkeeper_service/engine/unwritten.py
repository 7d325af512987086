"""What a turn has and has not written yet: the answer of its last step, and the calls that it made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from turnkeeper.v1 import content_pb2
from turnkeeper_service.engine.calls.batch import ToolBatch
from turnkeeper_service.engine.context.summarizer import CUT, Summarizer
from turnkeeper_service.engine.context.transcript import Transcript
from turnkeeper_service.engine.steps.model_call import ModelCall
from turnkeeper_service.engine.steps.step import StepAnswer
from turnkeeper_service.providers.base import ProviderError

from .journal import Draft
from .plan import CallState

SKIPPED = "skipped: an earlier result ended the turn"
CANCELLED = "the run was cancelled before this call had a result"
FAILED_CALL = "the run failed before this call had a result"
NO_TOOLS = "no tools may be used now"
CUT_SHORT = "not run: the answer was cut short"


NewBatch = Callable[[Sequence[CallState]], ToolBatch]


class Unwritten:
    """Written into the commit of what comes next, whatever that is: every call has its result behind it (promise 8)."""

    def __init__(self, calls: ModelCall, transcript: Transcript, summarizer: Summarizer) -> None:
        self._calls = calls
        self._transcript = transcript
        self._summarizer = summarizer
        self.answer: StepAnswer | None = None
        """The last answer, whole, until it is written."""
        self.batch: ToolBatch | None = None
        """Its calls, until their results are."""
        self._answer_in: Draft | None = None
        self._batch_in: Draft | None = None
        """The drafts that hold them; one that is given up has written nothing."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to write."""
        return self.batch is None and self.answer is None

    def take(self, batch: ToolBatch) -> None:
        """These calls are to have their results."""
        self.batch = batch

    def close_batch(self, draft: Draft, why: str, *, is_cancelled: bool = False) -> None:
        """Write the results of the calls; those without one get ``why``."""
        if self.batch is not None and self._batch_in is not draft:
            message = self.batch.close(draft, why, is_cancelled=is_cancelled)
            self._transcript.ids.append(message.message_id)
            self._batch_in = draft

    def submitted(self, draft: Draft) -> None:
        """A draft is handed over: what it holds is written."""
        if self._batch_in is draft:
            self.batch = None
        if self._answer_in is draft:
            self.answer = None

    def write(self, draft: Draft, new_batch: NewBatch, *, may_call: bool) -> None:
        """Write the answer of the last step, and results for the calls that no tool will answer."""
        self.close_batch(draft, SKIPPED)
        self._write_unanswered(draft, new_batch, CUT_SHORT if may_call else NO_TOOLS, is_cancelled=False)

    def _write_unanswered(self, draft: Draft, new_batch: NewBatch, why: str, *, is_cancelled: bool) -> None:
        """Write the answer of the last step whose calls, if it has any, will not run."""
        answer = self.write_answer(draft)
        if answer is not None and answer.tool_calls:
            unanswered = new_batch([CallState(call, answer.message.message_id) for call in answer.tool_calls])
            message = unanswered.close(draft, why, is_cancelled=is_cancelled)
            self._transcript.ids.append(message.message_id)

    def write_answer(self, draft: Draft) -> StepAnswer | None:
        """Write the answer of the last step, where that has not been done; its calls need results behind it."""
        answer, step = self.answer, self._calls.step
        if answer is None or step is None or self._answer_in is draft:
            return None
        self._answer_in = draft
        self._transcript.answer(draft, answer.message, step)
        for event in answer.step_events:
            draft.event(event)
        return answer

    def cut(
        self,
        draft: Draft,
        new_batch: NewBatch,
        status: content_pb2.MessageStatus.ValueType,
        error: content_pb2.ErrorText | None,
        failure: ProviderError | None,
    ) -> None:
        """Write what there is where no end was reached: the partial answer, marked, and its usage."""
        is_cancelled = status == content_pb2.MESSAGE_STATUS_CANCELLED
        self._summarizer.discard(draft, CUT)
        why = CANCELLED if is_cancelled else FAILED_CALL
        self.close_batch(draft, why, is_cancelled=is_cancelled)
        if self.answer is not None:
            self._write_unanswered(draft, new_batch, why, is_cancelled=is_cancelled)
            return
        step = self._calls.step
        if step is None or step.is_committed:
            return
        message = step.partial(status, error)
        usage = self._calls.settle_failed(failure)
        self._transcript.answer(draft, message, step)
        draft.event(step.finished(usage, message.finish_reason))

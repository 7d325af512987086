"""The turn of a SUMMARY run (U-5): one model call, and what it wrote stands from the run's terminal on."""

from __future__ import annotations

from collections.abc import Sequence

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.clock import Clock
from turnkeeper_service.providers.base import ProviderError

from .journal import Draft, Journal, TurnJournal
from .model_call import ModelCall
from .plan import TurnEnd, TurnPlan
from .scheduling import Scheduling
from .summarizer import CUT, NoSummaryError, Summarizer
from .summary import ContextExhaustedError, sizes

COMPLETED = event_pb2.OUTCOME_STATUS_COMPLETED
FAILED = event_pb2.OUTCOME_STATUS_FAILED


class SummaryTurn:
    """The one turn of a SUMMARY run. Its summary is kept whatever its length: somebody asked for it."""

    def __init__(self, plan: TurnPlan, journal: Journal, scheduling: Scheduling, clock: Clock) -> None:
        self.plan = plan
        self._journal = journal = TurnJournal(journal)
        self._scheduling = scheduling
        self._clock = clock
        self._calls = ModelCall(plan, journal, clock, self._note)
        self._summarizer = Summarizer(plan, journal, self._calls)
        self._stands = False
        if plan.resume is not None:
            self._calls.usage.CopyFrom(plan.resume.usage)
            self._calls.errors.extend(plan.resume.errors)
        self.has_started = plan.resume is not None
        self.num_steps = 0
        self.message_ids: Sequence[str] = ()
        self.covered_ids: Sequence[str] = ()
        self.finish_reason = content_pb2.FINISH_REASON_UNSPECIFIED
        self._label = "starting"
        self._since = clock.monotonic()

    @property
    def usage(self) -> content_pb2.RunUsage:
        """What the turn has used so far."""
        return self._calls.usage

    @property
    def errors(self) -> Sequence[event_pb2.RunError]:
        """The errors that were overcome."""
        return self._calls.errors

    @property
    def text(self) -> str:
        """The summary, once it stands."""
        return self._summarizer.text if self._stands else ""

    @property
    def message_id(self) -> str:
        """The summary's message, once it stands."""
        return self._summarizer.message_id

    def doing(self) -> Sequence[tuple[str, float]]:
        """What it does, and since when."""
        return [(self._label, self._since)]

    def _note(self, label: str) -> None:
        self._label = label
        self._since = self._clock.monotonic()

    async def run(self) -> TurnEnd:
        """Have the summary written.

        Raises ProviderError, ContextExhaustedError where the conversation is too long however it is shortened, and
        TurnCancelledError where an abort came first.
        """
        self._scheduling.fold_point()
        if not self.has_started:
            draft = self._journal.draft()
            draft.start_run(self.plan.run_id, self.plan.turn_id, self.plan.model)
            self.has_started = True
            await self._journal.submit(draft)
        is_written = False
        if await self._journal.history():
            self._note("model")
            try:
                await self._summarizer.compose(is_automatic=False, num_steps=1)
            except NoSummaryError as error:
                reason = event_pb2.OUTCOME_REASON_CONTEXT_EXHAUSTED
                failure = event_pb2.RunError(
                    reason=reason, title="No summary", detail=str(error), turn_id=self.plan.turn_id
                )
                return TurnEnd(FAILED, reason, errors=[failure])
            except ProviderError as error:
                if not error.is_context_overflow:
                    raise
                filled = sizes(self.plan, await self._journal.history(), {})
                raise ContextExhaustedError(f"{error.detail}; {filled}") from error
            self.num_steps = 1
            is_written = True
        concluding = self._scheduling.conclude_answer(steer=False)
        self._stands = is_written and not concluding.is_cancelled
        stopped = event_pb2.OUTCOME_REASON_STOPPED
        reason = stopped if concluding.is_stopped else event_pb2.OUTCOME_REASON_ANSWERED
        return TurnEnd(COMPLETED, reason, is_cancelled=concluding.is_cancelled)

    def write_end(self, draft: Draft) -> None:
        """Let the summary stand, or discard it where a cancel came first: half a summary is none (U-24)."""
        if self._stands:
            self._summarizer.stand(draft)
            self.finish_reason = content_pb2.FINISH_REASON_END_TURN
        else:
            self._summarizer.discard(draft, CUT)

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
        """Discard what there is: the context is as it was."""
        self._summarizer.discard(draft, CUT, failure)

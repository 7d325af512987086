"""The turn of a SUMMARY run (U-5): one model call, and what it wrote stands from the run's terminal on."""

from __future__ import annotations

from collections.abc import Sequence

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.context.summarizer import CUT, NoSummaryError, Summarizer
from turnkeeper_service.engine.context.summary import ContextExhaustedError, sizes
from turnkeeper_service.process.clock import Clock
from turnkeeper_service.providers.base import ProviderError

from .abstract_turn import Turn
from .journal import Draft, Journal
from .plan import TurnPlan
from .scheduling import Scheduling, stand
from .turn_end import COMPLETED, TurnEnd, failed


class SummaryTurn(Turn):
    """The one turn of a SUMMARY run. Its summary is kept whatever its length: somebody asked for it."""

    def __init__(self, plan: TurnPlan, journal: Journal, scheduling: Scheduling, clock: Clock) -> None:
        super().__init__(plan, journal, scheduling, clock)
        self._summarizer = Summarizer(plan, self._journal, self._calls)
        self._is_written = self._stands = False
        self._finish_reason = content_pb2.FINISH_REASON_UNSPECIFIED

    @property
    def text(self) -> str:
        """The summary, once it stands."""
        return self._summarizer.text if self._stands else ""

    @property
    def message_id(self) -> str:
        """The summary's message, once it stands."""
        return self._summarizer.message_id

    @property
    def finish_reason(self) -> content_pb2.FinishReason.ValueType:
        """Why the model stopped."""
        return self._finish_reason

    @property
    def message_ids(self) -> Sequence[str]:
        """None that a rollback would take out: half a summary is none."""
        return ()

    @property
    def covered_ids(self) -> Sequence[str]:
        """The same."""
        return ()

    async def run(self) -> None:
        """Have the summary written, and conclude.

        Raises ProviderError, ContextExhaustedError where the conversation is too long however it is shortened, and
        TurnCancelledError where an abort came first.
        """
        if self._scheduling.fold_point().is_leaving:
            await stand(self._scheduling, self._note)
        if not self.has_started:
            draft = self._journal.draft()
            draft.start_run(self.plan.run_id, self.plan.turn_id, self.plan.model)
            durable = self._journal.submit(draft)
            self.has_started = True
            await durable
        if await self.plan.context.history():
            self._note("model")
            try:
                await self._summarizer.compose(is_automatic=False, num_steps=1)
            except NoSummaryError as error:
                reason, turn_id = event_pb2.OUTCOME_REASON_CONTEXT_EXHAUSTED, self.plan.turn_id
                self._scheduling.conclude(failed(reason, "No summary", str(error), turn_id=turn_id))
                return
            except ProviderError as error:
                if not error.is_context_overflow:
                    raise
                filled = sizes(self.plan, await self.plan.context.history(), {})
                raise ContextExhaustedError(f"{error.detail}; {filled}") from error
            self.num_steps = 1
            self._is_written = True
        self._scheduling.conclude(TurnEnd(COMPLETED, event_pb2.OUTCOME_REASON_ANSWERED))

    def write_end(self, draft: Draft) -> None:
        """Let the summary stand, if there is one; a turn that is cut discards it: half a summary is none (U-24)."""
        self._stands = self._is_written
        if self._stands:
            self._summarizer.stand(draft)
            self._finish_reason = content_pb2.FINISH_REASON_END_TURN

    def cut(
        self,
        draft: Draft,
        status: content_pb2.MessageStatus.ValueType,
        error: content_pb2.ErrorText | None = None,
        failure: ProviderError | None = None,
    ) -> None:
        """Discard what there is: the context is as it was."""
        self._summarizer.discard(draft, CUT, failure)

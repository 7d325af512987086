"""What all kinds of turn have in common: what they write to, ask of the scheduler, use, and leave."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.steps.model_call import ModelCall
from turnkeeper_service.process.clock import Clock
from turnkeeper_service.providers.base import ProviderError

from .journal import Draft, Journal, TurnJournal
from .plan import TurnPlan
from .scheduling import Scheduling


class Doing:
    """What a turn does right now. Apart from it, so that its parts, which say so, need not know it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.label = "starting"
        self.since = clock.monotonic()

    def note(self, label: str) -> None:
        """It does something else from now on."""
        self.label = label
        self.since = self._clock.monotonic()


class Turn(ABC):
    """One execution of an agent: steps, until an answer. Whoever drives it writes its end."""

    def __init__(self, plan: TurnPlan, journal: Journal, scheduling: Scheduling, clock: Clock) -> None:
        self.plan = plan
        self._journal = journal = TurnJournal(journal)
        self._scheduling = scheduling
        self._clock = clock
        self._doing = Doing(clock)
        self._note = self._doing.note
        self._calls = ModelCall(plan, journal, scheduling, clock, self._note)
        if plan.resume is not None:
            self._calls.usage.CopyFrom(plan.resume.usage)
            self._calls.errors.extend(plan.resume.errors)
        self.num_steps = 0
        self.has_started = plan.resume is not None
        """Whether its start has been submitted: from then on its messages stay in context (U-28)."""

    @property
    def usage(self) -> content_pb2.RunUsage:
        """What the turn has used so far."""
        return self._calls.usage

    @property
    def errors(self) -> Sequence[event_pb2.RunError]:
        """The errors that were overcome."""
        return self._calls.errors

    @property
    @abstractmethod
    def text(self) -> str:
        """The text of its last answer."""

    @property
    @abstractmethod
    def message_id(self) -> str:
        """The message that holds it."""

    @property
    @abstractmethod
    def finish_reason(self) -> content_pb2.FinishReason.ValueType:
        """Why the model stopped last."""

    @property
    def output_json(self) -> str:
        """The JSON of its last answer, where a schema was asked for and it matches."""
        return ""

    @property
    @abstractmethod
    def message_ids(self) -> Sequence[str]:
        """The messages that this turn has committed or will commit at its end, for a rollback."""

    @property
    @abstractmethod
    def covered_ids(self) -> Sequence[str]:
        """The messages that its summaries stand for."""

    def doing(self) -> tuple[str, float]:
        """What the turn does, and since when."""
        return self._doing.label, self._doing.since

    @abstractmethod
    async def run(self) -> None:
        """Run until the turn is concluded.

        Raises ProviderError where a model call fails, ContextExhaustedError where its context does not fit,
        TurnCancelledError where an abort came between steps.
        """

    @abstractmethod
    def write_end(self, draft: Draft) -> None:
        """Write the answer of the last step, and results for the calls that no tool will answer."""

    @abstractmethod
    def cut(
        self,
        draft: Draft,
        status: content_pb2.MessageStatus.ValueType,
        error: content_pb2.ErrorText | None = None,
        failure: ProviderError | None = None,
    ) -> None:
        """Write what there is of a turn that does not end by itself: its partial answer, marked, and its usage."""

    def abandon(self) -> None:
        """Write nothing more from inside: its owner writes the end."""
        self._journal.close()

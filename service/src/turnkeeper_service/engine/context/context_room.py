"""Keeps the context of a turn within its model's window: by a summary when it gets full, or when it does not fit."""

from __future__ import annotations

from collections.abc import Mapping

from turnkeeper_service.engine.journal import Journal
from turnkeeper_service.engine.plan import TurnPlan
from turnkeeper_service.engine.steps.model_call import ModelCall
from turnkeeper_service.providers.base import ProviderError
from turnkeeper_service.tools.base import OfferedTool

from .summarizer import TOO_LONG, NoSummaryError, Summarizer
from .summary import ContextExhaustedError, is_nearly_full, num_tokens, sizes

LEAST_SHARE = 4
"""A history that makes less than one part in so many of its context is not worth a summary: others fill it."""


class ContextRoom:
    """Decides for one turn when to summarise, and when that is of no use any more."""

    def __init__(self, plan: TurnPlan, journal: Journal, calls: ModelCall) -> None:
        self._plan = plan
        self._journal = journal
        self._calls = calls
        self.summarizer = Summarizer(plan, journal, calls.beside())
        self._made_before = -1
        """The step before which a summary was written last."""
        self._is_of_use = plan.is_summarized

    async def is_due(self, num_steps: int) -> bool:
        """Whether a summary is due before the next step (C-91): not twice without a step between."""
        if not self._is_of_use or self._made_before == num_steps:
            return False
        tokens = self._plan.context.num_tokens
        model = self._plan.models.choose()
        if model is None or not is_nearly_full(model.context_window, tokens):
            return False
        return num_tokens(await self._plan.context.history()) * LEAST_SHARE >= tokens

    async def make(self, num_steps: int, tools: Mapping[str, OfferedTool]) -> None:
        """Write a summary because the context gets full. Without one the turn goes on as long as there is any room.

        Raises ContextExhaustedError where there is none.
        """
        self._made_before = num_steps
        try:
            await self.summarizer.write(num_steps=num_steps)
        except (NoSummaryError, ProviderError) as error:
            self._is_of_use = False
            model = self._plan.models.choose()
            if model is not None and (model.context_window or 0) <= self._plan.context.num_tokens:
                raise ContextExhaustedError(f"{error}; {await self._sizes(tools)}") from error

    async def make_for(self, error: ProviderError, num_steps: int, tools: Mapping[str, OfferedTool]) -> None:
        """Write a summary because the model refused the open step's request as too long, and open its next attempt.

        Raises ContextExhaustedError where that was done for this step before, or gains nothing.
        """
        step = self._calls.step
        assert step is not None
        if not self._plan.is_summarized:
            why = "automatic summaries are off"
        elif self._made_before == num_steps:
            why = "a summary was written already"
        else:
            await self._calls.again(error, step.model, cause=TOO_LONG)
            self._made_before = num_steps
            try:
                await self.summarizer.write(num_steps=num_steps)
            except (NoSummaryError, ProviderError) as failure:
                detail = f"{error.detail.rstrip('.')}; no summary: {failure}; {await self._sizes(tools)}"
                raise ContextExhaustedError(detail) from failure
            return
        raise ContextExhaustedError(f"{error.detail.rstrip('.')}; {why}; {await self._sizes(tools)}") from error

    async def _sizes(self, tools: Mapping[str, OfferedTool]) -> str:
        return sizes(self._plan, await self._plan.context.history(), tools)

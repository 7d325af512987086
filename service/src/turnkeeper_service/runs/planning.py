"""What a run's turn is to do: by its session's settings as they are when it begins."""

from __future__ import annotations

import hashlib

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.abstract_turn import Turn
from turnkeeper_service.engine.context.summary import is_nearly_full
from turnkeeper_service.engine.plan import TurnPlan
from turnkeeper_service.engine.scheduling import Scheduling
from turnkeeper_service.engine.summary_turn import SummaryTurn
from turnkeeper_service.engine.turn import FloorTurn
from turnkeeper_service.runs.desks.approvals import ApprovalDesk, RunApprovals
from turnkeeper_service.runs.desks.detached_tools import DetachedTools
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.runs.turns.models import ModelDesk, RunModels
from turnkeeper_service.runs.turns.toolbox import why_withheld
from turnkeeper_service.tools.base import Toolbox

from .parts import Parts

OUTPUT_REPROMPTS = 2
"""So often an answer that does not match its schema is asked for again, unless the submission says otherwise (U-8)."""


class TurnPlanner:
    """Makes the turns of runs."""

    def __init__(
        self, parts: Parts, models: ModelDesk, toolbox: Toolbox, desk: ApprovalDesk, detached: DetachedTools
    ) -> None:
        self._parts = parts
        self._detached = detached
        self._models = models
        self._toolbox = toolbox
        self._desk = desk

    def turn(self, run: Run, turn_id: str, scheduling: Scheduling) -> Turn:
        """The floor turn of a run that begins or goes on."""
        plan = self._plan(run, turn_id)
        if run.kind == event_pb2.RUN_KIND_SUMMARY:
            return SummaryTurn(plan, run.session, scheduling, self._parts.clock)
        approvals = RunApprovals(self._desk, run, plan.turn_id)
        return FloorTurn(plan, run.session, scheduling, self._parts.clock, approvals)

    def may_begin(self, run: Run) -> bool:
        """Whether all that the first step of a prompt needs is there now, so that nothing has to be waited for."""
        connecting = self._toolbox.ready()
        if connecting is not None:
            connecting.close()
            return False
        model = self._model(run)
        if self._max_steps(run) == 0 or not self._models.is_ready(model):
            return False
        return not is_nearly_full(self._models.model(model).context_window, run.session.context.num_tokens)

    def _model(self, run: Run) -> str:
        return run.submission.model or run.session.settings.model or self._parts.options.default_model

    def _max_steps(self, run: Run) -> int:
        if run.submission.HasField("max_steps"):
            return run.submission.max_steps
        settings = run.session.settings
        return settings.max_steps if settings.HasField("max_steps") else self._parts.options.max_steps

    async def prepare(self, plan: TurnPlan) -> None:
        """Read what is needed to know its models."""
        await self._models.prepare(plan.model)

    def _plan(self, run: Run, turn_id: str) -> TurnPlan:
        options = self._parts.options
        session, submission = run.session, run.submission
        settings = session.settings
        model = self._model(run)
        parameters = content_pb2.ModelParameters()
        parameters.CopyFrom(settings.parameters)
        parameters.MergeFrom(submission.parameters)

        def is_offered(name: str) -> bool:
            # As the session is set now: tools change at the next step, the rest at the next run.
            return not why_withheld(session.settings, name)

        def is_pre_approved(name: str) -> bool:
            approved = {*session.settings.pre_approved_tools, *submission.pre_approved_tools}
            return name in approved or "*" in approved

        return TurnPlan(
            run_id=run.run_id,
            turn_id=turn_id,
            context=run.session.context,
            tenant=run.session.tenant,
            session_id=run.session.session_id,
            toolbox=self._toolbox,
            tool_filter=is_offered,
            is_pre_approved=is_pre_approved,
            tool_timeout=options.tool_timeout,
            max_tool_result_bytes=options.max_tool_result_bytes,
            cancel_grace=options.cancel_grace,
            detach=lambda work, call: self._detached.take(run, turn_id, work, call),
            prompt=run.prompt,
            model=model,
            models=RunModels(self._models, model),
            retry=options.retry,
            parameters=parameters,
            system_prompt=settings.system_prompt or options.default_system_prompt,
            prompt_prefix=settings.prompt_prefix,
            tool_choice=submission.tool_choice,
            output_schema_json=submission.output_schema_json,
            max_output_reprompts=(
                submission.max_output_reprompts if submission.HasField("max_output_reprompts") else OUTPUT_REPROMPTS
            ),
            output_reprompt=submission.output_reprompt,
            is_summarized=settings.auto_summarize if settings.HasField("auto_summarize") else options.is_summarized,
            max_steps=self._max_steps(run),
            max_steered_steps=options.max_steered_steps,
            max_answer_bytes=options.max_answer_bytes,
            session_hash=hashlib.sha256("\0".join(run.session.key).encode()).hexdigest()[:32],
            resume=run.resume,
        )

"""What a run's turn is to do: by its session's settings as they are when it begins."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.plan import TurnPlan
from turnkeeper_service.engine.scheduling import Scheduling
from turnkeeper_service.engine.summary_turn import SummaryTurn
from turnkeeper_service.engine.turn import FloorTurn
from turnkeeper_service.ids import short_id
from turnkeeper_service.tools.base import ToolAnswer, Toolbox

from .approvals import ApprovalDesk, RunApprovals
from .line import Line
from .models import ModelDesk, RunModels
from .run import Run
from .toolbox import why_withheld

Detach = Callable[[Run, str, asyncio.Task[ToolAnswer], content_pb2.ToolCall], None]
"""(run, turn_id, work, call): takes over a tool that ignores its cancel (U-12)."""

OUTPUT_REPROMPTS = 2
"""So often an answer that does not match its schema is asked for again, unless the submission says otherwise (U-8)."""


class TurnPlanner:
    """Makes the turns of runs."""

    def __init__(self, line: Line, models: ModelDesk, toolbox: Toolbox, desk: ApprovalDesk) -> None:
        self._line = line
        self._models = models
        self._toolbox = toolbox
        self._desk = desk

    def turn(self, run: Run, scheduling: Scheduling, detach: Detach) -> FloorTurn | SummaryTurn:
        """The floor turn of a run that begins or goes on."""
        plan = self._plan(run, detach)
        if run.kind == event_pb2.RUN_KIND_SUMMARY:
            return SummaryTurn(plan, run.session, scheduling, self._line.clock)
        approvals = RunApprovals(self._desk, run, plan.turn_id)
        return FloorTurn(plan, run.session, scheduling, self._line.clock, approvals)

    async def prepare(self, plan: TurnPlan) -> None:
        """Read what is needed to know its models."""
        await self._models.prepare(plan.model)

    def _plan(self, run: Run, detach: Detach) -> TurnPlan:
        options = self._line.options
        session, submission = run.session, run.submission
        settings = session.settings
        model = submission.model or settings.model or options.default_model
        parameters = content_pb2.ModelParameters()
        parameters.CopyFrom(settings.parameters)
        parameters.MergeFrom(submission.parameters)
        if submission.HasField("max_steps"):
            max_steps = submission.max_steps
        else:
            max_steps = settings.max_steps if settings.HasField("max_steps") else options.max_steps
        turn_id = run.resume_turn_id or short_id("turn")

        def is_offered(name: str) -> bool:
            # As the session is set now: tools change at the next step, the rest at the next run.
            return not why_withheld(session.settings, name)

        def is_pre_approved(name: str) -> bool:
            approved = {*session.settings.pre_approved_tools, *submission.pre_approved_tools}
            return name in approved or "*" in approved

        return TurnPlan(
            run_id=run.run_id,
            turn_id=turn_id,
            tenant=run.session.tenant,
            session_id=run.session.session_id,
            toolbox=self._toolbox,
            tool_filter=is_offered,
            is_pre_approved=is_pre_approved,
            tool_timeout=options.tool_timeout,
            max_tool_result_bytes=options.max_tool_result_bytes,
            cancel_grace=options.cancel_grace,
            detach=lambda work, call: detach(run, turn_id, work, call),
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
            max_steps=max_steps,
            max_steered_steps=options.max_steered_steps,
            max_answer_bytes=options.max_answer_bytes,
            session_hash=hashlib.sha256("\0".join(run.session.key).encode()).hexdigest()[:32],
            resume=run.resume,
        )

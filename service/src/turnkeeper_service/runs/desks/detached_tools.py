"""Tools that ignore their cancel: let go of, and awaited; what they say in the end is recorded and never applied."""

from __future__ import annotations

import asyncio

import structlog

from turnkeeper.v1 import content_pb2
from turnkeeper_service.runs.parts import Parts
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.tools.base import ToolAnswer

from .late_results import LateResults

log = structlog.get_logger(__name__)


class DetachedTools:
    """Takes them over (U-12)."""

    def __init__(self, parts: Parts, late: LateResults) -> None:
        self._parts = parts
        self._late = late

    def take(self, run: Run, turn_id: str, work: asyncio.Task[ToolAnswer], call: content_pb2.ToolCall) -> None:
        """Take over what still runs of a call that is over."""
        if not work.done():
            log.warning("a tool ignores its cancel and is detached", run_id=run.run_id, tool=call.name)
        if not work.cancelled():
            self._parts.owner.spawn(f"detached tool {call.name}", self._reap(run, turn_id, work, call))

    async def _reap(self, run: Run, turn_id: str, work: asyncio.Task[ToolAnswer], call: content_pb2.ToolCall) -> None:
        """Wait for a tool that was detached. What it raises is nobody's any more."""
        try:
            await asyncio.wait({work})
        finally:
            if not work.done():
                # The server closes; its owner decides how long it waits for us.
                work.cancel()
                await asyncio.wait({work})
        if work.cancelled() or work.exception() is not None:
            return
        result = work.result().result
        result.tool_call_id, result.name = call.tool_call_id, call.name
        self._late.record(run.session.tenant, run.session.session_id, run.run_id, turn_id, result)

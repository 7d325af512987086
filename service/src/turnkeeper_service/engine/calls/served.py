"""Who serves the tools of a step from outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from turnkeeper.v1 import event_pb2
from turnkeeper_service.engine.plan import Resume, TurnPlan
from turnkeeper_service.engine.scheduling import Scheduling
from turnkeeper_service.tools.base import OfferedTool

MAX_WAIT_SECONDS = 30.0
"""How long after a restart a step waits at most for those who served its tools."""


def holders_of(tools: Mapping[str, OfferedTool]) -> Iterator[event_pb2.ToolHolder]:
    """The clients and workers that serve some of these tools, each once."""
    graces = {tool.executor_name: tool.reconnect_grace for tool in tools.values() if tool.reconnect_grace is not None}
    for name, grace in graces.items():
        holder = event_pb2.ToolHolder(name=name)
        holder.reconnect_grace.FromNanoseconds(int(grace * 1e9))
        yield holder


async def holders_back(plan: TurnPlan, resume: Resume, scheduling: Scheduling) -> None:
    """The first step after a restart is to have the tools that the last one had: wait for those who served them.

    Others run meanwhile (U-3).
    """
    for name, grace in resume.holders.items():
        wait = scheduling.wait("tool", f"client {name}")
        await plan.toolbox.holder_returned(plan.tenant, plan.session_id, name, min(grace, MAX_WAIT_SECONDS))
        wait.end()
        permit = scheduling.permit()
        if permit is not None:
            await permit

"""What tools there are for a session, also those that its model is not told of."""

from __future__ import annotations

from turnkeeper.v1 import session_service_pb2
from turnkeeper.v1 import tool_service_pb2 as pb
from turnkeeper_service.providers.base import ToolDefinition
from turnkeeper_service.runs.session.table import SessionTable
from turnkeeper_service.runs.turns.models import ModelDesk
from turnkeeper_service.runs.turns.toolbox import SessionToolbox, why_withheld
from turnkeeper_service.tools.base import SERVER

MAX_DESCRIPTION = 500
MAX_TOOLS = 10_000
"""More are not told of, so that the list can be sent."""


class ToolList:
    """Lists tools."""

    def __init__(self, table: SessionTable, models: ModelDesk, toolbox: SessionToolbox, default_model: str) -> None:
        self._table = table
        self._models = models
        self._toolbox = toolbox
        self._default_model = default_model

    async def of(self, tenant: str, session_id: str, model: str) -> pb.ListToolsResponse:
        """The tools of a session for its model, unless one is named; without either, for all providers.

        Raises Refused SESSION_NOT_FOUND.
        """
        settings = session_service_pb2.SessionSettings()
        if session_id:
            async with self._table.pin(tenant, session_id) as session:
                settings.CopyFrom(session.settings)
            model = model or settings.model or self._default_model
        response = pb.ListToolsResponse(model=model)
        unoffered = self._toolbox.left_out()
        offered = self._toolbox.tools(tenant, session_id)
        for name in sorted({*unoffered, *offered})[:MAX_TOOLS]:
            one = offered.get(name)
            if one is None:
                response.tools.add(name=name, executor=SERVER, left_out=unoffered[name])
                continue
            tool = one.tool
            why = why_withheld(settings, name) or self._models.why_untold(
                response.model, ToolDefinition(name, tool.description, tool.input_schema_json)
            )
            response.tools.add(
                name=name, description=tool.description[:MAX_DESCRIPTION], executor=one.executor_name, left_out=why
            )
        return response

"""Results of tools that come after their call was closed: recorded, never applied (U-12)."""

from __future__ import annotations

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.errors import Refused
from turnkeeper_service.runs.parts import Parts
from turnkeeper_service.runs.session.table import SessionTable
from turnkeeper_service.store.errors import StoreCorruptError
from turnkeeper_service.tools.base import text_result


class LateResults:
    """Records them, beside whatever their session does meanwhile."""

    def __init__(self, parts: Parts, table: SessionTable) -> None:
        self._parts = parts
        self._table = table

    def record(self, tenant: str, session_id: str, run_id: str, turn_id: str, result: content_pb2.ToolResult) -> None:
        """Record one; nothing any more once the server is cut."""
        if self._parts.is_cut:
            return
        limit = self._parts.options.max_tool_result_bytes
        if result.ByteSize() > limit:
            call = content_pb2.ToolCall(tool_call_id=result.tool_call_id, name=result.name)
            result = text_result(call, f"the result is longer than {limit} bytes and was left out", is_error=True)
        event = event_pb2.Event(run_id=run_id, turn_id=turn_id)
        event.tool_call_late_result.result.CopyFrom(result)
        self._parts.owner.spawn(f"late result of {run_id}", self._write(tenant, session_id, event))

    async def _write(self, tenant: str, session_id: str, event: event_pb2.Event) -> None:
        try:
            async with self._table.pin(tenant, session_id) as session:
                if session.is_active:
                    event.context_id = session.context.context_id
                    draft = session.draft()
                    draft.event(event)
                    await session.submit(draft)
        except (Refused, StoreCorruptError):
            # The session is gone, or cannot be read, and the result with it (U-18).
            return

"""Items of the ``openai-responses`` format that the provider alone understands, and what is kept beside parts."""

from __future__ import annotations

import msgspec

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import PartKind
from turnkeeper_service.providers.formats.assembly import OpenPart

from .schema import OwnTool

ITEM = "item"
"""Provider detail: an item as JSON, to go back unchanged: the provider's own tools, a compaction and the like."""
ITEM_ID = "item_id"
"""Provider detail of reasoning: the item that it is part of."""
OPEN_REASONING = "open_reasoning"
"""Provider detail of reasoning that came in full, not as a summary, and goes back so."""
PHASE = "phase"
"""Provider detail of a text: the phase that the model said it in."""
ANNOTATIONS = "annotations"
"""Provider detail of a text: its annotations as a JSON list."""


def own_part(raw: msgspec.Raw, tool: OwnTool) -> tuple[OpenPart | None, str]:
    """The part that an item becomes, and its arguments; none for an item that says nothing yet."""
    kept = bytes(raw).decode()
    if tool.type.endswith("_call"):
        name = tool.name or tool.type.removesuffix("_call")
        part = OpenPart(PartKind.TOOL_CALL, name, tool.id or "", is_provider_executed=True)
        part.details[ITEM] = kept
        return part, _arguments(tool)
    if tool.type == "mcp_list_tools" and tool.tools is None:
        # Seen where a list of tools was never filled in; sent back so it would be refused.
        return None, ""
    content = content_pb2.Part()
    content.provider_details.fields[ITEM].string_value = kept
    return OpenPart(PartKind.PROVIDER, tool.type, content=content), ""


def _arguments(tool: OwnTool) -> str:
    if isinstance(tool.arguments, str):
        return tool.arguments
    for value in (tool.arguments, tool.action):
        if isinstance(value, dict):
            return msgspec.json.encode(value).decode()
    shown = {"code": tool.code, "queries": tool.queries}
    return msgspec.json.encode({key: value for key, value in shown.items() if value is not None}).decode()

"""Between MCP and us: how its tools are offered, and what their results become."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping

import mcp_types

from turnkeeper.v1 import content_pb2, tool_service_pb2
from turnkeeper_service.tools.base import Tool, text_of

from .options import McpOptions

MAX_NAME = 64
WANTS_POLLING = "it answers with a task to poll"
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")


def offers(options: McpOptions, listed: Iterable[mcp_types.Tool]) -> Mapping[str, tuple[Tool, str]]:
    """The tools that are offered, by the names that models see, each with the server's own name for it."""
    found: dict[str, tuple[Tool, str]] = {}
    for one in listed:
        if not _wants_polling(one):
            name = offered_name(options.prefix, one.name)
            found.setdefault(name, (_tool(options, name, one), one.name))
    return found


def left_out(options: McpOptions, listed: Iterable[mcp_types.Tool], unusable: Mapping[str, str]) -> Mapping[str, str]:
    """The tools that are not offered, by the names that models would see, each with why."""
    polled = {one.name: WANTS_POLLING for one in listed if _wants_polling(one)}
    return {offered_name(options.prefix, name): why for name, why in {**unusable, **polled}.items()}


def _wants_polling(listed: mcp_types.Tool) -> bool:
    """Whether a tool answers with a task to poll, which nothing here does."""
    return listed.execution is not None and listed.execution.task_support == "required"


def offered_name(prefix: str, name: str) -> str:
    """The name that models see. One that has to be changed ends with a digest, so that no two become one."""
    whole = prefix + name
    plain = _NOT_IN_A_NAME.sub("_", whole)
    if plain == whole and len(whole) <= MAX_NAME:
        return whole
    digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{plain[: MAX_NAME - 9]}_{digest}"


def _tool(options: McpOptions, name: str, listed: mcp_types.Tool) -> Tool:
    hints = listed.annotations
    is_replay_safe = options.replay == "safe" or (
        options.replay == "hinted" and hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)
    )
    approval = options.needs_approval
    tool = Tool(
        name=name,
        description=text_of(listed.description or listed.title or ""),
        input_schema_json=json.dumps(listed.input_schema),
        replay_class=replay_class(is_replay_safe),
        is_parallel=options.is_parallel,
        needs_approval=approval if isinstance(approval, bool) else listed.name in approval,
    )
    if options.timeout is not None:
        tool.timeout.FromNanoseconds(int(options.timeout * 1e9))
    return tool


def replay_class(is_safe: bool) -> tool_service_pb2.ReplayClass.ValueType:
    """May a call be run again after a crash?"""
    return tool_service_pb2.REPLAY_CLASS_SAFE if is_safe else tool_service_pb2.REPLAY_CLASS_NEVER


def result_of(call: content_pb2.ToolCall, given: mcp_types.CallToolResult) -> content_pb2.ToolResult:
    """A result as messages hold it, of what `mcp_answers` made of the server's."""
    result = content_pb2.ToolResult(tool_call_id=call.tool_call_id, name=call.name, is_error=given.is_error)
    result.content.extend(_part(block) for block in given.content)
    return result


def _part(block: mcp_types.ContentBlock) -> content_pb2.Part:
    match block:
        case mcp_types.TextContent():
            return content_pb2.Part(text=content_pb2.Text(text=text_of(block.text)))
        case mcp_types.ImageContent():
            return _media(block.mime_type, block.data)
        case mcp_types.EmbeddedResource(resource=mcp_types.BlobResourceContents() as resource):
            return _media(resource.mime_type or "", resource.blob, str(resource.uri).rpartition("/")[2])
    raise ValueError(f"content of an unknown kind: {type(block).__name__}")


def _media(mime_type: str, data: str, name: str = "") -> content_pb2.Part:
    media = content_pb2.Media(mime_type=mime_type, data=base64.b64decode(data), name=text_of(name))
    return content_pb2.Part(media=media)

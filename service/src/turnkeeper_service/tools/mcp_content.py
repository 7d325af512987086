"""Between MCP and us: how its tools are offered, and what their results become."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping

import mcp_types

from turnkeeper.v1 import content_pb2, tool_service_pb2

from .base import Tool
from .mcp_options import McpOptions

MAX_NAME = 64
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")


def offers(options: McpOptions, listed: Iterable[mcp_types.Tool]) -> Mapping[str, tuple[Tool, str]]:
    """The tools that are offered, by the names that models see, each with the server's own name for it."""
    found: dict[str, tuple[Tool, str]] = {}
    for one in listed:
        if one.execution is not None and one.execution.task_support == "required":
            # Such a tool answers with a task to poll, which nothing here does.
            continue
        name = offered_name(options.prefix, one.name)
        found.setdefault(name, (_tool(options, name, one), one.name))
    return found


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
    """A result as messages hold it. Raises ValueError where its content cannot be read."""
    result = content_pb2.ToolResult(tool_call_id=call.tool_call_id, name=call.name, is_error=given.is_error)
    result.content.extend(_part(block) for block in given.content)
    if not result.content and given.structured_content is not None:
        result.content.add().text.text = text_of(json.dumps(given.structured_content, ensure_ascii=False))
    return result


def _part(block: mcp_types.ContentBlock) -> content_pb2.Part:
    match block:
        case mcp_types.TextContent():
            return _text(block.text)
        case mcp_types.ImageContent() | mcp_types.AudioContent():
            return _media(block.mime_type, block.data)
        case mcp_types.ResourceLink():
            return _text("\n".join(filter(None, [f"{block.title or block.name}: {block.uri}", block.description])))
        case mcp_types.EmbeddedResource(resource=mcp_types.TextResourceContents() as resource):
            return _text(resource.text)
        case mcp_types.EmbeddedResource(resource=mcp_types.BlobResourceContents() as resource):
            name = str(resource.uri).rpartition("/")[2]
            return _media(resource.mime_type or "application/octet-stream", resource.blob, name)
    raise ValueError(f"content of an unknown kind: {type(block).__name__}")


def _text(text: str) -> content_pb2.Part:
    return content_pb2.Part(text=content_pb2.Text(text=text_of(text)))


def _media(mime_type: str, data: str, name: str = "") -> content_pb2.Part:
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error:
        raise ValueError(f"the {mime_type} in it is not base64") from None
    return content_pb2.Part(media=content_pb2.Media(mime_type=mime_type, data=content, name=text_of(name)))


def text_of(text: str) -> str:
    """A text that every message can hold: UTF-8 without NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")

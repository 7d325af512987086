"""Builds ``openai-responses`` requests: the conversation goes along every time, the vendor keeps nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import ModelRequest, ToolDefinition
from turnkeeper_service.providers.facts.media import fit_media
from turnkeeper_service.providers.facts.media_types import IMAGES
from turnkeeper_service.providers.formats.call_ids import CallIds
from turnkeeper_service.providers.formats.openai_content import Json, build_content, items_of, place_schema
from turnkeeper_service.providers.formats.tool_names import NameRule, ToolNames
from turnkeeper_service.providers.formats.tool_schemas import SchemaRule, fitted_tools
from turnkeeper_service.providers.formats.wire_json import (
    data_uri,
    detail,
    encode,
    is_written_by,
    merge_options,
    raw,
    struct_to_json,
)
from turnkeeper_service.providers.options import ProviderOptions

from .items import ANNOTATIONS, ITEM, ITEM_ID, OPEN_REASONING, PHASE

NAMES = NameRule()
SCHEMAS = SchemaRule()
SEALED_REASONING = "reasoning.encrypted_content"
_TEXT = "input_text"


def build_body(request: ModelRequest, options: ProviderOptions, names: ToolNames | None = None) -> bytes:
    """The request's JSON. Options of the caller's for this provider win, save over the model, input and stream."""
    names = names or ToolNames(NAMES, request.tools)
    parameters = request.parameters
    given = struct_to_json(parameters.provider_options)
    request, schema = place_schema(request)
    body: Json = {"store": False}
    if request.system:
        body["instructions"] = request.system
    if parameters.HasField("max_output_tokens"):
        body["max_output_tokens"] = parameters.max_output_tokens
    # The format has no stop texts, penalties or top_k; a server that takes them gets them as provider options.
    for name in ("temperature", "top_p"):
        if parameters.HasField(name):
            body[name] = getattr(parameters, name)
    if tools := fitted_tools(request.tools, SCHEMAS, options.name):
        body["tools"] = [_tool(tool, names) for tool in tools]
        body["tool_choice"] = _tool_choice(request.tool_choice, names)
    if schema is not None:
        body["text"] = {"format": {"type": "json_schema", **schema}}
    if request.capabilities.is_reasoning or "reasoning" in given:
        # Models that do not reason refuse to be asked for it.
        body["include"] = [SEALED_REASONING]
    merge_options(body, given)
    body["model"] = request.model
    body["input"] = build_input(request, options.name, names)
    body["stream"] = True
    return encode(body)


def build_input(request: ModelRequest, provider: str, names: ToolNames) -> list[Any]:
    """The conversation as items, neighbours of one role as one message."""
    items: list[Any] = []
    ids = CallIds()
    for message in fit_media(request, is_inside=True, says=_has_place_for):
        if message.role == content_pb2.ROLE_ASSISTANT:
            said = _assistant(message.parts, is_written_by(message, provider, request.model), ids, names)
            if items and said and _is_one_message(items[-1], said[0]):
                items[-1]["content"] += said.pop(0)["content"]
            items += said
        elif message.role == content_pb2.ROLE_TOOL:
            for part in message.parts:
                if part.HasField("tool_result"):
                    items.append(_result(part.tool_result, ids))
        else:
            content = _content(message.parts)
            if content:
                role = "system" if message.role == content_pb2.ROLE_SYSTEM else "user"
                last = items[-1] if items else None
                if isinstance(last, dict) and last.get("role") == role:
                    last["content"] = [*items_of(last["content"], _TEXT), *items_of(content, _TEXT)]
                else:
                    items.append({"role": role, "content": content})
    return items


def _assistant(parts: Sequence[content_pb2.Part], is_own: bool, ids: CallIds, names: ToolNames) -> list[Any]:
    items: list[Any] = []
    for part in parts:
        kind = part.WhichOneof("part")
        item = detail(part, ITEM)
        if item:
            if is_own:
                items.append(raw(item))
        elif kind == "text" and part.text.text:
            _add_text(items, part, is_own)
        elif kind == "tool_call" and not part.tool_call.is_provider_executed:
            call = part.tool_call
            items.append(
                {
                    "type": "function_call",
                    "call_id": ids.of_call(call.tool_call_id, is_own=is_own),
                    "name": names.sent(call.name),
                    "arguments": call.arguments_json or "{}",
                }
            )
        elif kind == "reasoning" and is_own:
            _add_reasoning(items, part)
    # Reasoning is refused without what it led to, and without its seal unless it is in plain sight.
    items = [item for item in items if not _is_reasoning(item) or "encrypted_content" in item or "content" in item]
    while items and _is_reasoning(items[-1]):
        items.pop()
    return items


def _is_one_message(first: Any, second: Any) -> bool:
    """Whether two items are what the model said in two answers without anything between them."""
    return all(isinstance(one, dict) and one.get("role") == "assistant" for one in (first, second)) and (
        first.get("phase") == second.get("phase")
    )


def _add_text(items: list[Any], part: content_pb2.Part, is_own: bool) -> None:
    text: Json = {"type": "output_text", "text": part.text.text}
    phase = detail(part, PHASE) if is_own else ""
    annotations = detail(part, ANNOTATIONS) if is_own else ""
    if annotations:
        text["annotations"] = raw(annotations)
    last = items[-1] if items else None
    if isinstance(last, dict) and last.get("role") == "assistant" and last.get("phase", "") == phase:
        last["content"].append(text)
        return
    message: Json = {"role": "assistant", "content": [text]}
    if phase:
        message["phase"] = phase
    items.append(message)


def _add_reasoning(items: list[Any], part: content_pb2.Part) -> None:
    """Parts of one item become one item again."""
    item_id = detail(part, ITEM_ID)
    last = items[-1] if items else None
    if not isinstance(last, dict) or not _is_reasoning(last) or last.get("id", "") != item_id:
        last = {"type": "reasoning", **({"id": item_id} if item_id else {}), "summary": []}
        items.append(last)
    if part.reasoning.signature:
        last["encrypted_content"] = part.reasoning.signature.decode(errors="replace")
    text = part.reasoning.text
    if text and detail(part, OPEN_REASONING):
        last.setdefault("content", []).append({"type": "reasoning_text", "text": text})
    elif text:
        last["summary"].append({"type": "summary_text", "text": text})


def _is_reasoning(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "reasoning"


def _result(result: content_pb2.ToolResult, ids: CallIds) -> Json:
    output = _content(result.content) or ""
    return {"type": "function_call_output", "call_id": ids.of_result(result.tool_call_id), "output": output}


def _content(parts: Iterable[content_pb2.Part]) -> str | list[Json]:
    return build_content(parts, _TEXT, _media)


def _has_place_for(mime_type: str) -> bool:
    return mime_type in IMAGES or not mime_type.startswith(("audio/", "video/", "image/"))


def _media(media: content_pb2.Media) -> Json:
    if media.mime_type.startswith("image/"):
        return {"type": "input_image", "image_url": data_uri(media)}
    if media.uri:
        return {"type": "input_file", "file_url": media.uri}
    return {"type": "input_file", "filename": media.name or "file", "file_data": data_uri(media)}


def _tool(tool: ToolDefinition, names: ToolNames) -> Json:
    # Strict is the format's default and takes only some schemas.
    schema: msgspec.Raw = raw(tool.input_schema_json)
    return {
        "type": "function",
        "name": names.sent(tool.name),
        "description": tool.description,
        "parameters": schema,
        "strict": False,
    }


def _tool_choice(choice: str, names: ToolNames) -> str | Json:
    return choice if choice in ("auto", "none", "required") else {"type": "function", "name": names.sent(choice)}

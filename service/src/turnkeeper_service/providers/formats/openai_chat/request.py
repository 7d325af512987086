"""Builds ``openai-chat`` requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

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
    base64_text,
    data_uri,
    detail,
    encode,
    is_written_by,
    merge_options,
    raw,
    struct_to_json,
)
from turnkeeper_service.providers.options import ProviderOptions

from .decode import REASONING_DETAILS, REASONING_FIELD

NAMES = NameRule()
SCHEMAS = SchemaRule()
_MAX_ID = 40
_AUDIO = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}


def build_body(request: ModelRequest, options: ProviderOptions, names: ToolNames | None = None) -> bytes:
    """The request's JSON. Options of the caller's for this provider win, save over the model, messages and stream."""
    names = names or ToolNames(NAMES, request.tools)
    parameters = request.parameters
    body: Json = {}
    if parameters.HasField("max_output_tokens"):
        body[options.max_tokens_field] = parameters.max_output_tokens
    for name in ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty"):
        if parameters.HasField(name):
            body[name] = getattr(parameters, name)
    if parameters.stop:
        body["stop"] = list(parameters.stop)
    if tools := fitted_tools(request.tools, SCHEMAS, options.name):
        body["tools"] = [_tool(tool, names) for tool in tools]
        body["tool_choice"] = _tool_choice(request.tool_choice, names)
    request, schema = place_schema(request)
    if schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if options.is_usage_requested:
        body["stream_options"] = {"include_usage": True}
    merge_options(body, struct_to_json(parameters.provider_options))
    body["model"] = request.model
    body["messages"] = build_messages(request, options.name, names)
    body["stream"] = True
    return encode(body)


def build_messages(request: ModelRequest, provider: str, names: ToolNames) -> list[Json]:
    """The conversation, neighbours of one role as one message: some vendors want user and assistant to alternate.

    Media of tool results follow behind the last result, so that results stay with their calls.
    """
    messages: list[Json] = []
    if request.system:
        messages.append({"role": "system", "content": request.system})
    answers_before_loop = _answers_before_tool_loop(request.messages)
    num_answers = 0
    ids = CallIds(max_length=_MAX_ID, is_numbered=False)
    for message in fit_media(request, is_inside=False, says=_has_place_for):
        if message.role == content_pb2.ROLE_ASSISTANT:
            own = is_written_by(message, provider, request.model)
            built = _assistant(message, own, num_answers >= answers_before_loop, ids, names)
            num_answers += 1
            if built is not None:
                _add(messages, built)
        elif message.role == content_pb2.ROLE_TOOL:
            messages.extend(_results(message, ids))
        else:
            content = _content(message.parts)
            if content:
                role = "system" if message.role == content_pb2.ROLE_SYSTEM else "user"
                _add(messages, {"role": role, "content": content})
    return messages


def _add(messages: list[Json], message: Json) -> None:
    """Add a message, or put it into its neighbour of the same role. Calls have their results between."""
    last = messages[-1] if messages else None
    if last is None or last["role"] != message["role"] or last.get("tool_calls"):
        messages.append(message)
        return
    for key, value in message.items():
        there = last.get(key)
        if key == "role":
            continue
        if not there or not value:
            last[key] = value or there
        elif key == "content" and isinstance(there, str) and isinstance(value, str):
            # Not a list: the servers that are strict about roles often take texts alone.
            last[key] = f"{there}\n\n{value}"
        elif key == "content":
            last[key] = [*items_of(there, "text"), *items_of(value, "text")]
        else:
            last[key] = there + value


def _answers_before_tool_loop(messages: Sequence[content_pb2.Message]) -> int:
    roles = [message.role for message in messages]
    last_prompt = max((number for number, role in enumerate(roles) if role == content_pb2.ROLE_USER), default=0)
    return roles[:last_prompt].count(content_pb2.ROLE_ASSISTANT)


def _assistant(
    message: content_pb2.Message, is_own: bool, is_in_loop: bool, ids: CallIds, names: ToolNames
) -> Json | None:
    texts: list[str] = []
    calls: list[Json] = []
    built: Json = {"role": "assistant"}
    thinking: list[Json] = []
    for part in message.parts:
        kind = part.WhichOneof("part")
        if kind == "text":
            texts.append(part.text.text)
        elif kind == "tool_call" and not part.tool_call.is_provider_executed:
            call_id = ids.of_call(part.tool_call.tool_call_id, is_own=is_own)
            function = {"name": names.sent(part.tool_call.name), "arguments": part.tool_call.arguments_json or "{}"}
            calls.append({"id": call_id, "type": "function", "function": function})
        elif kind == "reasoning" and is_own:
            _add_reasoning(built, thinking, part, is_in_loop)
    text = "".join(texts)
    if not text and not calls:
        return None
    if thinking:
        built["content"] = [*thinking, {"type": "text", "text": text}] if text else thinking
    else:
        built["content"] = text or None
    if calls:
        built["tool_calls"] = calls
    return built


def _add_reasoning(built: Json, thinking: list[Json], part: content_pb2.Part, is_in_loop: bool) -> None:
    """Reasoning goes back the way it came: structured always, plain only while its tool calls are being answered."""
    details = detail(part, REASONING_DETAILS)
    if details:
        built.setdefault("reasoning_details", []).extend(msgspec.json.decode(details, type=list[msgspec.Raw]))
    field = detail(part, REASONING_FIELD)
    text = part.reasoning.text
    if not is_in_loop or not text:
        return
    if field == "thinking":
        thinking.append({"type": "thinking", "thinking": [{"type": "text", "text": text}]})
    elif field:
        built[field] = built.get(field, "") + text


def _results(message: content_pb2.Message, ids: CallIds) -> Iterator[Json]:
    for part in message.parts:
        if part.WhichOneof("part") != "tool_result":
            continue
        result = part.tool_result
        content = _content(result.content) or ""
        if isinstance(content, list) and not any(item["type"] != "text" for item in content):
            content = "".join(item["text"] for item in content)
        yield {"role": "tool", "tool_call_id": ids.of_result(result.tool_call_id), "content": content}


def _content(parts: Iterable[content_pb2.Part]) -> str | list[Json]:
    return build_content(parts, "text", _media)


def _has_place_for(mime_type: str) -> bool:
    return mime_type in IMAGES or mime_type in _AUDIO or mime_type == "application/pdf"


def _media(media: content_pb2.Media) -> Json:
    if media.mime_type.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": data_uri(media)}}
    if media.mime_type in _AUDIO and media.data:
        return {"type": "input_audio", "input_audio": {"data": base64_text(media), "format": _AUDIO[media.mime_type]}}
    return {"type": "file", "file": {"filename": media.name or "file", "file_data": data_uri(media)}}


def _tool(tool: ToolDefinition, names: ToolNames) -> Json:
    function = {
        "name": names.sent(tool.name),
        "description": tool.description,
        "parameters": raw(tool.input_schema_json),
    }
    return {"type": "function", "function": function}


def _tool_choice(choice: str, names: ToolNames) -> str | Json:
    if choice in ("auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": names.sent(choice)}}

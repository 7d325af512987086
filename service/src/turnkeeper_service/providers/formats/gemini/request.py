"""Builds ``gemini`` requests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import ModelRequest, ToolDefinition
from turnkeeper_service.providers.facts.media import fit_media
from turnkeeper_service.providers.formats.output_schema import in_prompt
from turnkeeper_service.providers.formats.summary import summary_text
from turnkeeper_service.providers.formats.tool_names import NameRule, ToolNames
from turnkeeper_service.providers.formats.tool_schemas import SchemaRule, fitted_tools
from turnkeeper_service.providers.formats.wire_json import (
    base64_text,
    detail,
    encode,
    is_written_by,
    merge_options,
    raw,
    struct_to_json,
)
from turnkeeper_service.providers.options import ProviderOptions

from .decode import CALL_ID, OWN, SIGNATURE

NAMES = NameRule(begin="a-zA-Z_", max_length=63)
SCHEMAS = SchemaRule(takes_capitals=True)
_TAKES_BOTH = re.compile(r"gemini-(?:[3-9]|[1-9]\d)")
"""Models that take tools beside a schema of the answer; those before refuse a request with both."""
_IMAGES = frozenset(("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"))
_UNSIGNED = "skip_thought_signature_validator"
"""What the vendor wants on a call that another model made; its newer models refuse calls without a signature."""
_SAMPLING = {
    "max_output_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
}
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
Json = dict[str, Any]


def build_body(request: ModelRequest, options: ProviderOptions, names: ToolNames | None = None) -> bytes:
    """The request's JSON. Options of the caller's for this provider win, save over the contents."""
    names = names or ToolNames(NAMES, request.tools)
    parameters = request.parameters
    given = struct_to_json(parameters.provider_options)
    tools = fitted_tools(request.tools, SCHEMAS, options.name)
    if request.output_schema_json and (tools or given.get("tools")) and not _TAKES_BOTH.search(request.model):
        request = in_prompt(request)
    body: Json = {}
    if request.system:
        body["systemInstruction"] = {"role": "user", "parts": [{"text": request.system}]}
    config: Json = {}
    for name in ("max_output_tokens", "temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty"):
        if parameters.HasField(name):
            config[_SAMPLING[name]] = getattr(parameters, name)
    if parameters.stop:
        config["stopSequences"] = list(parameters.stop)
    if request.output_schema_json:
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = raw(request.output_schema_json)
    if config:
        body["generationConfig"] = config
    if tools:
        body["tools"] = [{"functionDeclarations": [_tool(tool, names) for tool in tools]}]
        body["toolConfig"] = {"functionCallingConfig": _tool_choice(request.tool_choice, names)}
    merge_options(body, given)
    # The model and the wish for a stream stand in the path.
    for key in ("model", "stream"):
        body.pop(key, None)
    body["contents"] = build_contents(request, options.name, names)
    return encode(body)


def build_contents(request: ModelRequest, provider: str, names: ToolNames) -> list[Json]:
    """The conversation, alternating between user and model, results in the order of their calls."""
    contents: list[Json] = []
    # Ids that the vendor gave, by the call's id; a result names its call by it, or else by order alone.
    vendor_ids: dict[str, str] = {}
    order: dict[str, int] = {}
    results: list[content_pb2.ToolResult] = []
    for message in fit_media(request, is_inside=False, says=_has_place_for):
        if message.role == content_pb2.ROLE_TOOL:
            results += [part.tool_result for part in message.parts if part.HasField("tool_result")]
            continue
        _add(contents, "user", _results(results, order, vendor_ids, names))
        results = []
        if message.role == content_pb2.ROLE_ASSISTANT:
            is_own = is_written_by(message, provider, request.model)
            _note_calls(message, is_own, order, vendor_ids)
            _add(contents, "model", list(_answer(message, is_own, names)))
        else:
            _add(contents, "user", list(_prompt(message.parts)))
    _add(contents, "user", _results(results, order, vendor_ids, names))
    return contents


def _add(contents: list[Json], role: str, parts: list[Any]) -> None:
    if not parts:
        return
    if contents and contents[-1]["role"] == role:
        contents[-1]["parts"].extend(parts)
    else:
        contents.append({"role": role, "parts": parts})


def _note_calls(message: content_pb2.Message, is_own: bool, order: dict[str, int], vendor_ids: dict[str, str]) -> None:
    for part in message.parts:
        if part.HasField("tool_call"):
            call_id = part.tool_call.tool_call_id
            order[call_id] = len(order)
            vendor_ids[call_id] = detail(part, CALL_ID) if is_own else ""


def _answer(message: content_pb2.Message, is_own: bool, names: ToolNames) -> Iterator[Any]:
    has_called = False
    for part in message.parts:
        kind = part.WhichOneof("part")
        own = detail(part, OWN)
        signature = detail(part, SIGNATURE) if is_own else ""
        built: Json = {}
        if own:
            if is_own:
                yield raw(own)
        elif kind == "text" and (part.text.text or signature):
            built = {"text": part.text.text}
        elif kind == "reasoning" and is_own and part.reasoning.signature:
            signature = part.reasoning.signature.decode(errors="replace")
            built = {"text": part.reasoning.text, "thought": True}
        elif kind == "media" and is_own:
            built = _media(part.media)
        elif kind == "tool_call" and not part.tool_call.is_provider_executed:
            call: Json = {"name": names.sent(part.tool_call.name), "args": raw(part.tool_call.arguments_json)}
            vendor_id = detail(part, CALL_ID) if is_own else ""
            if vendor_id:
                call["id"] = vendor_id
            if not is_own and not has_called:
                signature = _UNSIGNED
            has_called = True
            built = {"functionCall": call}
        if built:
            if signature:
                built["thoughtSignature"] = signature
            yield built


def _prompt(parts: Iterable[content_pb2.Part]) -> Iterator[Json]:
    for part in parts:
        kind = part.WhichOneof("part")
        if kind == "text" and part.text.text:
            yield {"text": part.text.text}
        elif kind == "summary" and part.summary.text:
            yield {"text": summary_text(part.summary)}
        elif kind == "media":
            yield _media(part.media)


def _results(
    results: list[content_pb2.ToolResult], order: dict[str, int], vendor_ids: dict[str, str], names: ToolNames
) -> list[Json]:
    in_order = sorted(results, key=lambda result: order.get(result.tool_call_id, len(order)))
    return [_result(result, vendor_ids.get(result.tool_call_id, ""), names) for result in in_order]


def _result(result: content_pb2.ToolResult, vendor_id: str, names: ToolNames) -> Json:
    text = "".join(part.text.text for part in result.content if part.HasField("text"))
    response: Json = {"name": names.sent(result.name), "response": {"error" if result.is_error else "result": text}}
    if vendor_id:
        response["id"] = vendor_id
    media = [_media(part.media) for part in result.content if part.HasField("media")]
    if media:
        response["parts"] = media
    return {"functionResponse": response}


def _has_place_for(mime_type: str) -> bool:
    return mime_type in _IMAGES or mime_type.startswith(("audio/", "video/")) or mime_type == "application/pdf"


def _media(media: content_pb2.Media) -> Json:
    if media.uri:
        return {"fileData": {"mimeType": media.mime_type, "fileUri": media.uri}}
    return {"inlineData": {"mimeType": media.mime_type, "data": base64_text(media)}}


def _tool(tool: ToolDefinition, names: ToolNames) -> Json:
    return {
        "name": names.sent(tool.name),
        "description": tool.description,
        "parametersJsonSchema": raw(tool.input_schema_json),
    }


def _tool_choice(choice: str, names: ToolNames) -> Json:
    mode = _MODES.get(choice)
    return {"mode": mode} if mode else {"mode": "ANY", "allowedFunctionNames": [names.sent(choice)]}

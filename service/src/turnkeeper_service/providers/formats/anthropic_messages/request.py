"""Builds ``anthropic-messages`` requests."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import msgspec

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import ModelRequest, ToolDefinition
from turnkeeper_service.providers.facts.media import fit_media
from turnkeeper_service.providers.facts.media_types import IMAGES
from turnkeeper_service.providers.formats.call_ids import CallIds
from turnkeeper_service.providers.formats.output_schema import CONSTRAINED, fulfils, in_prompt, says_nothing
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

from .decode import BLOCK, CITATIONS, PAUSE

NAMES = NameRule()
SCHEMAS = SchemaRule(property_name=r"[a-zA-Z0-9_.-]{1,64}")
_EPHEMERAL = {"type": "ephemeral"}
_FOREIGN_TO_IDS = r"[^a-zA-Z0-9_-]"
Json = dict[str, Any]


def build_body(request: ModelRequest, options: ProviderOptions, names: ToolNames | None = None) -> bytes:
    """The request's JSON. Options of the caller's for this provider win, save over the model, messages and stream."""
    names = names or ToolNames(NAMES, request.tools)
    parameters = request.parameters
    body: Json = {"max_tokens": options.default_max_output_tokens}
    if parameters.HasField("max_output_tokens"):
        body["max_tokens"] = parameters.max_output_tokens
    for name in ("temperature", "top_p", "top_k"):
        if parameters.HasField(name):
            body[name] = getattr(parameters, name)
    if parameters.stop:
        body["stop_sequences"] = list(parameters.stop)
    if schema_json := request.output_schema_json:
        if fulfils(schema_json, CONSTRAINED) or says_nothing(schema_json):
            body["output_config"] = {"format": {"type": "json_schema", "schema": raw(schema_json)}}
        else:
            request = in_prompt(request)
    messages = build_messages(request, options.name, names)
    system = [{"type": "text", "text": request.system}] if request.system else []
    offered = [_tool(tool, names) for tool in fitted_tools(request.tools, SCHEMAS, options.name)]
    tools = offered or _withheld(request.messages, names)
    if options.is_cache_marked:
        # Four marks at most: what comes before each is stable from step to step.
        for items in (system, tools, *(message["content"] for message in messages[-2:])):
            _mark(items)
    if system:
        body["system"] = system
    if tools:
        body["tools"] = tools
        body["tool_choice"] = _tool_choice(request.tool_choice if offered else "none", names)
    merge_options(body, struct_to_json(parameters.provider_options))
    body["model"] = request.model
    body["messages"] = messages
    body["stream"] = True
    return encode(body)


def build_messages(request: ModelRequest, provider: str, names: ToolNames) -> list[Json]:
    """The conversation as alternating user and assistant messages, results first in the message after their calls."""
    messages: list[Json] = []
    ids = CallIds(forbidden=_FOREIGN_TO_IDS)
    fitted = list(fit_media(request, is_inside=True, says=_has_place_for))
    for is_answer, group in groupby(fitted, lambda message: message.role == content_pb2.ROLE_ASSISTANT):
        content: list[Any] = []
        members = list(group)
        if is_answer:
            own = [message for message in members if is_written_by(message, provider, request.model)]
            is_going_on = members[-1] is fitted[-1] and members[-1].provider_finish_reason == PAUSE
            unpaired = _unpaired(own, may_be_open=is_going_on)
            for message in members:
                content += _assistant(message, any(message is one for one in own), unpaired, ids, names)
        else:
            for message in members:
                content += _user(message.parts, ids)
        if not content:
            continue
        role = "assistant" if is_answer else "user"
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"].extend(content)
        else:
            messages.append({"role": role, "content": content})
    return messages


def _assistant(
    message: content_pb2.Message, is_own: bool, unpaired: frozenset[str], ids: CallIds, names: ToolNames
) -> list[Any]:
    content: list[Any] = []
    for part in message.parts:
        kind = part.WhichOneof("part")
        block = detail(part, BLOCK)
        if block:
            if is_own and _is_bound(block, unpaired):
                content.append(raw(block))
        elif kind == "text" and part.text.text.strip():
            text: Json = {"type": "text", "text": part.text.text}
            citations = detail(part, CITATIONS)
            if citations and is_own:
                text["citations"] = raw(citations)
            content.append(text)
        elif kind == "tool_call" and not part.tool_call.is_provider_executed:
            call = part.tool_call
            content.append(
                {
                    "type": "tool_use",
                    "id": ids.of_call(call.tool_call_id, is_own=is_own),
                    "name": names.sent(call.name),
                    "input": raw(call.arguments_json),
                }
            )
        elif kind == "reasoning" and is_own and part.reasoning.signature:
            content.append(_thinking(part.reasoning))
    # Thinking alone is no message: the format wants something said or called behind it.
    if all(isinstance(block, dict) and block["type"] in ("thinking", "redacted_thinking") for block in content):
        return []
    return content


class _Pairing(msgspec.Struct):
    """What binds the blocks of a tool of the provider's own: the id of the call. Whatever a vendor puts there."""

    type: Any = ""
    id: Any = ""
    tool_use_id: Any = ""

    @property
    def is_call(self) -> bool:
        return str(self.type).endswith("_tool_use")

    @property
    def is_result(self) -> bool:
        return str(self.type).endswith("_tool_result")


_decode_pairing = msgspec.json.Decoder(_Pairing).decode


def _is_bound(block: str, unpaired: frozenset[str]) -> bool:
    """Whether a block is no part of a pair, or has its other part."""
    found = _decode_pairing(block)
    if found.is_call or found.is_result:
        return str(found.id if found.is_call else found.tool_use_id) not in {*unpaired, "", "None"}
    return str(found.tool_use_id) not in unpaired or not found.tool_use_id


def _unpaired(answers: Iterable[content_pb2.Message], *, may_be_open: bool) -> frozenset[str]:
    """Calls of the provider's own tools without a result in answers that follow each other, and results without a call.

    The vendor refuses both. An answer that was cut short has them; one that paused and now goes on may have calls.
    """
    found = [_decode_pairing(block) for one in answers for part in one.parts if (block := detail(part, BLOCK))]
    calls = {str(one.id) for one in found if one.is_call}
    results = {str(one.tool_use_id) for one in found if one.tool_use_id}
    return frozenset(results - calls if may_be_open else calls ^ results)


def _thinking(reasoning: content_pb2.Reasoning) -> Json:
    signature = reasoning.signature.decode(errors="replace")
    if reasoning.is_redacted:
        return {"type": "redacted_thinking", "data": signature}
    return {"type": "thinking", "thinking": reasoning.text, "signature": signature}


def _user(parts: Iterable[content_pb2.Part], ids: CallIds) -> list[Any]:
    content: list[Any] = []
    for part in parts:
        match part.WhichOneof("part"):
            case "text" if part.text.text.strip():
                content.append({"type": "text", "text": part.text.text})
            case "summary" if part.summary.text.strip():
                content.append({"type": "text", "text": summary_text(part.summary)})
            case "media":
                content.append(_media(part.media))
            case "tool_result":
                result = part.tool_result
                block: Json = {"type": "tool_result", "tool_use_id": ids.of_result(result.tool_call_id)}
                inner = _user(result.content, ids)
                if inner:
                    block["content"] = inner
                if result.is_error:
                    block["is_error"] = True
                content.append(block)
            case _:
                pass
    return content


def _has_place_for(mime_type: str) -> bool:
    return mime_type in IMAGES or mime_type == "application/pdf"


def _media(media: content_pb2.Media) -> Json:
    source: Json = {"type": "url", "url": media.uri}
    if media.data:
        source = {"type": "base64", "media_type": media.mime_type, "data": base64_text(media)}
    if media.mime_type.startswith("image/"):
        return {"type": "image", "source": source}
    document: Json = {"type": "document", "source": source}
    if media.name:
        document["title"] = media.name
    return document


def _withheld(messages: Iterable[content_pb2.Message], names: ToolNames) -> list[Json]:
    """The tools that were called before a request without tools: the format takes no calls of tools it is not told."""
    called = {
        names.sent(part.tool_call.name): None
        for message in messages
        for part in message.parts
        if part.HasField("tool_call") and not part.tool_call.is_provider_executed
    }
    return [{"name": name, "input_schema": {"type": "object"}} for name in called]


def _tool(tool: ToolDefinition, names: ToolNames) -> Json:
    return {"name": names.sent(tool.name), "description": tool.description, "input_schema": raw(tool.input_schema_json)}


def _tool_choice(choice: str, names: ToolNames) -> Json:
    if choice in ("auto", "none"):
        return {"type": choice}
    return {"type": "any"} if choice == "required" else {"type": "tool", "name": names.sent(choice)}


def _mark(items: list[Any]) -> None:
    """Mark the last block that takes a mark; thinking and raw blocks do not."""
    for item in reversed(items):
        if isinstance(item, msgspec.Raw) or item.get("type") in ("thinking", "redacted_thinking"):
            continue
        item["cache_control"] = _EPHEMERAL
        return

"""Reads recorded requests back into the conversations that they were made of."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import ModelRequest, ToolDefinition

MODEL = "p/m"
Json = dict[str, Any]


@dataclass
class Reading:
    """A conversation under construction."""

    system: str = ""
    messages: list[content_pb2.Message] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    """Tools by the ids of their calls; results of some formats do not name them."""

    def message(self, role: content_pb2.Role.ValueType) -> content_pb2.Message:
        """The open message of a role, a new one if another spoke last."""
        if not self.messages or self.messages[-1].role != role:
            self.messages.append(content_pb2.Message(role=role))
            if role == content_pb2.ROLE_ASSISTANT:
                self.messages[-1].model = MODEL
        return self.messages[-1]

    def text(self, role: content_pb2.Role.ValueType, text: str) -> content_pb2.Part:
        part = self.message(role).parts.add()
        part.text.text = text
        return part

    def call(self, call_id: str, name: str, arguments: object) -> content_pb2.Part:
        part = self.message(content_pb2.ROLE_ASSISTANT).parts.add()
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        part.tool_call.tool_call_id, part.tool_call.name, part.tool_call.arguments_json = call_id, name, written
        self.names[call_id] = name
        return part

    def result(self, call_id: str, text: str) -> None:
        result = self.message(content_pb2.ROLE_TOOL).parts.add().tool_result
        result.tool_call_id, result.name = call_id, self.names[call_id]
        result.content.add().text.text = text


def details(part: content_pb2.Part, **values: object) -> None:
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        part.provider_details.fields[key].string_value = text


def read_chat(body: Json, parameters: content_pb2.ModelParameters) -> tuple[Reading, Json]:
    reading = Reading()
    for item in body.pop("messages"):
        content = item.get("content")
        if item["role"] in ("system", "developer"):
            reading.system = content
        elif item["role"] == "tool":
            reading.result(item["tool_call_id"], content)
        elif item["role"] == "user":
            reading.text(content_pb2.ROLE_USER, content)
        else:
            _read_chat_answer(reading, item, content)
    for name in ("max_tokens", "max_completion_tokens"):
        if name in body:
            parameters.max_output_tokens = body.pop(name)
    tools = [tool for tool in body.pop("tools", ()) if tool["type"] == "function"]
    schema = body.pop("response_format", {}).get("json_schema", {}).get("schema")
    choice = body.pop("tool_choice", "auto")
    return reading, {
        "tools": [_tool(tool["function"], "parameters") for tool in tools],
        "tool_choice": choice if isinstance(choice, str) else choice["function"]["name"],
        "output_schema_json": json.dumps(schema) if schema else "",
    }


def _read_chat_answer(reading: Reading, item: Json, content: str | None) -> None:
    message = reading.message(content_pb2.ROLE_ASSISTANT)
    field_name = next((name for name in ("reasoning_content", "reasoning") if item.get(name)), "")
    if field_name or item.get("reasoning_details"):
        part = message.parts.add()
        part.reasoning.text = item.get(field_name, "")
        if field_name:
            details(part, reasoning_field=field_name)
        if item.get("reasoning_details"):
            details(part, reasoning_details=item["reasoning_details"])
    if content:
        message.parts.add().text.text = content
    for call in item.get("tool_calls") or ():
        reading.call(call["id"], call["function"]["name"], call["function"]["arguments"])


def read_responses(body: Json, parameters: content_pb2.ModelParameters) -> tuple[Reading, Json]:
    reading = Reading(body.pop("instructions", ""))
    for item in body.pop("input"):
        kind = item.get("type", "message")
        if kind == "function_call":
            reading.call(item["call_id"], item["name"], item["arguments"])
        elif kind == "function_call_output":
            reading.result(item["call_id"], item["output"])
        elif kind == "reasoning":
            _read_reasoning(reading, item)
        elif kind == "message":
            _read_responses_message(reading, item)
        else:
            details(reading.message(content_pb2.ROLE_ASSISTANT).parts.add(), item=item)
    if "max_output_tokens" in body:
        parameters.max_output_tokens = body.pop("max_output_tokens")
    tools = body.pop("tools", [])
    own = [tool for tool in tools if tool["type"] != "function"]
    if own:
        body["tools"] = own
    schema = body.get("text", {}).pop("format", {}).get("schema")
    choice = body.pop("tool_choice", "auto") if len(own) < len(tools) else "auto"
    return reading, {
        "tools": [_tool(tool, "parameters") for tool in tools if tool["type"] == "function"],
        "tool_choice": choice,
        "output_schema_json": json.dumps(schema) if schema else "",
    }


def _read_reasoning(reading: Reading, item: Json) -> None:
    pieces = [*item["summary"], *item.get("content", ())] or [{"text": ""}]
    parts = [reading.message(content_pb2.ROLE_ASSISTANT).parts.add() for _ in pieces]
    for part, piece in zip(parts, pieces, strict=True):
        part.reasoning.text = piece["text"]
        details(part, item_id=item["id"])
        if piece.get("type") == "reasoning_text":
            details(part, open_reasoning="1")
    parts[-1].reasoning.signature = (item.get("encrypted_content") or "").encode()


def _read_responses_message(reading: Reading, item: Json) -> None:
    content = item["content"]
    pieces = [{"text": content}] if isinstance(content, str) else content
    for piece in pieces:
        if item["role"] in ("system", "developer"):
            reading.system = piece["text"]
        elif item["role"] == "user":
            reading.text(content_pb2.ROLE_USER, piece["text"])
        else:
            part = reading.text(content_pb2.ROLE_ASSISTANT, piece["text"])
            if item.get("phase"):
                details(part, phase=item["phase"])


def read_messages(body: Json, parameters: content_pb2.ModelParameters) -> tuple[Reading, Json]:
    reading = Reading()
    system = body.pop("system", "")
    reading.system = system if isinstance(system, str) else "".join(block["text"] for block in system)
    for item in body.pop("messages"):
        content = item["content"]
        for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            _read_block(reading, item["role"], block)
    parameters.max_output_tokens = body.pop("max_tokens")
    tools = body.pop("tools", [])
    own = [tool for tool in tools if "input_schema" not in tool]
    if own:
        body["tools"] = own
    choice = body.pop("tool_choice", {"type": "auto"})
    return reading, {
        "tools": [_tool(tool, "input_schema") for tool in tools if "input_schema" in tool],
        "tool_choice": choice.get("name") or {"any": "required"}.get(choice["type"], choice["type"]),
    }


def _read_block(reading: Reading, role: str, block: Json) -> None:
    is_user = role == "user"
    match block["type"]:
        case "text":
            reading.text(content_pb2.ROLE_USER if is_user else content_pb2.ROLE_ASSISTANT, block["text"])
        case "tool_use":
            reading.call(block["id"], block["name"], block["input"])
        case "tool_result":
            reading.result(block["tool_use_id"], block["content"][0]["text"])
        case "thinking":
            part = reading.message(content_pb2.ROLE_ASSISTANT).parts.add()
            part.reasoning.text, part.reasoning.signature = block["thinking"], block["signature"].encode()
        case "image":
            media = reading.message(content_pb2.ROLE_USER).parts.add().media
            media.mime_type = block["source"]["media_type"]
            media.data = base64.b64decode(block["source"]["data"])
        case _:
            details(reading.message(content_pb2.ROLE_ASSISTANT).parts.add(), block=block)


def read_gemini(body: Json, parameters: content_pb2.ModelParameters) -> tuple[Reading, Json]:
    reading = Reading()
    for part in body.pop("systemInstruction", {"parts": ()})["parts"]:
        reading.system += part["text"]
    waiting: list[tuple[str, str]] = []
    for item in body.pop("contents"):
        for part in item["parts"]:
            _read_gemini_part(reading, item["role"], part, waiting)
    config = body.get("generationConfig", {})
    for theirs, ours in (("maxOutputTokens", "max_output_tokens"), ("temperature", "temperature")):
        if theirs in config:
            setattr(parameters, ours, config.pop(theirs))
    schema = config.pop("responseJsonSchema", None)
    config.pop("responseMimeType", None)
    if not config:
        body.pop("generationConfig", None)
    tools = body.pop("tools", [])
    mode = body.pop("toolConfig", {}).get("functionCallingConfig", {}).get("mode", "AUTO")
    own = [tool for tool in tools if "functionDeclarations" not in tool]
    if own:
        body["tools"] = own
    declared = [tool for group in tools for tool in group.get("functionDeclarations", ())]
    return reading, {
        "tools": [_tool(tool, "parameters") for tool in declared],
        "tool_choice": {"AUTO": "auto", "NONE": "none", "ANY": "required"}[mode],
        "output_schema_json": json.dumps(schema) if schema else "",
    }


def _read_gemini_part(reading: Reading, role: str, part: Json, waiting: list[tuple[str, str]]) -> None:
    signature = part.get("thoughtSignature")
    if "functionCall" in part:
        call = part["functionCall"]
        call_id = call.get("id") or f"call_{len(reading.names)}"
        built = reading.call(call_id, call["name"], call["args"])
        waiting.append((call_id, call["name"]))
        if call.get("id"):
            details(built, call_id=call["id"])
    elif "functionResponse" in part:
        call_id, name = waiting.pop(0)
        assert name == part["functionResponse"]["name"]
        reading.result(call_id, part["functionResponse"]["response"]["result"])
        return
    else:
        built = reading.text(content_pb2.ROLE_USER if role == "user" else content_pb2.ROLE_ASSISTANT, part["text"])
    if signature:
        details(built, thought_signature=signature)


def _tool(tool: Json, key: str) -> ToolDefinition:
    schema = tool.get("parametersJsonSchema", tool.get(key))
    return ToolDefinition(tool["name"], tool.get("description") or "", json.dumps(schema, sort_keys=True))


Reader = Callable[[Json, content_pb2.ModelParameters], tuple[Reading, Json]]
READERS: dict[str, Reader] = {
    "openai-chat": read_chat,
    "openai-responses": read_responses,
    "anthropic-messages": read_messages,
    "gemini": read_gemini,
}
# What the builder says anyway, and marks that it sets by rules of its own.
_OURS = ("model", "stream", "stream_options", "cache_control", "store", "include")


def read(wire_format: str, body: Json) -> ModelRequest:
    """The conversation of a body; what no field of ours says becomes an option of the provider's."""
    body = json.loads(json.dumps(body))
    for name in _OURS:
        body.pop(name, None)
    parameters = content_pb2.ModelParameters()
    reading, more = READERS[wire_format](body, parameters)
    body = {key: value for key, value in body.items() if value is not None and value != {}}
    if body:
        parameters.provider_options.update(body)
    return ModelRequest("m", reading.messages, reading.system, parameters, **more)


_OPAQUE = frozenset(
    {"parameters", "input_schema", "schema", "responseJsonSchema", "parametersJsonSchema", "input", "args"}
)


def paths(value: object, at: str = "") -> Iterator[str]:
    """Where a body has values, with schemas and arguments as one value each."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            opaque = key in _OPAQUE and isinstance(inner, dict)
            yield from [f"{at}.{key}"] if opaque else paths(inner, f"{at}.{key}")
    elif isinstance(value, list) and value:
        for inner in value:
            yield from paths(inner, f"{at}[]")
    else:
        yield at

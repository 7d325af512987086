"""A vendor on the loopback that refuses what real ones refuse, in all four formats, and answers as it is told."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from examples.upstream import Answer, Request, Upstream
from examples.upstream.dialects import CHAT, DIALECTS, GEMINI, MESSAGES, RESPONSES
from tests.service.harness import Harness, load_settings, serving

Json = dict[str, Any]
NAMES = {GEMINI: r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}"}
MAX_DEPTH = 100
NO_NUMBER = re.compile(r"[:\[,] -?(?:Infinity|NaN)|\[-?(?:Infinity|NaN)")
LONE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class Call:
    """A call that the vendor's model makes; ``arguments`` are JSON, sent as they stand."""

    name: str
    arguments: str = "{}"
    call_id: str = "abcDEF123"


@dataclass(frozen=True)
class Reply:
    """One answer."""

    text: str = ""
    calls: Sequence[Call] = ()

    def stream(self, wire_format: str) -> bytes:
        """The answer in a format."""
        if not self.calls:
            dialect = DIALECTS[wire_format]
            return b"".join([*dialect.begin, dialect.delta(self.text or "ok"), *dialect.end(self.text or "ok", 1)])
        return b"".join(_CALLING[wire_format](self.calls))


def _data(event: object) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _chat(calls: Sequence[Call]) -> Iterator[bytes]:
    for index, call in enumerate(calls):
        function = {"name": call.name, "arguments": call.arguments}
        one = {"index": index, "id": call.call_id, "type": "function", "function": function}
        yield _data({"choices": [{"index": 0, "delta": {"tool_calls": [one]}, "finish_reason": None}]})
    yield _data({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    yield b"data: [DONE]\n\n"


def _responses(calls: Sequence[Call]) -> Iterator[bytes]:
    yield _data({"type": "response.created", "response": {"id": "r", "status": "in_progress", "output": []}})
    items = []
    for index, call in enumerate(calls):
        item = {"type": "function_call", "id": f"fc_{index}", "call_id": call.call_id, "name": call.name}
        items.append({**item, "arguments": call.arguments, "status": "completed"})
        place = {"output_index": index, "item_id": f"fc_{index}"}
        yield _data({"type": "response.output_item.added", **place, "item": {**item, "arguments": ""}})
        yield _data({"type": "response.function_call_arguments.delta", **place, "delta": call.arguments})
        yield _data({"type": "response.output_item.done", **place, "item": items[-1]})
    yield _data({"type": "response.completed", "response": {"id": "r", "status": "completed", "output": items}})


def _messages(calls: Sequence[Call]) -> Iterator[bytes]:
    yield _data({"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 1, "output_tokens": 1}}})
    for index, call in enumerate(calls):
        block = {"type": "tool_use", "id": call.call_id, "name": call.name, "input": {}}
        yield _data({"type": "content_block_start", "index": index, "content_block": block})
        delta = {"type": "input_json_delta", "partial_json": call.arguments}
        yield _data({"type": "content_block_delta", "index": index, "delta": delta})
        yield _data({"type": "content_block_stop", "index": index})
    yield _data({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 2}})
    yield _data({"type": "message_stop"})


def _gemini(calls: Sequence[Call]) -> Iterator[bytes]:
    parts = ",".join(f'{{"functionCall":{{"name":{json.dumps(one.name)},"args":{one.arguments}}}}}' for one in calls)
    yield b'data: {"candidates":[{"content":{"role":"model","parts":[%b]},"finishReason":"STOP"}]}\n\n' % parts.encode()


_CALLING = {CHAT: _chat, RESPONSES: _responses, MESSAGES: _messages, GEMINI: _gemini}


@dataclass
class StrictVendor:
    """Answers with the replies in order, the last one ever again; what it refuses it keeps in ``problems``."""

    replies: list[Reply] = field(default_factory=list)
    ids: str = r".{1,40}"
    """What it takes as the id of a call, where the format sends one."""
    problems: list[str] = field(default_factory=list)
    bodies: list[Json] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.upstream = Upstream(self._answer)

    def _answer(self, request: Request) -> Answer:
        body, wire_format = request.json, request.wire_format
        self.bodies.append(body)
        problem = next(self._problems(wire_format, body, request.path), "")
        if problem:
            self.problems.append(problem)
            return Answer.error(400, json.dumps({"error": {"message": problem, "code": 400}}))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return Answer.of(reply.stream(wire_format))

    def _problems(self, wire_format: str, body: Json, path: str) -> Iterator[str]:
        if NO_NUMBER.search(json.dumps(body)):
            yield "a number out of range"
        if any(LONE.search(one) for one in strings(body)):
            yield "half a character"
        if depth_of(body) > MAX_DEPTH:
            yield "nested too deeply"
        legal = NAMES.get(wire_format, r"[A-Za-z0-9_-]{1,64}")
        for name in [*called_names(wire_format, body), *offered_names(wire_format, body)]:
            if not re.fullmatch(legal, name):
                yield f"the name {name[:80]!r}"
        if len(set(offered_names(wire_format, body))) < len(offered_names(wire_format, body)):
            yield "two tools of one name"
        for name, schema in tools_of(wire_format, body).items():
            if problem := problem_of_tool(wire_format, schema):
                yield f"the schema of {name!r}: {problem}"
        if problem := problem_of_answer(wire_format, body, path):
            yield problem
        called, answered = call_ids(wire_format, body)
        if called != answered or len(set(called)) < len(called):
            yield f"calls {called} and results {answered}"
        for call_id in called:
            if not re.fullmatch(self.ids, call_id):
                yield f"the id {call_id!r}"
        roles = roles_of(wire_format, body)
        if any(one == other and one != "tool" for one, other in pairwise(roles)):
            yield f"roles must alternate: {roles}"


def strings(value: Any) -> Iterator[str]:
    """All strings in a value; JSON in a string counts too, as servers parse arguments."""
    if isinstance(value, str):
        yield value
        if value[:1] == "{":
            try:
                yield from strings(json.loads(value))
            except (ValueError, RecursionError):
                return
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def depth_of(value: Any) -> int:
    """How deeply a value nests, JSON in strings included."""
    if isinstance(value, str) and value[:1] == "{":
        try:
            value = json.loads(value)
        except RecursionError:
            return 10_000
        except ValueError:
            return 0
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


def _blocks(body: Json) -> Iterator[Json]:
    for message in body["messages"]:
        if isinstance(message["content"], list):
            yield from message["content"]


def _parts(body: Json) -> Iterator[Json]:
    for content in body["contents"]:
        yield from content["parts"]


def called_names(wire_format: str, body: Json) -> list[str]:
    """The names of the calls in a request, and of the results where they carry them."""
    if wire_format == CHAT:
        return [call["function"]["name"] for one in body["messages"] for call in one.get("tool_calls", ())]
    if wire_format == RESPONSES:
        return [item["name"] for item in body["input"] if item.get("type") == "function_call"]
    if wire_format == MESSAGES:
        return [block["name"] for block in _blocks(body) if block["type"] == "tool_use"]
    kinds = ("functionCall", "functionResponse")
    return [part[kind]["name"] for part in _parts(body) for kind in kinds if kind in part]


def tools_of(wire_format: str, body: Json) -> dict[str, Any]:
    """The schemas of the tools that a request offers, by name."""
    if wire_format == CHAT:
        return {tool["function"]["name"]: tool["function"]["parameters"] for tool in body.get("tools", ())}
    if wire_format == RESPONSES:
        return {tool["name"]: tool["parameters"] for tool in body.get("tools", ())}
    if wire_format == MESSAGES:
        return {tool["name"]: tool["input_schema"] for tool in body.get("tools", ())}
    declared = [one for tool in body.get("tools", ()) for one in tool.get("functionDeclarations", ())]
    return {one["name"]: one["parametersJsonSchema"] for one in declared}


def problem_of_tool(wire_format: str, schema: Json) -> str:
    """What vendors say of a tool's schema."""
    if schema.get("type") != "object" or schema.keys() & {"anyOf", "oneOf", "allOf", "not", "enum", "$ref"}:
        return "schema must be of type object, without alternatives at the top level"
    if not isinstance(schema.get("properties"), dict):
        return "object schema missing properties"
    for node in nodes(schema):
        if node.get("type") == "array" and not node.keys() & {"items", "prefixItems"}:
            return "array schema missing items"
        if isinstance(node.get("exclusiveMinimum"), bool) or isinstance(node.get("items"), list):
            return "must match draft 2020-12"
        names = node.get("properties", {})
        if wire_format == MESSAGES and not all(re.fullmatch(r"[a-zA-Z0-9_.-]{1,64}", name) for name in names):
            return "property keys should match pattern '^[a-zA-Z0-9_.-]{1,64}$'"
    return ""


def problem_of_answer(wire_format: str, body: Json, path: str) -> str:
    """What vendors say of the schema of an answer."""
    schema, is_strict = answer_schema(wire_format, body), True
    if schema is None:
        return ""
    if wire_format == GEMINI:
        is_old = re.search(r"gemini-[12][.-]", path) is not None
        return "Function calling with a response mime type is unsupported" if is_old and body.get("tools") else ""
    if wire_format in (CHAT, RESPONSES):
        place = body["response_format"]["json_schema"] if wire_format == CHAT else body["text"]["format"]
        is_strict = place["strict"]
        if schema.get("type") != "object" or "anyOf" in schema:
            return "schema must be a JSON Schema of 'type: \"object\"'"
    for node in nodes(schema) if is_strict else ():
        if node.get("type") == "object" and schema.keys() - {"type", "title"}:
            if node.get("additionalProperties") is not False:
                return "'additionalProperties' is required to be supplied and to be false"
            if wire_format != MESSAGES and set(node.get("required", ())) != set(node.get("properties", ())):
                return "'required' is required to be supplied and to be an array including every key"
        if node.keys() & {"minLength", "allOf", "oneOf", "not", "patternProperties"}:
            return f"not permitted: {sorted(node)}"
    return ""


def answer_schema(wire_format: str, body: Json) -> Json | None:
    """The schema of the answer where the format has a place for it."""
    found: Any
    if wire_format == CHAT:
        found = body.get("response_format", {}).get("json_schema", {}).get("schema")
    elif wire_format == RESPONSES:
        found = body.get("text", {}).get("format", {}).get("schema")
    elif wire_format == MESSAGES:
        found = body.get("output_config", {}).get("format", {}).get("schema")
    else:
        found = body.get("generationConfig", {}).get("responseJsonSchema")
    return found if isinstance(found, dict) else None


def system_of(wire_format: str, body: Json) -> str:
    """The system prompt."""
    if wire_format == CHAT:
        return "".join(one["content"] for one in body["messages"] if one["role"] == "system")
    if wire_format == RESPONSES:
        return str(body.get("instructions", ""))
    if wire_format == MESSAGES:
        return "".join(block["text"] for block in body.get("system", ()))
    return "".join(part["text"] for part in body.get("systemInstruction", {}).get("parts", ()))


def nodes(schema: Any) -> Iterator[Json]:
    """A schema and those inside it."""
    if isinstance(schema, dict):
        yield schema
        for key, inner in schema.items():
            if key in ("properties", "$defs"):
                for one in inner.values():
                    yield from nodes(one)
            elif key in ("items", "additionalProperties"):
                yield from nodes(inner)
            elif key in ("anyOf", "prefixItems"):
                for one in inner:
                    yield from nodes(one)


def offered_names(wire_format: str, body: Json) -> list[str]:
    """The names of the tools that a request offers."""
    return list(tools_of(wire_format, body))


def call_ids(wire_format: str, body: Json) -> tuple[list[str], list[str]]:
    """The ids of the calls and of the results; none where the format goes by order."""
    if wire_format == CHAT:
        called = [call["id"] for one in body["messages"] for call in one.get("tool_calls", ())]
        return called, [one["tool_call_id"] for one in body["messages"] if one["role"] == "tool"]
    if wire_format == RESPONSES:
        kinds = ("function_call", "function_call_output")
        called, answered = ([item["call_id"] for item in body["input"] if item.get("type") == kind] for kind in kinds)
        return called, answered
    if wire_format == MESSAGES:
        called = [block["id"] for block in _blocks(body) if block["type"] == "tool_use"]
        return called, [block["tool_use_id"] for block in _blocks(body) if block["type"] == "tool_result"]
    return [], []


def roles_of(wire_format: str, body: Json) -> list[str]:
    """Who speaks, in order."""
    if wire_format == GEMINI:
        return [content["role"] for content in body["contents"]]
    if wire_format == RESPONSES:
        return [item.get("role", "tool") for item in body["input"]]
    return [message["role"] for message in body["messages"] if message["role"] != "system"]


@asynccontextmanager
async def strict(
    data_dir: Path, wire_format: str, *replies: Reply, ids: str = r".{1,40}", model: str = "m", **more: Any
) -> AsyncIterator[tuple[Harness, StrictVendor]]:
    """A server whose provider ``up`` is a strict vendor, with the session ``s``."""
    vendor = StrictVendor([*replies, Reply()], ids)
    async with vendor.upstream as upstream:
        settings = {"providers.up.format": wire_format, "providers.up.base_url": upstream.base_url}
        settings |= more.pop("settings", {})
        async with serving(data_dir, settings=load_settings(data_dir, **settings), **more) as server:
            await server.session("s", model=f"up/{model}")
            yield server, vendor

"""Writes the matrix of docs/providers.md: what each format sends where, and what it reads, found by doing it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from examples.upstream import streams_folder
from tests.service.providers.collect import user
from tests.service.providers.outside import KINDS
from tests.service.providers.recorded_requests import paths
from tests.service.providers.test_requests import answer, call, result
from tests.service.providers.test_splits import WIRE_FORMATS, events
from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import (
    ModelCapabilities,
    ModelEvent,
    ModelFinished,
    ModelRequest,
    PartEnded,
    ToolDefinition,
)
from turnkeeper_service.providers.formats.anthropic_messages import request as anthropic_messages_request
from turnkeeper_service.providers.formats.gemini import request as gemini_request
from turnkeeper_service.providers.formats.openai_chat import request as openai_chat_request
from turnkeeper_service.providers.formats.openai_responses import request as openai_responses_request
from turnkeeper_service.providers.options import ProviderOptions

PAGE = Path(__file__).resolve().parents[3] / "docs" / "providers.md"
MARK = "<!-- Written by"
NOTHING = "—"
BUILDERS: dict[str, Callable[[ModelRequest, ProviderOptions], bytes]] = {
    "openai-chat": openai_chat_request.build_body,
    "openai-responses": openai_responses_request.build_body,
    "anthropic-messages": anthropic_messages_request.build_body,
    "gemini": gemini_request.build_body,
}
PROBE = "probe"
PROBE_BYTES = b"probe-in-base64!"
IN_BASE64 = "cHJvYmUtaW4tYmFzZTY0IQ=="


def media(mime_type: str) -> content_pb2.Part:
    part = content_pb2.Part()
    part.media.mime_type, part.media.data, part.media.name = mime_type, PROBE_BYTES, "file"
    return part


def prompt(*parts: content_pb2.Part) -> ModelRequest:
    message = user("hi")
    message.parts.extend(parts)
    return ModelRequest("m", [message])


def step(*, text: str = "seen", is_error: bool = False, more: content_pb2.Part | None = None) -> ModelRequest:
    calling, results = answer(), result(("c", text))
    call(calling, "c")
    results.parts[0].tool_result.is_error = is_error
    if more is not None:
        results.parts[0].tool_result.content.append(more)
    return ModelRequest("m", [user("hi"), calling, results])


def thought() -> ModelRequest:
    """Signed reasoning as each format keeps it, before a call."""
    own = answer()
    part = own.parts.add()
    part.reasoning.text, part.reasoning.signature = "hm", PROBE.encode()
    kept = [{"type": "reasoning.text", "signature": PROBE}]
    part.provider_details.update({"item_id": "i", "reasoning_details": json.dumps(kept)})
    call(own, "c")
    return ModelRequest("m", [user("hi"), own, result(("c", "seen"))])


def with_parameters(**given: object) -> ModelRequest:
    parameters = content_pb2.ModelParameters()
    for name, value in given.items():
        if isinstance(value, list):
            parameters.stop.extend(value)
        else:
            setattr(parameters, name, value)
    return ModelRequest("m", [user("hi")], parameters=parameters)


def with_tool(choice: str = "auto") -> ModelRequest:
    tool = ToolDefinition("find", "Finds.", '{"type":"object","title":"probe"}')
    return ModelRequest("m", [user("hi")], tools=[tool], tool_choice=choice)


# What is sent, the value that shows where, and the request that sends it.
SENT: list[tuple[str, object, ModelRequest]] = [
    ("system prompt", PROBE, ModelRequest("m", [user("hi")], system=PROBE)),
    ("tool schema", PROBE, with_tool()),
    ("a tool that must be called", "find", with_tool("find")),
    ("tool result", PROBE, step(text=PROBE)),
    ("media of a tool result", IN_BASE64, step(more=media("image/png"))),
    ("image", IN_BASE64, prompt(media("image/png"))),
    ("PDF", IN_BASE64, prompt(media("application/pdf"))),
    ("audio", IN_BASE64, prompt(media("audio/wav"))),
    ("text file", PROBE_BYTES.decode(), prompt(media("text/plain"))),
    ("sealed reasoning", PROBE, thought()),
    ("output limit", 1234, with_parameters(max_output_tokens=1234)),
    ("temperature", 0.25, with_parameters(temperature=0.25)),
    ("top p", 0.25, with_parameters(top_p=0.25)),
    ("top k", 1234, with_parameters(top_k=1234)),
    ("frequency penalty", 0.25, with_parameters(frequency_penalty=0.25)),
    ("presence penalty", 0.25, with_parameters(presence_penalty=0.25)),
    ("stop texts", PROBE, with_parameters(stop=[PROBE])),
    ("JSON schema of the answer", PROBE, ModelRequest("m", [user("hi")], output_schema_json='{"title":"probe"}')),
    ("cache marks", "ephemeral", ModelRequest("m", [user("hi")])),
    (
        "asks for sealed reasoning",
        "reasoning.encrypted_content",
        ModelRequest("m", [user("hi")], capabilities=ModelCapabilities(is_reasoning=True)),
    ),
]

Reads = Callable[[list[ModelEvent], str], bool]


def parts(found: list[ModelEvent]) -> list[content_pb2.Part]:
    return [event.content for event in found if isinstance(event, PartEnded)]


def any_part(check: Callable[[content_pb2.Part], bool]) -> Reads:
    return lambda found, _: any(map(check, parts(found)))


def any_end(check: Callable[[ModelFinished], bool]) -> Reads:
    return lambda found, _: any(check(event) for event in found if isinstance(event, ModelFinished))


def finishes(reason: content_pb2.FinishReason.ValueType) -> Reads:
    return any_end(lambda end: end.finish_reason == reason)


# What is read, and how it shows in the events of a stream.
READ: list[tuple[str, Reads]] = [
    ("text", any_part(lambda part: part.HasField("text"))),
    ("reasoning", any_part(lambda part: bool(part.reasoning.text))),
    (
        "signatures",
        any_part(lambda part: bool(part.reasoning.signature) or "thought_signature" in part.provider_details.fields),
    ),
    ("tool calls", any_part(lambda part: part.HasField("tool_call") and not part.tool_call.is_provider_executed)),
    ("parallel tool calls", lambda found, _: sum(part.HasField("tool_call") for part in parts(found)) > 1),
    ("tools that the provider runs", any_part(lambda part: part.tool_call.is_provider_executed)),
    ("media", any_part(lambda part: part.HasField("media"))),
    ("the limit reached", finishes(content_pb2.FINISH_REASON_MAX_TOKENS)),
    ("content withheld", finishes(content_pb2.FINISH_REASON_CONTENT_FILTER)),
    ("usage", any_end(lambda end: end.usage.HasField("output_tokens"))),
    ("tokens from the cache", any_end(lambda end: end.usage.HasField("cache_read_tokens"))),
    ("reasoning tokens", any_end(lambda end: end.usage.HasField("reasoning_tokens"))),
    ("an error inside the stream", lambda _, failure: bool(failure)),
]


def places(value: object, wanted: object, at: str = "") -> Iterator[str]:
    """Where a body holds a value, strings also as a part of longer ones; schemas are one place."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, wanted, f"{at}.{key}" if at else key)
    elif isinstance(value, list):
        for inner in value:
            yield from places(inner, wanted, f"{at}[]")
    elif isinstance(value, str) and isinstance(wanted, str):
        if wanted in value:
            yield at
    elif type(value) is type(wanted) and value == wanted:
        yield at


def sent(wire_format: str, wanted: object, request: ModelRequest) -> str:
    body = json.loads(BUILDERS[wire_format](request, ProviderOptions("p", wire_format)))
    found = [place.removesuffix(".title") for place in places(body, wanted) if place not in ("model", "stream")]
    # A tool's name is also where the tool is declared, and a choice says more than that.
    found = [place for place in found if not place.startswith("tools") or wanted == PROBE]
    return f"`{found[0]}`" if found else NOTHING


def failure_mark(wire_format: str) -> str:
    """What a failed result has that another one has not."""
    requests = (step(is_error=True), step())
    failed, seen = (json.loads(BUILDERS[wire_format](one, ProviderOptions("p", wire_format))) for one in requests)
    marks = sorted(set(paths(failed)) - set(paths(seen)))
    return f"`{marks[0].removeprefix('.')}`" if marks else NOTHING


def streams(wire_format: str) -> list[tuple[list[ModelEvent], str]]:
    folder = streams_folder() / wire_format
    return [events(wire_format, [path.read_bytes()]) for path in sorted(folder.glob("*.sse"))]


def tables() -> str:
    """The generated part."""
    head = "| | " + " | ".join(f"`{name}`" for name in WIRE_FORMATS) + " |"
    rule = "|---" * (len(WIRE_FORMATS) + 1) + "|"
    lines = ["### Where it is sent", "", head, rule]
    for what, wanted, request in SENT:
        lines.append(f"| {what} | " + " | ".join(sent(name, wanted, request) for name in WIRE_FORMATS) + " |")
    lines.append("| mark of a failed tool result | " + " | ".join(map(failure_mark, WIRE_FORMATS)) + " |")
    lines += ["", "### What is read", "", head, rule]
    played = {name: streams(name) for name in WIRE_FORMATS}
    for what, reads in READ:
        seen = [any(reads(*stream) for stream in played[name]) for name in WIRE_FORMATS]
        lines.append(f"| {what} | " + " | ".join("yes" if is_seen else NOTHING for is_seen in seen) + " |")
    lines += ["", "### What is tolerated", "", head, rule]
    for kind, cases in KINDS.items():
        lines.append(f"| {kind} | " + " | ".join("yes" if cases.get(name) else NOTHING for name in WIRE_FORMATS) + " |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page: what people wrote, and the tables."""
    written, mark, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    return written + mark + rest.partition("\n")[0] + "\n\n" + tables()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""What is sent in the `openai-responses` format."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.service.providers.collect import user
from tests.service.providers.test_requests import IMAGE, TOOL, answer, call, conversation, parameters, result, sent
from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import ModelCapabilities, ModelRequest
from turnkeeper_service.providers.formats.openai_responses.request import build_body
from turnkeeper_service.providers.options import ProviderOptions


def responses(request: ModelRequest, **options: Any) -> dict[str, Any]:
    return sent(build_body, request, ProviderOptions("p", "openai-responses", **options))


def reasoning(message: content_pb2.Message, text: str, signature: bytes = b"", **details: str) -> None:
    part = message.parts.add()
    part.reasoning.text, part.reasoning.signature = text, signature
    part.provider_details.update({"item_id": "rs-1", **details})


def test_conversation() -> None:
    body = responses(ModelRequest("m", conversation(), system="Be kind."))
    assert body["instructions"] == "Be kind."
    assert body["input"] == [
        {"role": "user", "content": "Find x."},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
        {"type": "function_call", "call_id": "a.1", "name": "find", "arguments": '{"q":"x"}'},
        {"type": "function_call", "call_id": "b", "name": "find", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a.1", "output": "one"},
        {"type": "function_call_output", "call_id": "b", "output": "two"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Found."}]},
        {"role": "user", "content": "Thanks."},
    ]
    assert (body["stream"], body["store"], body["model"]) == (True, False, "m")
    assert "include" not in body


def test_ids_are_unique_and_short() -> None:
    steps: list[content_pb2.Message] = [user("Go.")]
    for call_id in ("call_0", "call_0", "x" * 100):
        calling = answer()
        call(calling, call_id)
        steps += [calling, result((call_id, "ok"))]
    items = responses(ModelRequest("m", steps))["input"]
    called = [item["call_id"] for item in items if item.get("type") == "function_call"]
    assert called == [item["call_id"] for item in items if item.get("type") == "function_call_output"]
    assert called[:2] == ["call_0", "call_0_2"]
    assert len(called[2]) == 64


def test_parameters() -> None:
    body = responses(ModelRequest("m", [user("hi")], parameters=parameters()))
    assert (body["max_output_tokens"], body["temperature"], body["top_p"]) == (100, 0.5, 0.9)
    assert not {"stop", "top_k", "frequency_penalty"} & set(body)
    assert (body["stream"], body["effort"]) == (True, "high")


def test_options_merge_with_what_is_there() -> None:
    given = content_pb2.ModelParameters()
    given.provider_options.update(
        {
            "text": {"verbosity": "low"},
            "tools": [{"type": "web_search"}],
            "reasoning": {"effort": "high"},
            "include": ["web_search_call.results"],
            "store": True,
        }
    )
    request = ModelRequest("m", [user("hi")], parameters=given, tools=[TOOL], output_schema_json='{"type":"object"}')
    body = responses(request)
    assert body["text"]["verbosity"] == "low"
    assert body["text"]["format"]["schema"] == {"type": "object"}
    assert [tool["type"] for tool in body["tools"]] == ["function", "web_search"]
    assert body["include"] == ["reasoning.encrypted_content", "web_search_call.results"]
    assert body["store"] is True


@pytest.mark.parametrize(
    ("choice", "said"), [("auto", "auto"), ("required", "required"), ("find", {"type": "function", "name": "find"})]
)
def test_tools(choice: str, said: object) -> None:
    body = responses(ModelRequest("m", [user("hi")], tools=[TOOL], tool_choice=choice))
    (tool,) = body["tools"]
    assert tool["parameters"] == json.loads(TOOL.input_schema_json)
    assert (tool["type"], tool["name"], tool["strict"], body["tool_choice"]) == ("function", "find", False, said)


def test_the_seal_is_asked_of_models_that_reason() -> None:
    request = ModelRequest("m", [user("hi")], capabilities=ModelCapabilities(is_reasoning=True))
    assert responses(request)["include"] == ["reasoning.encrypted_content"]


def test_reasoning_goes_back_sealed_and_whole() -> None:
    own = answer()
    reasoning(own, "First.")
    reasoning(own, "Second.", b"c2VhbA==")
    call(own, "a")
    items = responses(ModelRequest("m", [user("Go."), own, result(("a", "1"))]))["input"]
    summary = [{"type": "summary_text", "text": text} for text in ("First.", "Second.")]
    assert items[1] == {"type": "reasoning", "id": "rs-1", "summary": summary, "encrypted_content": "c2VhbA=="}
    assert items[2]["type"] == "function_call"


def test_reasoning_that_leads_nowhere_or_is_not_sealed_stays_here() -> None:
    unsealed, alone, foreign = answer(), answer(), answer("q/m")
    reasoning(unsealed, "Hm.")
    unsealed.parts.add().text.text = "Yes."
    reasoning(alone, "Hm.", b"c2VhbA==")
    reasoning(foreign, "Hm.", b"c2VhbA==")
    foreign.parts.add().text.text = "No."
    items = responses(ModelRequest("m", [user("Go."), unsealed, alone, foreign]))["input"]
    assert [[one["text"] for one in item["content"]] for item in items[1:]] == [["Yes.", "No."]]


def test_reasoning_in_plain_sight_goes_back_as_it_is() -> None:
    own = answer()
    reasoning(own, "Count.", open_reasoning="1")
    call(own, "a")
    items = responses(ModelRequest("m", [user("Go."), own, result(("a", "1"))]))["input"]
    assert items[1]["content"] == [{"type": "reasoning_text", "text": "Count."}]
    assert (items[1]["id"], items[1]["summary"]) == ("rs-1", [])


def test_phases_and_own_items_go_back() -> None:
    own = answer()
    for text, phase in (("Looking", "commentary"), (" out.", "commentary"), ("Land.", "final_answer")):
        part = own.parts.add()
        part.text.text = text
        part.provider_details.update({"phase": phase})
    own.parts.add().provider_details.update({"item": '{"type":"compaction","id":"cmp-1"}'})
    searched = call(own, "ws-1")
    searched.tool_call.is_provider_executed = True
    searched.provider_details.update({"item": '{"type":"web_search_call","id":"ws-1"}'})
    items = responses(ModelRequest("m", [user("Go."), own]))["input"]
    assert [(item.get("phase"), len(item.get("content", ""))) for item in items[1:3]] == [
        ("commentary", 2),
        ("final_answer", 1),
    ]
    assert [item["type"] for item in items[3:]] == ["compaction", "web_search_call"]
    foreign = content_pb2.Message()
    foreign.CopyFrom(own)
    foreign.model = "q/m"
    items = responses(ModelRequest("m", [user("Go."), foreign]))["input"]
    assert len(items) == 2
    assert "phase" not in items[1]


def test_media() -> None:
    prompt = user("Look.")
    prompt.parts.add().media.CopyFrom(IMAGE)
    prompt.parts.add().media.CopyFrom(content_pb2.Media(mime_type="application/pdf", data=b"%PDF", name="a.pdf"))
    prompt.parts.add().media.CopyFrom(content_pb2.Media(mime_type="application/pdf", uri="https://example.org/a.pdf"))
    calling, results = answer(), result(("a", "seen"))
    call(calling, "a")
    results.parts[0].tool_result.content.add().media.CopyFrom(IMAGE)
    items = responses(ModelRequest("m", [prompt, calling, results]))["input"]
    image = {"type": "input_image", "image_url": "data:image/png;base64,AQI="}
    assert items[0]["content"][1:] == [
        image,
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
        {"type": "input_file", "file_url": "https://example.org/a.pdf"},
    ]
    assert items[2]["output"] == [{"type": "input_text", "text": "seen"}, image]

"""What is sent in the `gemini` format."""

from __future__ import annotations

import json
from typing import Any

import pytest

from examples.upstream import Answer, Upstream
from tests.service.providers.collect import collect, user
from tests.service.providers.conftest import MakeProvider
from tests.service.providers.test_requests import IMAGE, TOOL, answer, call, conversation, parameters, result, sent
from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import FailureReason, ModelCapabilities, ModelRequest
from turnkeeper_service.providers.formats.gemini.request import build_body
from turnkeeper_service.providers.options import ProviderOptions


def gemini(request: ModelRequest) -> dict[str, Any]:
    return sent(build_body, request, ProviderOptions("p", "gemini"))


def test_conversation() -> None:
    messages = conversation()
    for message in messages:
        for part in message.parts:
            if part.HasField("tool_result"):
                part.tool_result.name = "find"
    # Results that arrived the other way round go back in the order of their calls.
    messages[2], messages[3] = messages[3], messages[2]
    body = gemini(ModelRequest("m", messages, system="Be kind."))
    assert body["systemInstruction"]["parts"] == [{"text": "Be kind."}]
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "Find x."}]},
        {
            "role": "model",
            "parts": [
                {"text": "Looking."},
                {"functionCall": {"name": "find", "args": {"q": "x"}}},
                {"functionCall": {"name": "find", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "find", "response": {"result": "one"}}},
                {"functionResponse": {"name": "find", "response": {"result": "two"}}},
            ],
        },
        {"role": "model", "parts": [{"text": "Found."}]},
        {"role": "user", "parts": [{"text": "Thanks."}]},
    ]
    assert not {"model", "stream"} & set(body)


def test_parameters() -> None:
    body = gemini(ModelRequest("m", [user("hi")], parameters=parameters(), output_schema_json='{"type":"object"}'))
    assert body["generationConfig"] == {
        "maxOutputTokens": 100,
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 3,
        "frequencyPenalty": 1.0,
        "stopSequences": ["END"],
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object"},
    }
    assert body["deep"] == {"on": True}
    assert "stream" not in body


def test_options_merge_with_what_is_there() -> None:
    given = content_pb2.ModelParameters(max_output_tokens=9)
    given.provider_options.update(
        {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}, "tools": [{"googleSearch": {}}]}
    )
    body = gemini(ModelRequest("m", [user("hi")], parameters=given, tools=[TOOL]))
    assert body["generationConfig"] == {"maxOutputTokens": 9, "thinkingConfig": {"includeThoughts": True}}
    assert [set(tool) for tool in body["tools"]] == [{"functionDeclarations"}, {"googleSearch"}]


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ("find", {"mode": "ANY", "allowedFunctionNames": ["find"]}),
    ],
)
def test_tools(choice: str, config: object) -> None:
    body = gemini(ModelRequest("m", [user("hi")], tools=[TOOL], tool_choice=choice))
    (declared,) = body["tools"][0]["functionDeclarations"]
    assert declared["parametersJsonSchema"] == json.loads(TOOL.input_schema_json)
    assert body["toolConfig"]["functionCallingConfig"] == config


def test_signatures_and_ids_go_back_where_they_came_from() -> None:
    own = answer()
    own.parts.add().reasoning.text = "unsigned"
    thought = own.parts.add().reasoning
    thought.text, thought.signature = "Hm.", b"c2ln"
    call(own, "fn-1").provider_details.update({"thought_signature": "Zmlyc3Q=", "call_id": "fn-1"})
    call(own, "call_2")
    last = own.parts.add()
    last.text.text = ""
    last.provider_details.update({"thought_signature": "bGFzdA=="})
    own.parts.add().provider_details.update({"own": '{"codeExecutionResult":{"outcome":"OUTCOME_OK"}}'})
    messages = [user("Go."), own, result(("fn-1", "1"), ("call_2", "2"))]
    body = gemini(ModelRequest("m", messages))
    assert body["contents"][1]["parts"] == [
        {"text": "Hm.", "thought": True, "thoughtSignature": "c2ln"},
        {"functionCall": {"name": "find", "args": {}, "id": "fn-1"}, "thoughtSignature": "Zmlyc3Q="},
        {"functionCall": {"name": "find", "args": {}}},
        {"text": "", "thoughtSignature": "bGFzdA=="},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK"}},
    ]
    results = [part["functionResponse"] for part in body["contents"][2]["parts"]]
    assert [answered.get("id") for answered in results] == ["fn-1", None]


def test_calls_of_other_models_say_that_they_are_not_signed() -> None:
    foreign = answer("q/m")
    foreign.parts.add().reasoning.signature = b"c2ln"
    call(foreign, "a").provider_details.update({"thought_signature": "Zmlyc3Q=", "call_id": "a"})
    call(foreign, "b")
    body = gemini(ModelRequest("m", [user("Go."), foreign, result(("a", "1"), ("b", "2"))]))
    first, second = body["contents"][1]["parts"]
    assert first == {
        "functionCall": {"name": "find", "args": {}},
        "thoughtSignature": "skip_thought_signature_validator",
    }
    assert "thoughtSignature" not in second


def test_media() -> None:
    prompt = user("Look.")
    prompt.parts.add().media.CopyFrom(IMAGE)
    prompt.parts.add().media.CopyFrom(content_pb2.Media(mime_type="video/mp4", uri="https://example.org/v.mp4"))
    calling, results = answer(), result(("a", "seen"))
    call(calling, "a")
    results.parts[0].tool_result.is_error = True
    results.parts[0].tool_result.content.add().media.CopyFrom(IMAGE)
    messages = [prompt, calling, results]
    inline = {"inlineData": {"mimeType": "image/png", "data": "AQI="}}
    beside = gemini(ModelRequest("m", messages))["contents"]
    assert beside[0]["parts"][1:] == [
        inline,
        {"fileData": {"mimeType": "video/mp4", "fileUri": "https://example.org/v.mp4"}},
    ]
    assert beside[2]["parts"][0]["functionResponse"]["response"]["error"].startswith("seen\n[")
    assert beside[2]["parts"][-1] == inline
    capabilities = ModelCapabilities(takes_result_media=True)
    inside = gemini(ModelRequest("m", messages, capabilities=capabilities))["contents"]
    assert inside[2]["parts"][0]["functionResponse"]["parts"] == [inline]


def test_an_image_of_the_model_goes_back_to_it_alone() -> None:
    own = answer()
    own.parts.add().media.CopyFrom(IMAGE)
    own.parts[0].provider_details.update({"thought_signature": "c2ln"})
    (part,) = gemini(ModelRequest("m", [user("Draw."), own]))["contents"][1]["parts"]
    assert part["thoughtSignature"] == "c2ln"
    own.model = "q/m"
    assert len(gemini(ModelRequest("m", [user("Draw."), own]))["contents"]) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("small-1", "/models/small-1:streamGenerateContent?alt=sse"),
        ("tunedModels/mine", "/tunedModels/mine:streamGenerateContent?alt=sse"),
        ("b?c#d e", "/models/b%3Fc%23d%20e:streamGenerateContent?alt=sse"),
    ],
)
async def test_the_model_stands_in_the_path(
    model: str, path: str, upstream: Upstream, make_provider: MakeProvider
) -> None:
    upstream.plan(
        Answer.of('data: {"candidates":[{"content":{"parts":[{"text":"yes"}]},"finishReason":"STOP"}]}\r\n\r\n')
    )
    collected = await collect(make_provider("gemini", api_key="key-of-ours"), ModelRequest(model, [user("hi")]))
    assert collected.error is None
    assert upstream.requests[0].path == path
    assert upstream.requests[0].headers["x-goog-api-key"] == "key-of-ours"


@pytest.mark.asyncio
@pytest.mark.parametrize("model", ["../files", "a/../b", "a//b", "/a"])
async def test_a_model_leads_nowhere_else(model: str, upstream: Upstream, make_provider: MakeProvider) -> None:
    collected = await collect(make_provider("gemini"), ModelRequest(model, [user("hi")]))
    assert collected.error is not None
    assert collected.error.reason is FailureReason.PROVIDER_REFUSED
    assert upstream.requests == []

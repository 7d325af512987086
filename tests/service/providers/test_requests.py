"""What is sent to the vendors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.service.providers.collect import user
from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import ModelRequest, ToolDefinition
from turnkeeper_service.providers.formats.anthropic_messages import request as anthropic_messages_request
from turnkeeper_service.providers.formats.openai_chat import request as openai_chat_request
from turnkeeper_service.providers.options import ProviderOptions

TOOL = ToolDefinition("find", "Finds things.", '{"type":"object","properties":{"q":{"type":"string"}}}')
IMAGE = content_pb2.Media(mime_type="image/png", data=b"\x01\x02")


def chat(request: ModelRequest, **options: Any) -> dict[str, Any]:
    return sent(openai_chat_request.build_body, request, ProviderOptions("p", "openai-chat", **options))


def messages(request: ModelRequest, **options: Any) -> dict[str, Any]:
    return sent(anthropic_messages_request.build_body, request, ProviderOptions("p", "anthropic-messages", **options))


def sent(
    build: Callable[[ModelRequest, ProviderOptions], bytes], request: ModelRequest, options: ProviderOptions
) -> dict[str, Any]:
    before = [message.SerializeToString(deterministic=True) for message in request.messages]
    body: dict[str, Any] = json.loads(build(request, options))
    assert [message.SerializeToString(deterministic=True) for message in request.messages] == before
    return body


def answer(model: str = "p/m") -> content_pb2.Message:
    return content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, model=model)


def call(message: content_pb2.Message, call_id: str, arguments: str = "{}") -> content_pb2.Part:
    part = message.parts.add()
    part.tool_call.tool_call_id = call_id
    part.tool_call.name = "find"
    part.tool_call.arguments_json = arguments
    return part


def result(*results: tuple[str, str]) -> content_pb2.Message:
    message = content_pb2.Message(role=content_pb2.ROLE_TOOL)
    for call_id, text in results:
        tool_result = message.parts.add().tool_result
        tool_result.tool_call_id = call_id
        tool_result.content.add().text.text = text
    return message


def conversation() -> list[content_pb2.Message]:
    """A prompt, two calls in one answer, their results in two messages, and an answer."""
    calling = answer()
    calling.parts.add().text.text = "Looking."
    call(calling, "a.1", '{"q":"x"}')
    call(calling, "b")
    final = answer()
    final.parts.add().text.text = "Found."
    return [user("Find x."), calling, result(("a.1", "one")), result(("b", "two")), final, user("Thanks.")]


def test_chat_conversation() -> None:
    body = chat(ModelRequest("m", conversation(), system="Be kind."))
    assert body["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Find x."},
        {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [
                {"id": "a.1", "type": "function", "function": {"name": "find", "arguments": '{"q":"x"}'}},
                {"id": "b", "type": "function", "function": {"name": "find", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a.1", "content": "one"},
        {"role": "tool", "tool_call_id": "b", "content": "two"},
        {"role": "assistant", "content": "Found."},
        {"role": "user", "content": "Thanks."},
    ]
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


def test_messages_conversation() -> None:
    body = messages(ModelRequest("m", conversation(), system="Be kind."), is_cache_marked=False)
    assert body["system"] == [{"type": "text", "text": "Be kind."}]
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    calls = body["messages"][1]["content"]
    assert calls[1] == {"type": "tool_use", "id": "a_1", "name": "find", "input": {"q": "x"}}
    results = body["messages"][2]["content"]
    assert [block["tool_use_id"] for block in results] == ["a_1", "b"]
    assert results[0]["content"] == [{"type": "text", "text": "one"}]
    assert body["max_tokens"] == 8192


def test_messages_cache_marks() -> None:
    body = messages(ModelRequest("m", conversation(), system="Be kind.", tools=[TOOL, TOOL]))
    marked = [[bool(block.get("cache_control")) for block in message["content"]] for message in body["messages"]]
    assert marked == [[False], [False, False, False], [False, False], [True], [True]]
    assert body["system"][-1]["cache_control"] == {"type": "ephemeral"}
    assert ["cache_control" in tool for tool in body["tools"]] == [False, True]


def test_messages_ids_are_unique_in_the_conversation() -> None:
    steps: list[content_pb2.Message] = [user("Go.")]
    for _ in range(3):
        calling = answer()
        call(calling, "call_0")
        steps += [calling, result(("call_0", "ok"))]
    body = messages(ModelRequest("m", steps))
    content = [block for message in body["messages"] for block in message["content"]]
    called = [block["id"] for block in content if block["type"] == "tool_use"]
    answered = [block["tool_use_id"] for block in content if block["type"] == "tool_result"]
    assert called == answered == ["call_0", "call_0_2", "call_0_3"]


def parameters() -> content_pb2.ModelParameters:
    given = content_pb2.ModelParameters(max_output_tokens=100, temperature=0.5, top_p=0.9, top_k=3, stop=["END"])
    given.frequency_penalty = 1
    given.provider_options.update(
        {"effort": "high", "budget": 4000, "share": 0.5, "stream": False, "deep": {"on": True}}
    )
    return given


def test_chat_parameters() -> None:
    body = chat(ModelRequest("m", [user("hi")], parameters=parameters()), max_tokens_field="max_completion_tokens")
    assert (body["max_completion_tokens"], body["temperature"], body["top_p"], body["top_k"]) == (100, 0.5, 0.9, 3)
    assert (body["frequency_penalty"], body["stop"]) == (1, ["END"])
    assert "presence_penalty" not in body
    assert (body["effort"], body["share"], body["deep"], body["stream"]) == ("high", 0.5, {"on": True}, True)
    assert isinstance(body["budget"], int)


def test_messages_parameters() -> None:
    body = messages(ModelRequest("m", [user("hi")], parameters=parameters()))
    assert (body["max_tokens"], body["temperature"], body["top_k"]) == (100, 0.5, 3)
    assert body["stop_sequences"] == ["END"]
    assert "frequency_penalty" not in body
    assert (body["stream"], body["effort"]) == (True, "high")


@pytest.mark.parametrize(
    ("choice", "in_chat", "in_messages"),
    [
        ("auto", "auto", {"type": "auto"}),
        ("none", "none", {"type": "none"}),
        ("required", "required", {"type": "any"}),
        ("find", {"type": "function", "function": {"name": "find"}}, {"type": "tool", "name": "find"}),
    ],
)
def test_tools(choice: str, in_chat: object, in_messages: object) -> None:
    request = ModelRequest("m", [user("hi")], tools=[TOOL], tool_choice=choice)
    body = chat(request)
    assert body["tools"][0]["function"]["parameters"] == json.loads(TOOL.input_schema_json)
    assert body["tool_choice"] == in_chat
    body = messages(request)
    assert body["tools"][0]["input_schema"] == json.loads(TOOL.input_schema_json)
    assert body["tool_choice"] == in_messages
    assert "tool_choice" not in chat(ModelRequest("m", [user("hi")], tool_choice=choice))


def test_output_schema() -> None:
    request = ModelRequest("m", [user("hi")], output_schema_json='{"type":"object"}')
    assert chat(request)["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert messages(request)["output_config"]["format"] == {"type": "json_schema", "schema": {"type": "object"}}


def test_media() -> None:
    prompt = user("Look.")
    prompt.parts.add().media.CopyFrom(IMAGE)
    prompt.parts.add().media.CopyFrom(content_pb2.Media(mime_type="application/pdf", data=b"%PDF", name="a.pdf"))
    prompt.parts.add().media.CopyFrom(content_pb2.Media(mime_type="image/png", uri="https://example.org/i.png"))
    content = chat(ModelRequest("m", [prompt]))["messages"][0]["content"]
    assert content[1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,AQI="}}
    assert content[2]["file"]["filename"] == "a.pdf"
    assert content[3]["image_url"]["url"] == "https://example.org/i.png"
    content = messages(ModelRequest("m", [prompt]))["messages"][0]["content"]
    assert content[1]["source"] == {"type": "base64", "media_type": "image/png", "data": "AQI="}
    assert (content[2]["type"], content[2]["title"]) == ("document", "a.pdf")
    assert content[3]["source"] == {"type": "url", "url": "https://example.org/i.png"}


def test_media_of_results() -> None:
    calling = answer()
    call(calling, "a")
    call(calling, "b")
    results = result(("a", ""), ("b", "text"))
    results.parts[0].tool_result.content[0].media.CopyFrom(IMAGE)
    request = ModelRequest("m", [user("Look."), calling, results, user("And?")])
    roles = [message["role"] for message in chat(request)["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "user"]
    content = messages(request)["messages"][2]["content"]
    assert content[0]["content"][0]["type"] == "image"


def test_chat_reasoning_goes_back_the_way_it_came() -> None:
    first, second = answer(), answer()
    for message in (first, second):
        part = message.parts.add()
        part.reasoning.text = "Hm."
        part.reasoning.signature = b"c2ln"
        part.provider_details.update(
            {
                "reasoning_field": "reasoning_content",
                "reasoning_details": '[{"type":"reasoning.text","text":"Hm.","signature":"c2ln","index":0}]',
            }
        )
        call(message, "a")
    request = ModelRequest("m", [user("One."), first, result(("a", "1")), user("Two."), second, result(("a", "2"))])
    sent_back = [message for message in chat(request)["messages"] if message["role"] == "assistant"]
    details = [{"type": "reasoning.text", "text": "Hm.", "signature": "c2ln", "index": 0}]
    assert [message["reasoning_details"] for message in sent_back] == [details, details]
    # Plain reasoning is of use only while its calls are being answered.
    assert [message.get("reasoning_content") for message in sent_back] == [None, "Hm."]


def test_reasoning_of_other_models_stays_here() -> None:
    foreign = answer("q/m")
    part = foreign.parts.add()
    part.reasoning.text = "Hm."
    part.reasoning.signature = b"c2ln"
    part.provider_details.update({"reasoning_field": "reasoning", "reasoning_details": "[]", "block": "{}"})
    foreign.parts.add().text.text = "Yes."
    request = ModelRequest("m", [user("Well?"), foreign, user("So?")])
    assert chat(request)["messages"][1] == {"role": "assistant", "content": "Yes."}
    assert messages(request, is_cache_marked=False)["messages"][1]["content"] == [{"type": "text", "text": "Yes."}]


def test_messages_thinking_goes_back_signed() -> None:
    own = answer()
    for text, is_redacted in (("Hm.", False), ("", False), ("", True)):
        reasoning = own.parts.add().reasoning
        reasoning.text, reasoning.signature, reasoning.is_redacted = text, b"c2ln", is_redacted
    own.parts.add().reasoning.text = "unsigned"
    own.parts.add().provider_details.update({"block": '{"type":"container_upload","n":12345678901234567890}'})
    call(own, "a")
    content = messages(ModelRequest("m", [user("Go."), own, result(("a", "1"))]))["messages"][1]["content"]
    assert [block["type"] for block in content] == [
        "thinking",
        "thinking",
        "redacted_thinking",
        "container_upload",
        "tool_use",
    ]
    assert content[0] == {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    assert content[2] == {"type": "redacted_thinking", "data": "c2ln"}
    assert content[3]["n"] == 12345678901234567890


def test_messages_that_say_nothing_are_left_out() -> None:
    empty, blank = answer(), answer()
    blank.parts.add().text.text = ""
    request = ModelRequest("m", [user("One."), empty, blank, user("Two.")])
    assert [message["content"] for message in chat(request)["messages"]] == ["One.\n\nTwo."]
    (only,) = messages(request, is_cache_marked=False)["messages"]
    assert [block["text"] for block in only["content"]] == ["One.", "Two."]


def test_summaries_and_instructions() -> None:
    summary = content_pb2.Message(role=content_pb2.ROLE_USER)
    summary.parts.add().summary.text = "So far."
    instruction = content_pb2.Message(role=content_pb2.ROLE_SYSTEM)
    instruction.parts.add().text.text = "Be short."
    request = ModelRequest("m", [summary, instruction])
    assert chat(request)["messages"] == [
        {"role": "user", "content": "Summary of the conversation so far, in place of its messages:\n\nSo far."},
        {"role": "system", "content": "Be short."},
    ]
    assert messages(request)["messages"][0]["role"] == "user"


def test_results_say_that_they_are_errors() -> None:
    calling, results = answer(), result(("a", "no"))
    call(calling, "a")
    results.parts[0].tool_result.is_error = True
    content = messages(ModelRequest("m", [user("Go."), calling, results]))["messages"][2]["content"]
    assert content[0]["is_error"] is True


def block(kind: str, **fields: str) -> content_pb2.Part:
    """A block of the vendor's own as its decoder keeps it."""
    part = content_pb2.Part()
    if kind.endswith("_tool_use"):
        part.tool_call.tool_call_id, part.tool_call.is_provider_executed = fields["id"], True
    part.provider_details.fields["block"].string_value = json.dumps({"type": kind, **fields})
    return part


def test_calls_and_results_of_the_vendors_own_tools_go_back_in_pairs_or_not_at_all() -> None:
    said = answer()
    said.parts.append(block("web_search_tool_result", tool_use_id="lost-call"))
    said.parts.append(block("server_tool_use", id="whole"))
    said.parts.append(block("web_search_tool_result", tool_use_id="whole"))
    said.parts.append(block("container_upload", file_id="f"))
    said.parts.add().text.text = "so far"
    said.parts.append(block("mcp_tool_use", id="lost-result"))
    sent_back = messages(ModelRequest("m", [user("x"), said, user("y")]))["messages"][1]["content"]
    assert [(one["type"], one.get("id") or one.get("tool_use_id")) for one in sent_back] == [
        ("server_tool_use", "whole"),
        ("web_search_tool_result", "whole"),
        ("container_upload", None),
        ("text", None),
    ]

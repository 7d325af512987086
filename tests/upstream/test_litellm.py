"""Our adapters against a server that others wrote, and through it to a vendor that we play.

The proxy takes a request in any of the wire formats and asks its vendor in the vendor's own. So what arrives there
says how somebody else reads our requests, and what comes back how we read their streams.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from examples.upstream import Answer, Upstream
from tests.service.providers.collect import Collected, collect, request, user
from tests.service.providers.test_requests import IMAGE, TOOL, answer, call, result
from tests.upstream.proxy import MASTER_KEY, Proxy, configuration, running_proxy
from turnkeeper.v1 import content_pb2
from turnkeeper_service.process.clock import SystemClock
from turnkeeper_service.providers.base import FailureReason, ModelRequest
from turnkeeper_service.providers.options import ProviderOptions
from turnkeeper_service.providers.registry import FORMATS, SCRIPTED, ProviderRegistry

WIRE_FORMATS = [name for name in FORMATS if name != SCRIPTED]
# The proxy's own side of `gemini` loses images, counts, streamed calls and statuses of errors: what it keeps is held.
WHOLE = [name for name in WIRE_FORMATS if name != "gemini"]
BASES = {"gemini": "/v1beta"}
MODELS = {
    "mock": "openai/mock",
    "tokens": "anthropic/tokens-5",
    "busy": "anthropic/limited-7",
    "gone": "anthropic/status-404",
    "late": "anthropic/error-3",
}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("litellm"), MODELS) as running:
        yield running


@pytest_asyncio.fixture
async def vendor(proxy: Proxy) -> AsyncIterator[Upstream]:
    async with Upstream(port=proxy.vendor_port) as running:
        yield running


def calls_stream(*calls: tuple[str, dict[str, str]]) -> Iterator[str]:
    """An answer of the vendor's that calls tools, their arguments in two pieces."""
    usage = {"input_tokens": 12, "output_tokens": 1}
    message = {"id": "msg-1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    yield event("message_start", message=message)
    for index, (name, arguments) in enumerate(calls):
        block = {"type": "tool_use", "id": f"toolu-{index}", "name": name, "input": {}}
        yield event("content_block_start", index=index, content_block=block)
        written = json.dumps(arguments)
        for piece in (written[:3], written[3:]):
            delta = {"type": "input_json_delta", "partial_json": piece}
            yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)
    yield event("message_delta", delta={"stop_reason": "tool_use", "stop_sequence": None}, usage={"output_tokens": 6})
    yield event("message_stop")


def event(kind: str, **data: object) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n"


async def ask(proxy: Proxy, wire_format: str, asked: ModelRequest, key: str = MASTER_KEY) -> Collected:
    base_url = proxy.base_url + BASES.get(wire_format, "/v1")
    headers = {"authorization": f"Bearer {key}"} if wire_format == "gemini" else {}
    options = ProviderOptions("p", wire_format, base_url, key, headers=headers)
    registry = ProviderRegistry([options], SystemClock())
    try:
        return await collect(registry.resolve("p/m")[0], asked)
    finally:
        await registry.close()


@pytest.mark.long
@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", ["openai-chat", "gemini"])
async def test_its_own_mock(wire_format: str, proxy: Proxy) -> None:
    collected = await ask(proxy, wire_format, request("mock"))
    assert collected.error is None
    assert collected.text() == "All hands on deck."
    assert collected.finished.finish_reason == content_pb2.FINISH_REASON_END_TURN


@pytest.mark.long
@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_text(wire_format: str, proxy: Proxy, vendor: Upstream) -> None:
    collected = await ask(proxy, wire_format, request("tokens"))
    assert collected.error is None
    assert collected.text() == "t0 t1 t2 t3 t4 "
    assert collected.finished.finish_reason == content_pb2.FINISH_REASON_END_TURN
    if wire_format in WHOLE:
        assert (collected.finished.usage.input_tokens, collected.finished.usage.output_tokens) == (7, 5)


@pytest.mark.long
@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WHOLE)
async def test_calls(wire_format: str, proxy: Proxy, vendor: Upstream) -> None:
    vendor.plan(Answer.of("".join(calls_stream(("find", {"q": "left"}), ("find", {"q": "right"})))))
    collected = await ask(proxy, wire_format, ModelRequest("tokens", [user("Go.")], tools=[TOOL]))
    assert collected.error is None
    found = [(found.tool_call_id, found.name, json.loads(found.arguments_json)) for found in collected.calls]
    assert found == [("toolu-0", "find", {"q": "left"}), ("toolu-1", "find", {"q": "right"})]
    assert collected.finished.finish_reason == content_pb2.FINISH_REASON_TOOL_USE


@pytest.mark.long
@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WHOLE)
async def test_a_conversation_is_read_as_it_is_meant(wire_format: str, proxy: Proxy, vendor: Upstream) -> None:
    prompt, calling, results = user("What is on it?"), answer(), result(("c-1", "a gull"), ("c-2", "a tern"))
    prompt.parts.add().media.CopyFrom(IMAGE)
    calling.parts.add().text.text = "Looking."
    for call_id, word in (("c-1", "left"), ("c-2", "right")):
        call(calling, call_id, json.dumps({"q": word}))
    for part in results.parts:
        part.tool_result.name = "find"
    parameters = content_pb2.ModelParameters(max_output_tokens=77, temperature=0.5)
    asked = ModelRequest(
        "tokens", [prompt, calling, results], system="Be kind.", parameters=parameters, tools=[TOOL], tool_choice="auto"
    )
    collected = await ask(proxy, wire_format, asked)
    assert collected.error is None, collected.error
    body = vendor.requests[-1].json
    assert "Be kind." in json.dumps(body["system"])
    assert (body["max_tokens"], body["temperature"]) == (77, 0.5)
    assert body["tools"][0]["name"] == "find"
    assert body["tools"][0]["input_schema"]["properties"] == {"q": {"type": "string"}}
    blocks = [block for message in body["messages"] for block in message["content"]]
    kinds = [block["type"] for block in blocks]
    assert kinds == ["text", "image", "text", "tool_use", "tool_use", "tool_result", "tool_result"]
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert [block["input"] for block in blocks if block["type"] == "tool_use"] == [{"q": "left"}, {"q": "right"}]
    assert ["gull" in json.dumps(block) for block in blocks[-2:]] == [True, False]
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert [block["tool_use_id"] for block in blocks[-2:]] == calls


@pytest.mark.long
@pytest.mark.asyncio
async def test_a_gemini_conversation_is_read_as_far_as_the_proxy_does(proxy: Proxy, vendor: Upstream) -> None:
    calling, results = answer(), result(("c-1", "a gull"))
    call(calling, "c-1", '{"q":"left"}')
    results.parts[0].tool_result.name = "find"
    asked = ModelRequest("tokens", [user("What is on it?"), calling, results], system="Be kind.", tools=[TOOL])
    collected = await ask(proxy, "gemini", asked)
    assert collected.error is None
    body = vendor.requests[-1].json
    assert "Be kind." in json.dumps(body["system"])
    blocks = [block for message in body["messages"] for block in message["content"]]
    assert [block["type"] for block in blocks] == ["text", "tool_use", "tool_result"]
    assert blocks[1]["input"] == {"q": "left"}
    assert "gull" in json.dumps(blocks[2])
    assert body["tools"][0]["input_schema"]["properties"] == {"q": {"type": "string"}}


@pytest.mark.long
@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WHOLE)
@pytest.mark.parametrize(
    ("model", "reason", "is_retryable"),
    [
        ("busy", FailureReason.PROVIDER_RATE_LIMITED, True),
        ("gone", FailureReason.PROVIDER_REFUSED, False),
    ],
)
async def test_refusals(
    model: str, reason: FailureReason, is_retryable: bool, wire_format: str, proxy: Proxy, vendor: Upstream
) -> None:
    collected = await ask(proxy, wire_format, request(model))
    assert collected.error is not None
    assert (collected.error.reason, collected.error.is_retryable) == (reason, is_retryable)


@pytest.mark.long
@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_a_wrong_key(wire_format: str, proxy: Proxy) -> None:
    collected = await ask(proxy, wire_format, request("tokens"), key="sk-some-other-key")
    assert collected.error is not None
    assert collected.error.reason in (FailureReason.PROVIDER_UNAUTHENTICATED, FailureReason.PROVIDER_REFUSED)
    assert "sk-some-other-key" not in str(collected.error)


@pytest.mark.long
@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_an_error_inside_the_stream(wire_format: str, proxy: Proxy, vendor: Upstream) -> None:
    collected = await ask(proxy, wire_format, request("late"))
    assert collected.error is not None
    assert collected.text() == "t0 t1 t2 "


@pytest.mark.asyncio
async def test_the_vendors_calls_are_whole_without_the_proxy() -> None:
    async with Upstream() as vendor:
        vendor.plan(Answer.of("".join(calls_stream(("find", {"q": "left"})))))
        collected = await ask(Proxy(int(vendor.base_url.rpartition(":")[2]), 0), "anthropic-messages", request())
    assert [found.arguments_json for found in collected.calls] == ['{"q": "left"}']


def test_the_proxys_models_lead_to_the_vendor() -> None:
    written = configuration(MODELS, 1234)
    assert written.count("http://127.0.0.1:1234") == len(MODELS) - 1
    assert written.count("mock_response") == 1

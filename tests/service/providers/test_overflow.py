"""Requests that are longer than the model can hold, by the words of many vendors, over real sockets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from examples.upstream import Answer, Upstream
from tests.service.providers.collect import collect, request
from tests.service.providers.conftest import MakeProvider
from tests.service.providers.test_formats import WIRE_FORMATS, begun
from turnkeeper_service.providers.base import ProviderError
from turnkeeper_service.providers.policy.retry import RetryPolicy

CHAT, RESPONSES, ANTHROPIC, GEMINI = "openai-chat", "openai-responses", "anthropic-messages", "gemini"


def refused(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", **fields}}


OPENAI = "This model's maximum context length is 8192 tokens. However, your messages resulted in 8227 tokens."
WINDOW = "Your input exceeds the context window of this model. Please adjust your input and try again."
LLAMA = "request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it"
ENDPOINT = "This endpoint's maximum context length is 131072 tokens. However, you requested about 138956 tokens"
VLLM = (
    "You passed 202753 input tokens and requested 0 output tokens. However, the model's context length is only 202752"
)
QUOTED = json.dumps({"type": "error", "error": {"message": "prompt is too long: 200251 tokens > 200000 maximum"}})
PER_MINUTE = "Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 14810, please reduce"


async def failure(answer: Answer, wire_format: str, upstream: Upstream, make_provider: MakeProvider) -> ProviderError:
    upstream.plan(answer)
    error = (await collect(make_provider(wire_format), request())).error
    assert error is not None
    return error


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("wire_format", "status", "body"),
    [
        pytest.param(CHAT, 400, refused(OPENAI, param="messages", code="context_length_exceeded"), id="OpenAI"),
        pytest.param(CHAT, 400, refused("too long", code="context_length_exceeded"), id="Azure, by the code alone"),
        pytest.param(RESPONSES, 400, refused(WINDOW, code="context_length_exceeded"), id="OpenAI responses"),
        pytest.param(ANTHROPIC, 400, refused("prompt is too long: 208656 tokens > 200000 maximum"), id="Anthropic"),
        pytest.param(
            ANTHROPIC,
            400,
            refused(
                "input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000, decrease input length"
            ),
            id="Anthropic with the answer",
        ),
        pytest.param(ANTHROPIC, 413, refused("Request exceeds the maximum size", type="request_too_large"), id="bytes"),
        pytest.param(ANTHROPIC, 413, "<html>Payload Too Large</html>", id="a proxy's bytes"),
        pytest.param(ANTHROPIC, 400, {"message": "Input is too long for requested model."}, id="Bedrock"),
        pytest.param(
            GEMINI,
            400,
            [
                refused(
                    "The input token count (1200293) exceeds the maximum number of tokens allowed (1048576).", code=400
                )
            ],
            id="Gemini",
        ),
        pytest.param(CHAT, 400, refused(ENDPOINT, code=400), id="OpenRouter"),
        pytest.param(
            CHAT, 400, refused("Provider returned error", code=400, metadata={"raw": QUOTED}), id="OpenRouter quoting"
        ),
        pytest.param(CHAT, 400, {"object": "error", "message": OPENAI, "code": 400}, id="vLLM"),
        pytest.param(CHAT, 400, refused(VLLM, param="input_tokens"), id="newer vLLM"),
        pytest.param(
            CHAT,
            400,
            refused("The decoder prompt (length 9000) is longer than the maximum model length of 8192."),
            id="vLLM's engine",
        ),
        pytest.param(CHAT, 400, refused(LLAMA, type="exceed_context_size_error", n_ctx=4096), id="llama.cpp"),
        pytest.param(CHAT, 500, refused("Context size has been exceeded.", type="server_error"), id="llama.cpp later"),
        pytest.param(CHAT, 400, refused("Please reduce the length of the messages or completion."), id="Groq"),
        pytest.param(CHAT, 413, refused(PER_MINUTE, type="tokens", code="rate_limit_exceeded"), id="Groq per minute"),
        pytest.param(CHAT, 429, refused(PER_MINUTE, type="tokens", code="rate_limit_exceeded"), id="OpenAI per minute"),
        pytest.param(
            CHAT,
            400,
            refused("This model's maximum prompt length is 131072 but the request contains 537812 tokens."),
            id="xAI",
        ),
        pytest.param(
            CHAT, 400, refused("Your request exceeded model token limit: 262144 (requested: 291351)"), id="Moonshot"
        ),
        pytest.param(CHAT, 400, {"error": {"code": "1261", "message": "Prompt exceeds max length"}}, id="Z.ai"),
        pytest.param(
            CHAT,
            422,
            {"error": "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000", "error_type": "validation"},
            id="TGI",
        ),
    ],
)
async def test_a_request_that_no_model_of_theirs_holds(
    wire_format: str, status: int, body: Any, upstream: Upstream, make_provider: MakeProvider
) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    error = await failure(Answer.error(status, text), wire_format, upstream, make_provider)
    assert error.is_context_overflow
    assert error.status == status
    assert RetryPolicy().delay(error, 1) is None


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "error": {"type": "invalid_request_error", "code": "context_length_exceeded", "message": ""}},
        {"type": "error", "error": {"code": 500, "type": "server_error", "message": "Context size has been exceeded."}},
        {"type": "error", "error": {"code": 502, "message": "upstream", "metadata": {"raw": QUOTED}}},
    ],
)
async def test_an_error_inside_the_stream_says_so_too(
    wire_format: str, event: dict[str, Any], upstream: Upstream, make_provider: MakeProvider
) -> None:
    tail = f"event: error\ndata: {json.dumps(event)}\n\n".encode()
    error = await failure(Answer([begun(wire_format), tail]), wire_format, upstream, make_provider)
    assert error.is_context_overflow
    assert not error.is_retryable


@pytest.mark.asyncio
async def test_the_events_that_only_one_format_has(upstream: Upstream, make_provider: MakeProvider) -> None:
    failed = {"status": "failed", "error": {"code": "context_length_exceeded", "message": WINDOW}}
    events = [
        (RESPONSES, {"type": "response.failed", "response": failed}),
        (RESPONSES, {"type": "error", "code": "context_length_exceeded", "message": WINDOW}),
        (CHAT, {"error": {"object": "error", "message": OPENAI, "type": "BadRequestError", "code": 400}}),
    ]
    for wire_format, event in events:
        answer = Answer.of(f"data: {json.dumps(event)}\n\n")
        assert (await failure(answer, wire_format, upstream, make_provider)).is_context_overflow


@pytest.mark.asyncio
async def test_an_error_with_status_200_that_is_no_stream(upstream: Upstream, make_provider: MakeProvider) -> None:
    answer = Answer.error(200, json.dumps(refused(ENDPOINT, code=400)))
    assert (await failure(answer, CHAT, upstream, make_provider)).is_context_overflow


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, refused("Rate limit reached on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000.")),
        (429, {"message": "Too many tokens, please wait before trying again."}),
        (429, refused("You exceeded your current quota, please check your plan and billing details.")),
        (400, refused("max_tokens: 300000 > 64000, which is the maximum allowed number of output tokens")),
        (400, refused("max_tokens is too large: 100000. This model supports at most 16384 completion tokens")),
        (400, refused("messages.0.content: text content blocks must be non-empty")),
        (401, refused("prompt is too long", code="invalid_api_key")),
        (422, {"detail": [{"loc": ["body"], "msg": "Field required", "input": "the prompt is too long, he said"}]}),
        (500, refused("The server had an error while processing your request.", type="server_error")),
    ],
)
async def test_other_limits_and_other_errors_are_not_meant(
    status: int, body: Any, upstream: Upstream, make_provider: MakeProvider
) -> None:
    error = await failure(Answer.error(status, json.dumps(body)), CHAT, upstream, make_provider)
    assert not error.is_context_overflow

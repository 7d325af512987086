"""Answers without an end whose bytes are no text: signatures, details, names. They are bounded like any other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from examples.upstream import Answer, Upstream
from tests.service.providers.collect import collect, request
from turnkeeper_service.process.clock import SystemClock
from turnkeeper_service.providers.base import FailureReason
from turnkeeper_service.providers.options import ProviderOptions
from turnkeeper_service.providers.registry import ProviderRegistry

LONG = "x" * 500_000
MOST_CHUNKS = 200
"""A hundred megabytes: whoever takes all of them has no bound."""


def chat(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def block(**content: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": 0, "content_block": content}


def grown(**delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": delta}


def gemini(**part: Any) -> dict[str, Any]:
    return {"candidates": [{"index": 0, "content": {"parts": [part]}}]}


def done(**item: Any) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": 0, "item": item}


CASES: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
    "signature": (
        "anthropic-messages",
        [block(type="thinking", thinking="")],
        grown(type="signature_delta", signature=LONG),
    ),
    "citations": (
        "anthropic-messages",
        [block(type="text", text="")],
        grown(type="citations_delta", citation={"type": "char_location", "cited_text": LONG}),
    ),
    "own result": ("anthropic-messages", [], block(type="web_search_tool_result", tool_use_id="a", content=LONG)),
    "name": ("anthropic-messages", [], block(type="tool_use", id="a", name=LONG)),
    "name in pieces": (
        "openai-chat",
        [chat(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f"}}])],
        chat(tool_calls=[{"index": 0, "id": "a", "function": {"name": LONG}}]),
    ),
    "details": ("openai-chat", [], chat(reasoning_details=[{"type": "reasoning.encrypted", "data": LONG}])),
    "own call": ("openai-responses", [], done(type="image_generation_call", id="a", status="completed", result=LONG)),
    "seal": ("openai-responses", [], done(type="reasoning", id="a", summary=[], encrypted_content=LONG)),
    "signature of a text": ("gemini", [], gemini(text="", thoughtSignature=LONG)),
    "signature of a call": ("gemini", [], gemini(functionCall={"name": "f", "args": {}}, thoughtSignature=LONG)),
    "own code": ("gemini", [], gemini(executableCode={"code": LONG})),
    "own outcome": ("gemini", [], gemini(codeExecutionResult={"output": LONG})),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.asyncio
async def test_what_is_no_text_is_bounded(case: str) -> None:
    wire_format, first, again = CASES[case]
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        for event in itertools.chain(first, itertools.repeat(again, MOST_CHUNKS)):
            taken += 1
            yield f"data: {json.dumps(event)}\n\n".encode()

    async with Upstream() as upstream:
        registry = ProviderRegistry([ProviderOptions("p", wire_format, upstream.base_url)], SystemClock())
        provider, model = registry.resolve("p/m")
        upstream.plan(Answer(chunks()))
        try:
            collected = await collect(provider, request(model))
        finally:
            await registry.close()
    assert collected.error is not None
    assert (collected.error.reason, collected.error.title) == (FailureReason.PROVIDER_PROTOCOL, "Answer too large")
    assert taken < MOST_CHUNKS // 2

"""The project's own streams, one per quirk, whole and cut into single bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.upstream import Answer, Upstream, streams_folder
from tests.service.providers.collect import Collected, collect, request
from tests.service.providers.conftest import MakeProvider
from tests.service.providers.test_recordings import compare
from turnkeeper.v1 import content_pb2
from turnkeeper_service.process.clock import SystemClock
from turnkeeper_service.providers.base import PartKind
from turnkeeper_service.providers.options import ProviderOptions
from turnkeeper_service.providers.registry import ProviderRegistry

STREAMS = sorted(streams_folder().glob("*/*.sse"))


def load(path: Path, cut: int) -> Answer:
    return Answer.of(path.read_bytes(), cut=cut)


async def play(path: Path, cut: int = 0) -> Collected:
    answer = load(path, cut)
    async with Upstream() as upstream:
        registry = ProviderRegistry([ProviderOptions("p", path.parent.name, upstream.base_url)], SystemClock())
        provider, model = registry.resolve("p/m")
        upstream.plan(answer)
        try:
            return await collect(provider, request(model))
        finally:
            await registry.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("cut", [0, 1, 37])
@pytest.mark.parametrize("path", STREAMS, ids=lambda path: f"{path.parent.name}-{path.stem}")
async def test_stream(path: Path, cut: int) -> None:
    expected = json.loads(path.with_suffix(".json").read_text())
    assert compare(await play(path, cut), {"notes": "", **expected}) == []


def stream(name: str) -> Path:
    return streams_folder() / f"{name}.sse"


@pytest.mark.asyncio
async def test_parts_keep_the_order_of_text_and_calls() -> None:
    collected = await play(stream("openai-chat/call-between-texts"))
    assert collected.kinds == [PartKind.TEXT, PartKind.TOOL_CALL, PartKind.TEXT]


@pytest.mark.asyncio
async def test_invalid_arguments_are_kept_and_marked() -> None:
    collected = await play(stream("openai-chat/call-invalid"))
    (part,) = collected.parts
    assert part.tool_call.arguments_json == "{}"
    assert part.provider_details.fields["invalid_arguments"].string_value == '{"place": pier'


@pytest.mark.asyncio
async def test_a_signature_stays_with_its_reasoning() -> None:
    collected = await play(stream("openai-chat/reasoning-signed"))
    reasoning = collected.parts[0].reasoning
    assert (reasoning.text, reasoning.signature) == ("Weigh it.", b"c2VhbGVk")


@pytest.mark.asyncio
async def test_redacted_thinking_is_a_part_without_text() -> None:
    collected = await play(stream("anthropic-messages/sealed"))
    sealed, signed = (part.reasoning for part in collected.parts[:2])
    assert (sealed.is_redacted, sealed.signature, sealed.text) == (True, b"b3BhcXVl", "")
    assert (signed.is_redacted, signed.signature) == (False, b"b25seQ==")


@pytest.mark.asyncio
async def test_the_providers_own_tools_are_parts_that_nobody_here_answers() -> None:
    collected = await play(stream("anthropic-messages/own-tools"))
    assert collected.kinds == [PartKind.TEXT, PartKind.TOOL_CALL, PartKind.PROVIDER, PartKind.TEXT]
    call = collected.parts[1].tool_call
    assert call.is_provider_executed
    assert json.loads(call.arguments_json) == {"query": "tides"}
    block = json.loads(collected.parts[2].provider_details.fields["block"].string_value)
    assert (block["type"], block["tool_use_id"]) == ("web_search_tool_result", "srv-1")


@pytest.mark.asyncio
async def test_an_unknown_block_keeps_what_its_deltas_brought() -> None:
    collected = await play(stream("anthropic-messages/unknown-block"))
    block = json.loads(collected.parts[0].provider_details.fields["block"].string_value)
    assert block == {"type": "compaction", "content": "What was said before."}


@pytest.mark.asyncio
async def test_an_error_says_whether_trying_again_may_help() -> None:
    overloaded = await play(stream("anthropic-messages/error"))
    refused = await play(stream("openai-chat/error-in-chunk"))
    assert overloaded.error is not None
    assert refused.error is not None
    assert (overloaded.error.is_retryable, overloaded.error.detail) == (True, "too many at the well")
    assert (refused.error.is_retryable, refused.error.detail) == (False, "out of paper")
    assert refused.error.usage is not None
    assert refused.error.usage.input_tokens == 4


@pytest.mark.asyncio
async def test_usage_counts_one_call() -> None:
    collected = await play(stream("openai-chat/no-done"))
    assert collected.finished.usage.num_calls == 1
    assert collected.finished.finish_reason == content_pb2.FINISH_REASON_MAX_TOKENS


@pytest.mark.asyncio
async def test_half_a_surrogate_pair_costs_one_character(upstream: Upstream, make_provider: MakeProvider) -> None:
    texts = (r"a\ud83d", r"\ude00b", r"\ud83d\ude00")
    chunks = ['{"choices":[{"delta":{"content":"' + text + '"}}]}' for text in texts]
    upstream.plan(Answer.of("".join(f"data: {chunk}\n\n" for chunk in [*chunks, "[DONE]"])))
    collected = await collect(make_provider(), request())
    assert collected.text() == "a\ufffd\ufffdb😀"

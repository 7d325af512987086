"""What every wire format does alike, good or bad, over real sockets."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools

import pytest

from examples.upstream import Answer, Ending, Upstream, streams_folder
from tests.service.providers.collect import after, collect, request
from tests.service.providers.conftest import MakeProvider
from turnkeeper_service.providers.base import FailureReason
from turnkeeper_service.providers.registry import FORMATS, SCRIPTED

WIRE_FORMATS = [name for name in FORMATS if name != SCRIPTED]
KEY = "key-of-ours"
KEY_HEADERS = {
    "openai-chat": ("authorization", f"Bearer {KEY}"),
    "openai-responses": ("authorization", f"Bearer {KEY}"),
    "anthropic-messages": ("x-api-key", KEY),
    "gemini": ("x-goog-api-key", KEY),
}
PATHS = {
    "openai-chat": "/v1/chat/completions",
    "openai-responses": "/v1/responses",
    "anthropic-messages": "/v1/messages",
    "gemini": "/v1/models/m:streamGenerateContent?alt=sse",
}
DELTAS = {
    "openai-chat": '{"choices":[{"delta":{"content":"%s"}}]}',
    "openai-responses": '{"type":"response.output_text.delta","output_index":0,"content_index":0,"delta":"%s"}',
    "anthropic-messages": '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}',
    "gemini": '{"candidates":[{"content":{"parts":[{"text":"%s"}]}}]}',
}
BEGIN = {
    "anthropic-messages": 'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
}


def delta(wire_format: str, text: str) -> bytes:
    return f"data: {DELTAS[wire_format] % text}\n\n".encode()


def begun(wire_format: str) -> bytes:
    """An answer that has two pieces of text and no end."""
    return BEGIN.get(wire_format, "").encode() + delta(wire_format, "a") + delta(wire_format, "b")


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_path_key_and_affinity(wire_format: str, upstream: Upstream, make_provider: MakeProvider) -> None:
    upstream.plan(*[Answer.of((streams_folder() / wire_format / "plain.sse").read_bytes()) for _ in range(2)])
    provider = make_provider(wire_format, base_url=f"{upstream.base_url}/v1/", api_key=KEY)
    for session_hash in ("h4sh", ""):
        collected = await collect(provider, dataclasses.replace(request(), session_hash=session_hash))
        assert collected.error is None
    first, second = upstream.requests
    assert (first.method, first.path) == ("POST", PATHS[wire_format])
    name, value = KEY_HEADERS[wire_format]
    assert first.headers[name] == value
    assert (first.headers["x-session-id"], first.headers["x-session-affinity"]) == ("h4sh", "h4sh")
    assert not {"x-session-id", "x-session-affinity"} & set(second.headers)
    await upstream.until(lambda: upstream.num_requests_open == 0)
    assert upstream.total_connections == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_no_key_is_no_header(wire_format: str, upstream: Upstream, make_provider: MakeProvider) -> None:
    await collect(make_provider(wire_format), request())
    assert KEY_HEADERS[wire_format][0] not in upstream.requests[0].headers


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
@pytest.mark.parametrize(
    ("tail", "ending", "reason", "is_retryable"),
    [
        (b"", Ending.END, FailureReason.PROVIDER_STREAM_BROKEN, True),
        (b"", Ending.CUT, FailureReason.PROVIDER_STREAM_BROKEN, True),
        (b"", Ending.RESET, FailureReason.PROVIDER_STREAM_BROKEN, True),
        (b'data: {"half', Ending.END, FailureReason.PROVIDER_STREAM_BROKEN, True),
        (b'data: {"half\n\n', Ending.END, FailureReason.PROVIDER_PROTOCOL, False),
        (b"data: [1, 2]\n\n", Ending.END, FailureReason.PROVIDER_PROTOCOL, False),
        (b'data: "\xff"\n\n', Ending.END, FailureReason.PROVIDER_PROTOCOL, False),
        (b'event: error\ndata: {"error":{"code":529,"message":"busy"}}\n\n', Ending.END, "PROVIDER_ERROR", True),
        (b'event: error\ndata: {"error":{"message":"no credit"}}\n\n', Ending.END, "PROVIDER_ERROR", False),
    ],
)
async def test_streams_that_break(
    tail: bytes,
    ending: Ending,
    reason: str,
    is_retryable: bool,
    wire_format: str,
    upstream: Upstream,
    make_provider: MakeProvider,
) -> None:
    upstream.plan(Answer([begun(wire_format), tail] if tail else [begun(wire_format)], ending=ending))
    collected = await collect(make_provider(wire_format), request())
    assert collected.error is not None
    assert (collected.error.reason, collected.error.is_retryable) == (reason, is_retryable)
    assert collected.text() == "ab"


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_an_answer_without_end(wire_format: str, upstream: Upstream, make_provider: MakeProvider) -> None:
    piece = delta(wire_format, "x" * 16_000)
    upstream.plan(Answer(itertools.chain([begun(wire_format)], itertools.repeat(piece, 6000))))
    collected = await collect(make_provider(wire_format), request())
    assert collected.error is not None
    assert collected.error.reason is FailureReason.PROVIDER_PROTOCOL
    assert 8_000_000 < len(collected.text()) <= 8 * 1024 * 1024
    await upstream.until(lambda: upstream.num_connections == 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_a_cancel_closes_the_socket(wire_format: str, upstream: Upstream, make_provider: MakeProvider) -> None:
    upstream.plan(Answer([begun(wire_format)], ending=Ending.HANG))
    seen = asyncio.Event()
    task = asyncio.create_task(after(make_provider(wire_format).stream(request()), 2, seen))
    await seen.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await upstream.until(lambda: upstream.num_connections == 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_refusals(status: int, wire_format: str, upstream: Upstream, make_provider: MakeProvider) -> None:
    upstream.plan(Answer.error(status, '{"error":{"message":"as it is"}}', retry_after="3"))
    collected = await collect(make_provider(wire_format), request())
    assert collected.error is not None
    assert (collected.error.status, collected.error.retry_after) == (status, 3)
    assert "as it is" in collected.error.detail


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_a_mute_stream_says_that_it_failed(
    wire_format: str, upstream: Upstream, make_provider: MakeProvider
) -> None:
    upstream.plan(Answer.of(": nothing\n\n"))
    collected = await collect(make_provider(wire_format), request())
    assert collected.error is not None
    assert collected.error.reason is FailureReason.PROVIDER_STREAM_BROKEN

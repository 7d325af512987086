"""What a decoder kept of one answer makes the request that the vendor's next answer was recorded for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from examples.upstream import Exchange, Upstream, load_exchanges
from tests.service.providers.collect import collect, request
from tests.service.providers.recorded_requests import MODEL, READERS, read
from tests.service.providers.test_requests_recorded import BUILDERS
from tests.support.recordings import Recordings
from turnkeeper.v1 import content_pb2
from turnkeeper_service.process.clock import SystemClock
from turnkeeper_service.providers.base import ModelRequest, Provider
from turnkeeper_service.providers.options import ProviderOptions
from turnkeeper_service.providers.registry import ProviderRegistry

# How many steps the recordings of a format hold that go on with tool results.
STEPS = {"openai-chat": 37, "openai-responses": 12, "anthropic-messages": 5, "gemini": 9}


def essence(messages: Sequence[content_pb2.Message]) -> list[tuple[Any, ...]]:
    """Calls with their signatures, and results, in order."""
    found: list[tuple[Any, ...]] = []
    for part in (part for message in messages for part in message.parts):
        if part.HasField("tool_call") and not part.tool_call.is_provider_executed:
            call = part.tool_call
            signature = part.provider_details.fields["thought_signature"].string_value
            found.append(("call", call.tool_call_id, call.name, json.loads(call.arguments_json), signature))
        elif part.HasField("tool_result"):
            result = part.tool_result
            found.append(("result", result.tool_call_id, result.name, result.content[0].text.text))
    return found


def seals(messages: Sequence[content_pb2.Message]) -> set[bytes]:
    return {part.reasoning.signature for message in messages for part in message.parts} - {b""}


def recorded_request(wire_format: str, exchange: Exchange) -> ModelRequest:
    body = exchange.request["body"]
    return read(wire_format, json.loads(body) if isinstance(body, str) else body)


def ids_by_order(items: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The same with ids that say which call is meant and no more: those who mint them do it in their own ways."""
    order: dict[str, int] = {}
    return [(kind, order.setdefault(call_id, len(order)), *rest) for kind, call_id, *rest in items]


async def next_request(
    now: ModelRequest, then: ModelRequest, upstream: Upstream, provider: Provider
) -> ModelRequest | None:
    """The next request with the decoded answer in the place of the recorded one; None if there are no results."""
    collected = await collect(provider, request())
    added = list(then.messages)[len(now.messages) :]
    results = [message for message in added if message.role == content_pb2.ROLE_TOOL]
    if not results or collected.error is not None:
        return None
    answer = content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, model=MODEL, parts=collected.parts)
    # The recorded client answered under its own ids where the vendor sent none.
    ours = [call.tool_call_id for call in collected.calls]
    answered = [part.tool_result for message in results for part in message.parts]
    for result, call_id in zip(answered, ours, strict=True):
        result.tool_call_id = call_id
    return dataclasses.replace(then, messages=[*now.messages, answer, *results])


async def hold(path: Path, wire_format: str, upstream: Upstream, provider: Provider) -> int:
    """Go through the steps of one file; returns how many of them were compared."""
    exchanges = [exchange for exchange in load_exchanges(path) if exchange.is_stream]
    steps = 0
    for exchange, following in pairwise(exchanges):
        now, wanted = (recorded_request(wire_format, one) for one in (exchange, following))
        upstream.plan(exchange.answer(cut=4096))
        ours = await next_request(now, recorded_request(wire_format, following), upstream, provider)
        if ours is None:
            continue
        built = read(wire_format, json.loads(BUILDERS[wire_format](ours, ProviderOptions("p", wire_format))))
        assert ids_by_order(essence(built.messages)) == ids_by_order(essence(wanted.messages)), path.name
        # Some recorded clients left reasoning out; what they sent, we send too.
        assert seals(wanted.messages) <= seals(built.messages), path.name
        steps += 1
    return steps


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", sorted(READERS))
async def test_conversations(wire_format: str, recordings: Recordings) -> None:
    steps = 0
    async with Upstream() as upstream:
        registry = ProviderRegistry([ProviderOptions("p", wire_format, upstream.base_url)], SystemClock())
        try:
            for path in recordings.paths(wire_format):
                steps += await hold(path, wire_format, upstream, registry.resolve("p/m")[0])
        finally:
            await registry.close()
    assert not recordings.folder or steps == STEPS[wire_format]

"""Every recorded stream of every format ends in what the vendors' own clients end in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from examples.upstream import Upstream, load_exchanges
from tests.service.providers.collect import Collected, collect, request
from tests.support.recordings import Recordings
from turnkeeper.v1 import content_pb2
from turnkeeper_service.process.clock import SystemClock
from turnkeeper_service.providers.base import FailureReason, PartKind
from turnkeeper_service.providers.options import ProviderOptions
from turnkeeper_service.providers.registry import FORMATS, SCRIPTED, ProviderRegistry

FINISH = {
    "end_turn": content_pb2.FINISH_REASON_END_TURN,
    "tool_use": content_pb2.FINISH_REASON_TOOL_USE,
    "max_tokens": content_pb2.FINISH_REASON_MAX_TOKENS,
    "content_filter": content_pb2.FINISH_REASON_CONTENT_FILTER,
    "other": content_pb2.FINISH_REASON_OTHER,
    "unknown": content_pb2.FINISH_REASON_UNSPECIFIED,
}
COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", [name for name in FORMATS if name != SCRIPTED])
async def test_recordings(wire_format: str, recordings: Recordings) -> None:
    async with Upstream() as upstream:
        registry = ProviderRegistry([ProviderOptions("p", wire_format, upstream.base_url)], SystemClock())
        try:
            for path in recordings.paths(wire_format):
                expected = json.loads(recordings.expected(path).read_text())
                num_exchanges = await replay(path, expected, upstream, registry)
                recordings.replayed(path, passed=num_exchanges, total=num_exchanges)
        finally:
            await registry.close()


async def replay(path: Path, results: list[dict[str, Any]], upstream: Upstream, registry: ProviderRegistry) -> int:
    """Replay the streams of one file, in pieces that cut across events, and compare."""
    expected = {item["exchange"]: item for item in results}
    provider, model = registry.resolve("p/m")
    streams = [exchange for exchange in load_exchanges(path) if exchange.is_stream]
    assert [exchange.number for exchange in streams] == sorted(expected)
    for exchange in streams:
        upstream.plan(exchange.answer(cut=997))
        collected = await collect(provider, request(model))
        differences = compare(collected, expected[exchange.number])
        assert not differences, f"{path.name} exchange {exchange.number}: {differences}"
    return len(streams)


def is_signed(part: content_pb2.Part) -> bool:
    """Whether the part is reasoning with a signature, or carries one that belongs to the reasoning before it."""
    return bool(part.reasoning.signature) or "thought_signature" in part.provider_details.fields


def compare(collected: Collected, expected: dict[str, Any]) -> list[str]:
    """What differs, field by field; a field that is marked ambiguous is not looked at."""
    notes = expected["notes"]
    ambiguous = {name.strip() for note in notes.split("AMBIGUOUS(")[1:] for name in note.partition(")")[0].split(",")}
    found: dict[str, Any] = {
        "text": collected.text(),
        "reasoning": collected.text(PartKind.REASONING),
        "reasoning_signature_present": any(map(is_signed, collected.parts)),
        "tool_calls": [(call.tool_call_id, call.name, json.loads(call.arguments_json)) for call in collected.calls],
    }
    if any(call["id"] is None for call in expected["tool_calls"]):
        # The vendor names no calls: any ids do, as long as they differ.
        assert len({call.tool_call_id for call in collected.calls}) == len(collected.calls)
        found["tool_calls"] = [(None, name, arguments) for _, name, arguments in found["tool_calls"]]
    wanted: dict[str, Any] = {name: expected[name] for name in found}
    wanted["tool_calls"] = [(call["id"], call["name"], call["arguments"]) for call in expected["tool_calls"]]
    usage = collected.usage or content_pb2.Usage()
    said = {field.name: value for field, value in usage.ListFields()}
    for name in COUNTS:
        found[name] = said.get(name)
        wanted[name] = expected["usage"][name]
    if expected["finish_normalized"] == "error":
        found["error"] = collected.error.reason if collected.error else None
        wanted["error"] = FailureReason.PROVIDER_ERROR
    elif collected.error is not None:
        return [f"{collected.error}"]
    else:
        found["finish"] = collected.finished.provider_finish_reason or None
        wanted["finish"] = expected["finish"]
        found["finish_normalized"] = collected.finished.finish_reason
        wanted["finish_normalized"] = FINISH[expected["finish_normalized"]]
    if "usage" in ambiguous:
        ambiguous |= set(COUNTS)
    names = [name for name in wanted if name not in ambiguous]
    return [f"{name}: {found[name]!r} is not {wanted[name]!r}" for name in names if found[name] != wanted[name]]

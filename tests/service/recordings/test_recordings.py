"""Every recording through the running service: the client reads what the vendors' own clients end in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from examples.upstream import Exchange, Request, Upstream, load_exchanges
from tests.service.harness import serving
from tests.service.providers.recorded_requests import read
from tests.service.providers.test_conversations import essence, ids_by_order, recorded_request, seals
from tests.service.providers.test_recordings import compare
from tests.service.recordings.conversation import Conversation, Held, conversations
from tests.support.recordings import Recordings
from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.providers.registry import FORMATS, SCRIPTED


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", [name for name in FORMATS if name != SCRIPTED])
async def test_recordings(wire_format: str, recordings: Recordings, tmp_path: Path) -> None:
    provider = {f"providers__{wire_format}__format": wire_format}
    num_deltas = 0
    async with Upstream() as upstream:
        provider[f"providers__{wire_format}__base_url"] = upstream.base_url
        async with serving(tmp_path, **provider) as server:  # type: ignore[arg-type]
            for path in recordings.paths(wire_format):
                expected = {item["exchange"]: item for item in json.loads(recordings.expected(path).read_text())}
                streams = [exchange for exchange in load_exchanges(path) if exchange.is_stream]
                for number, exchanges in enumerate(conversations(wire_format, streams)):
                    name = f"{path.stem[:100]}-{number}"
                    held = await Conversation.hold(server, upstream, wire_format, name, exchanges)
                    check(held, exchanges, expected, name)
                    asked = upstream.requests[-len(exchanges) :]
                    check_requests(wire_format, asked, exchanges, name)
                    num_deltas += held.num_deltas
                recordings.replayed(path, passed=len(streams), total=len(expected))
    assert not recordings.folder or num_deltas > 0


def check(held: Held, exchanges: Sequence[Exchange], expected: dict[int, dict[str, Any]], name: str) -> None:
    """Every answer is as expected, and every run ended as its last answer says."""
    assert len(held.answers) == len(exchanges), name
    for exchange, answer in zip(exchanges, held.answers, strict=True):
        differences = compare(answer, expected[exchange.number])
        assert not differences, f"{name} exchange {exchange.number}: {differences}"
    failed = [answer for answer in held.answers if answer.error is not None]
    statuses = [outcome.status for outcome in held.outcomes]
    assert statuses.count(event_pb2.OUTCOME_STATUS_FAILED) == len(failed), name
    assert statuses.count(event_pb2.OUTCOME_STATUS_COMPLETED) == len(statuses) - len(failed), name


def check_requests(wire_format: str, asked: Sequence[Request], exchanges: Sequence[Exchange], name: str) -> None:
    """The requests of the conversation say what the recorded ones say."""
    for request, exchange in zip(asked, exchanges, strict=True):
        built, wanted = read(wire_format, request.json), recorded_request(wire_format, exchange)
        assert ids_by_order(essence(built.messages)) == ids_by_order(essence(wanted.messages)), name
        assert prompts(built.messages) == prompts(wanted.messages), name
        assert seals(wanted.messages) <= seals(built.messages), name
        assert built.system == wanted.system, name
        assert {tool.name for tool in built.tools} == {tool.name for tool in wanted.tools}, name


def prompts(messages: Sequence[content_pb2.Message]) -> list[content_pb2.Part]:
    """What users said."""
    return [part for message in messages if message.role == content_pb2.ROLE_USER for part in message.parts]

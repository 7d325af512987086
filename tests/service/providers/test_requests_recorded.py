"""Requests of recorded conversations, built anew, say the same in the same shape."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from examples.upstream import load_exchanges
from tests.service.providers.recorded_requests import READERS, Json, paths, read
from tests.support.recordings import Recordings
from turnkeeper_service.providers.base import ModelRequest
from turnkeeper_service.providers.formats.anthropic_messages import request as anthropic_messages_request
from turnkeeper_service.providers.formats.gemini import request as gemini_request
from turnkeeper_service.providers.formats.openai_chat import request as openai_chat_request
from turnkeeper_service.providers.formats.openai_responses import request as openai_responses_request
from turnkeeper_service.providers.options import ProviderOptions

BUILDERS: dict[str, Callable[[ModelRequest, ProviderOptions], bytes]] = {
    "openai-chat": openai_chat_request.build_body,
    "openai-responses": openai_responses_request.build_body,
    "anthropic-messages": anthropic_messages_request.build_body,
    "gemini": gemini_request.build_body,
}
# Where our bodies have values that no recording happens to have, each allowed by the vendor's own description.
BESIDES = {
    "openai-chat": {".response_format.json_schema.strict"},
    # The system prompt as instructions is recorded elsewhere; a strict schema is what the field is for.
    "openai-responses": {".text.format.strict"},
    "anthropic-messages": {
        ".tools[].cache_control.type",
        ".system[].cache_control.type",
        ".messages[].content[].content[].text",
    },
    # Schemas go as they are; the recordings have them in the vendor's older form of types in capitals.
    "gemini": {".tools[].functionDeclarations[].parametersJsonSchema"},
}


def bodies(wire_format: str, recordings: Recordings) -> list[tuple[str, Json]]:
    found = []
    for path in recordings.paths(wire_format):
        for exchange in load_exchanges(path):
            body = exchange.request["body"]
            if exchange.is_stream:
                found.append((f"{path.name} {exchange.number}", json.loads(body) if isinstance(body, str) else body))
    return found


@pytest.mark.parametrize("wire_format", sorted(READERS))
def test_recorded_requests(wire_format: str, recordings: Recordings) -> None:
    recorded = bodies(wire_format, recordings)
    known = {path for _, body in recorded for path in paths(body)} | BESIDES[wire_format]
    options = ProviderOptions("p", wire_format)
    for name, body in recorded:
        wanted = read(wire_format, body)
        built = json.loads(BUILDERS[wire_format](wanted, options))
        assert read(wire_format, built) == wanted, name
        assert set(paths(built)) <= known, name

"""Whatever bytes a tool server sends: what is read of them, the SDK takes, in every version of the protocol."""

from __future__ import annotations

import json
import random
from typing import Any

import mcp_types
import pytest
from mcp_types import jsonrpc_message_adapter, methods
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS

from turnkeeper.v1 import content_pb2
from turnkeeper_service.engine.calls.results import problem_of
from turnkeeper_service.tools.mcp.content import result_of
from turnkeeper_service.tools.mcp.messages import Exchange

ROUNDS = 1500
RESULTS: dict[str, list[Any]] = {
    "tools/call": [
        {"resultType": "complete", "content": [{"type": "text", "text": "x"}], "structuredContent": {"a": [1]}},
        {
            "content": [
                {"type": "image", "data": "aGVsbG8=", "mimeType": "image/png"},
                {"type": "resource", "resource": {"uri": "a", "blob": "aGVsbG8="}},
                {"type": "resource_link", "uri": "a", "name": "b"},
            ],
            "isError": False,
            "_meta": {},
        },
    ],
    "tools/list": [
        {
            "tools": [
                {
                    "name": "a",
                    "title": "A",
                    "inputSchema": {"type": "object", "properties": {"a": {}}, "required": ["a"]},
                    "annotations": {"readOnlyHint": True},
                    "execution": {"taskSupport": "required"},
                }
            ],
            "nextCursor": "x",
        }
    ],
    "initialize": [
        {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {"listChanged": True}},
            "serverInfo": {"name": "a", "version": "b"},
            "instructions": "x",
        }
    ],
}
ODD: list[Any] = [None, True, 0, -1, 1.5, 1e308, float("nan"), 10**30, "", "x", "\ud800", [], {}, [[]], {"a": None}]


def mutated(value: Any, chance: random.Random) -> Any:
    """The value with some of it lost, doubled, or something else."""
    if chance.random() < 0.15:
        return chance.choice(ODD)
    if isinstance(value, dict):
        return {key: mutated(one, chance) for key, one in value.items() if chance.random() > 0.05}
    if isinstance(value, list):
        return [mutated(one, chance) for one in value] * chance.choice([1, 1, 2])
    return value


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes with a few of them lost, more, or others."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(made))
        made[place : place + chance.randint(0, 1)] = chance.randbytes(chance.randint(0, 1))
    return bytes(made)


def check(method: str, message: dict[str, Any]) -> None:
    """The SDK takes a message, as the answer to a request where it is one."""
    json.dumps(message)
    jsonrpc_message_adapter.validate_python(message, by_name=False)
    if "result" not in message or message["id"] != 1:
        return
    for version in KNOWN_PROTOCOL_VERSIONS:
        if (method, version) in methods.SERVER_RESULTS:
            methods.validate_server_result(method, version, message["result"])
    if method == "tools/call":
        call = content_pb2.ToolCall(tool_call_id="c", name="n")
        result = result_of(call, mcp_types.CallToolResult.model_validate(message["result"]))
        assert problem_of(result) == ""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", RESULTS)
def test_what_is_read_is_what_the_sdk_takes(method: str, seed: int) -> None:
    chance = random.Random(seed)
    num_read = 0
    for _ in range(ROUNDS):
        message = {"jsonrpc": "2.0", "id": 1, "result": chance.choice(RESULTS[method])}
        if chance.random() < 0.7:
            message = {**message, "result": mutated(message["result"], chance)}
        data = json.dumps(message).encode()
        if chance.random() < 0.4:
            data = damaged(data, chance)
        # Over HTTP it is known which request is answered; from a child it is not.
        for answers in (None, 1):
            exchange = Exchange("odd")
            exchange.asked(1, method)
            for read in exchange.read(data, answers):
                check(method, read)
                num_read += 1
    assert num_read > ROUNDS

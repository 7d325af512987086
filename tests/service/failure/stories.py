"""What the tests of failures share: directives of the scripted provider, and what they look for in a history."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.service.harness import Harness
from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.providers.gates import Gates

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
COMPLETED = event_pb2.OUTCOME_STATUS_COMPLETED
CANCELLED = event_pb2.OUTCOME_STATUS_CANCELLED
FAILED = event_pb2.OUTCOME_STATUS_FAILED
FOLDED = event_pb2.OUTCOME_STATUS_FOLDED
EXPIRED = event_pb2.OUTCOME_STATUS_EXPIRED


def directive(text: str | None = "one two three four", gate: str = "", gate_after: int = 0, **more: Any) -> str:
    """A prompt that tells the scripted provider what to answer; with a gate before the token of that number."""
    fields: dict[str, Any] = {"text": text, **more}
    if gate:
        fields |= {"gate": gate, "gate_after": gate_after}
    return json.dumps(fields)


def reason_of(outcome: event_pb2.Outcome) -> str:
    """An outcome as ``STATUS/REASON``, without the prefixes."""
    status = event_pb2.OutcomeStatus.Name(outcome.status).removeprefix("OUTCOME_STATUS_")
    reason = event_pb2.OutcomeReason.Name(outcome.reason).removeprefix("OUTCOME_REASON_")
    return f"{status}/{reason}"


def kinds(events: Sequence[event_pb2.Event], run_id: str = "") -> list[str]:
    """The payloads' names, of one run or of all."""
    return [str(event.WhichOneof("payload")) for event in events if run_id in ("", event.run_id)]


def started_order(events: Sequence[event_pb2.Event]) -> list[str]:
    """The runs in the order in which their floor turns began."""
    return [event.run_id for event in events if event.HasField("run_started")]


def finished(events: Sequence[event_pb2.Event]) -> dict[str, event_pb2.Outcome]:
    """The terminal of every run that has one. Fails where one has two, or where the numbers have a gap."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    found: dict[str, event_pb2.Outcome] = {}
    for event in events:
        if event.HasField("run_finished"):
            assert event.run_id not in found, f"{event.run_id} has two terminals"
            found[event.run_id] = event.run_finished.outcome
    return found


def text_of(message: content_pb2.Message) -> str:
    """The text of a message."""
    return "".join(part.text.text for part in message.parts)


def is_valid(messages: Sequence[content_pb2.Message]) -> bool:
    """Whether a provider accepts these messages: every tool call has its one result in the message after it."""
    calls: list[str] = []
    for message in messages:
        if not message.in_context:
            continue
        results = [part.tool_result.tool_call_id for part in message.parts if part.HasField("tool_result")]
        if results != calls or (message.role == content_pb2.ROLE_TOOL) != bool(calls):
            return False
        calls = [part.tool_call.tool_call_id for part in message.parts if part.HasField("tool_call")]
    return not calls


async def health(server: Harness, service: str = "") -> int:
    """What health says."""
    stub: Any = health_pb2_grpc.HealthStub(server.channel)
    response: health_pb2.HealthCheckResponse = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return response.status


def rows(data_dir: Path, query: str) -> list[tuple[Any, ...]]:
    """What the database of a server that is gone holds."""
    with closing(sqlite3.connect(f"file:{data_dir / 'turnkeeper.db'}?mode=ro", uri=True)) as connection:
        return list(connection.execute(query))


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class StubbornGates(Gates):
    """Gates whose waits do not listen to cancels."""

    def __init__(self) -> None:
        super().__init__()
        self.num_ignored = 0

    async def wait(self, name: str) -> None:
        waiting = asyncio.ensure_future(super().wait(name))
        while not waiting.done():
            try:
                await asyncio.shield(waiting)
            except asyncio.CancelledError:
                self.num_ignored += 1

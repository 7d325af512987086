"""The running service with a vendor that others wrote, in both formats of OpenAI's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.service.failure.stories import reason_of
from tests.service.harness import Harness, serving
from tests.upstream.hayhooks import MODEL, running_hayhooks
from turnkeeper.v1 import content_pb2
from turnkeeper_service.tools.functions import FunctionTool

WIRE_FORMATS = ["openai-chat", "openai-responses"]


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_hayhooks(tmp_path_factory.mktemp("hayhooks")) as address:
        yield address


@asynccontextmanager
async def served(tmp_path: Path, wire_format: str, base_url: str, **more: Any) -> AsyncIterator[Harness]:
    """A server whose model it is."""
    more |= {"providers__up__format": wire_format, "providers__up__base_url": base_url}
    async with serving(tmp_path, **more) as server:
        await server.session("s", model=f"up/{MODEL}")
        yield server


def find(q: str) -> str:
    """Finds things."""
    return f"seven of {q}"


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_a_conversation(wire_format: str, base_url: str, tmp_path: Path) -> None:
    async with served(tmp_path, wire_format, base_url) as server:
        for number, said in enumerate(["All hands on deck.", "Grüße, 船長 🚢"]):
            run_id = f"r{number}"
            await server.submit("s", said, run_id)
            outcome = (await server.terminals("s", [run_id]))[run_id]
            # It counts the messages that it was sent: prompts, and its own answers between them.
            assert (reason_of(outcome), outcome.text) == ("COMPLETED/ANSWERED", f"{said} ({2 * number + 1})")


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_a_call(wire_format: str, base_url: str, tmp_path: Path) -> None:
    tools = {"find": FunctionTool(find).offered()}
    async with served(tmp_path, wire_format, base_url, tools=tools) as server:
        await server.submit("s", "What is on deck?", "r")
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert reason_of(outcome) == "COMPLETED/ANSWERED"
        assert outcome.text.startswith("seven of gull ")
        _, calling, result, answer = await server.messages("s")
        kinds = [part.WhichOneof("part") for part in calling.parts]
        assert kinds == ["reasoning", "tool_call"]
        assert calling.parts[0].reasoning.text == "Let me see."
        call = calling.parts[1].tool_call
        assert (call.tool_call_id, call.name, call.arguments_json) == ("call-1", "find", '{"q": "gull"}')
        assert result.parts[0].tool_result.content[0].text.text == "seven of gull"
        assert calling.finish_reason == content_pb2.FINISH_REASON_TOOL_USE
        assert answer.finish_reason == content_pb2.FINISH_REASON_END_TURN


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_a_model_that_it_does_not_have(wire_format: str, base_url: str, tmp_path: Path) -> None:
    async with served(tmp_path, wire_format, base_url) as server:
        await server.submit("s", "hello", "r", model="up/albatross")
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (reason_of(outcome), outcome.errors[0].http_status) == ("FAILED/PROVIDER_REFUSED", 404)
        assert "albatross" in outcome.errors[0].detail


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_a_model_that_fails_in_the_middle(wire_format: str, base_url: str, tmp_path: Path) -> None:
    async with served(tmp_path, wire_format, base_url) as server:
        await server.submit("s", "one two fail three", "r")
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (reason_of(outcome), outcome.text) == ("FAILED/PROVIDER_STREAM_BROKEN", "one two ")
        await server.submit("s", "and on", "next")
        assert (await server.terminals("s", ["next"]))["next"].text == "and on (3)"

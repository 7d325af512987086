"""A server at debug level: whatever is said in a session, and whatever opens a door, stays out of the logs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from examples.upstream import Answer, Upstream
from tests.service.harness import load_settings, serving
from tests.service.mcp.gate import Gate
from tests.service.mcp.over_http import OverHttp
from tests.service.mcp.own_server import build
from tests.service.mcp.turns import at_address, calling, script
from turnkeeper_service import log

KEY = "vendor-key-of-mine"
SAID = ("987654321", "987654322", "wisp of a prompt", "wisp of a system", "wisp of an error", "open sesame", KEY)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    log.configure(level="debug", format="json", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.asyncio
async def test_nothing_that_was_said_is_logged_at_any_level(logged: io.StringIO, tmp_path: Path) -> None:
    async with Gate(tmp_path) as gate, OverHttp(build(gate.path)) as own, Upstream() as upstream:
        settings = load_settings(
            tmp_path,
            providers__up__format="openai-chat",
            providers__up__base_url=upstream.base_url,
            providers__up__api_key=KEY,
            **at_address(own.url, headers=json.dumps({"x-key": "open sesame"})),
        )
        refusal = {"error": {"message": f"wisp of an error, and {KEY} is wrong"}}
        upstream.plan(Answer.error(400, json.dumps(refusal)))
        async with serving(tmp_path, settings=settings) as server:
            await server.session("s", system_prompt="wisp of a system")
            called = script(calling(("own_add", {"a": 987654321, "b": 1})), {"text": "wisp of a prompt"})
            await server.submit("s", called, run_id="r")
            await server.submit("s", "wisp of a prompt", run_id="up", model="up/m")
            outcomes = await server.terminals("s", ["r", "up"])
        assert outcomes["r"].text == "wisp of a prompt"
        assert "wisp of an error" in outcomes["up"].errors[0].detail
    logging.getLogger("turnkeeper_service.x").debug("still heard")
    found = logged.getvalue()
    assert "still heard" in found
    assert "serving" in found
    assert [one for one in SAID if one in found] == []

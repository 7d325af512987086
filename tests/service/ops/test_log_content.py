"""A server at debug level: whatever is said in a session, and whatever opens a door, stays out of the logs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from examples.upstream import Answer, Upstream
from tests.service.harness import load_settings, serving
from tests.service.mcp.gate import Gate
from tests.service.mcp.over_http import OverHttp
from tests.service.mcp.own_server import build
from tests.service.mcp.turns import at_address, calling, script
from turnkeeper_service.process import log

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


@pytest.mark.asyncio
async def test_calls_and_runs_that_fail_are_logged_and_counted(logged: io.StringIO, tmp_path: Path) -> None:
    waits: dict[str, Any] = {
        "retries__max_retries": "1",
        "retries__first_delay_seconds": "0.001",
        "retries__jitter": "0",
    }
    failing = {"fail": "PROVIDER_ERROR", "status": 503, "retryable": True}
    async with serving(tmp_path, **waits) as server:
        await server.session("s")
        await server.submit("s", json.dumps({"text": "well", "attempts": [failing]}), run_id="well")
        await server.submit("s", json.dumps(failing), run_id="ill")
        await server.terminals("s", ["well", "ill"])
        async with aiohttp.ClientSession() as http:
            response = await http.get(f"http://{server.server.http_address}/metrics")
            numbers = (await response.text()).splitlines()
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    told = [
        (line["event"], line["level"], line["run_id"], line["reason"], line["http_status"])
        for line in lines
        if "http_status" in line
    ]
    again = "a model call failed and is made again"
    assert told == [
        (again, "info", "well", "PROVIDER_ERROR", 503),
        (again, "info", "ill", "PROVIDER_ERROR", 503),
        ("a run failed", "warning", "ill", "PROVIDER_ERROR", 503),
    ]
    assert 'turnkeeper_failed_attempts_total{reason="provider_error"} 2.0' in numbers
    assert 'turnkeeper_failed_runs_total{reason="provider_error"} 1.0' in numbers
    assert "turnkeeper_time_to_first_event_seconds_count 1.0" in numbers

"""The tool worker in Go serves the real server. `TURNKEEPER_CLIENTS` without `go` leaves it out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import pytest_asyncio

from examples.upstream import Upstream
from examples.upstream.answer import Answer, Ending
from tests.clients import go_worker
from tests.clients.conftest import QUICK
from tests.clients.go_worker import LIMIT, WANTED, serving, working
from tests.clients.real import RealServer
from turnkeeper import Client, Event, SessionSettings
from turnkeeper.v1.content_pb2 import ToolResult
from turnkeeper.v1.event_pb2 import OUTCOME_STATUS_CANCELLED, Outcome

# Not skipped where Go is missing: that is a failure unless the client is not wanted.
pytestmark = [pytest.mark.asyncio] if WANTED else [pytest.mark.skip(reason="TURNKEEPER_CLIENTS leaves Go out")]

HANGS = Answer((b"<h1>",), content_type="text/html", ending=Ending.HANG)
PROMPT = json.dumps(
    {"replies": [{"tool_calls": [{"name": "get_page", "arguments": {"path": "a b"}, "id": "c"}]}, {"text": "done"}]}
)


def page(text: str) -> Answer:
    return Answer((text.encode(),), content_type="text/html")


@pytest_asyncio.fixture
async def program(tmp_path: Path) -> Path:
    return await go_worker.build(tmp_path)


async def ended(client: Client, run_id: str) -> Outcome:
    """Wait for the end of a run."""
    async with asyncio.timeout(LIMIT):
        async for item in client.watch("s", after_seq=0):
            if isinstance(item, Event) and item.run_id == run_id and item.HasField("run_finished"):
                return item.run_finished.outcome
    raise AssertionError("the stream ended")


async def last_result(client: Client) -> ToolResult:
    """The last result of a tool in the session."""
    parts = [part async for message in client.list_messages("s") for part in message.parts]
    return [part.tool_result for part in parts if part.HasField("tool_result")][-1]


async def test_it_serves_a_tool_stops_what_is_cancelled_and_is_killed_in_mid_call(
    real: RealServer, program: Path
) -> None:
    async with Upstream() as site, Client(real.address, backoff=QUICK) as client:  # noqa: SIM117
        async with working(program, real.address, site.base_url, "-grace", "0s") as worker:
            await client.create_session("s", SessionSettings(model="scripted/echo"))
            site.plan(page("<p>Bonjour, caf\xe9"), HANGS, HANGS)
            await client.submit("s", PROMPT, run_id="r1")
            assert (await ended(client, "r1")).text == "done"
            assert (await last_result(client)).content[0].text.text == "<p>Bonjour, caf\xe9"
            assert site.requests[0].path == "/a%20b"

            await client.submit("s", PROMPT, run_id="r2")
            await asyncio.wait_for(site.until(lambda: site.num_requests_open == 1), LIMIT)
            await client.cancel(run_id="r2")
            # The worker lets go of the page.
            await asyncio.wait_for(site.until(lambda: site.num_requests_open == 0), LIMIT)
            assert (await ended(client, "r2")).status == OUTCOME_STATUS_CANCELLED

            await client.submit("s", PROMPT, run_id="r3")
            await asyncio.wait_for(site.until(lambda: site.num_requests_open == 1), LIMIT)
            worker.kill()
            await ended(client, "r3")
            result = await last_result(client)
            assert (result.is_error, result.is_synthetic) == (True, True)
            assert result.content[0].text.text == "the client that serves 'get_page' was lost"


async def test_another_worker_takes_over_the_call_of_one_that_is_killed(real: RealServer, program: Path) -> None:
    async with Upstream() as site, Upstream() as mirror, Client(real.address, backoff=QUICK) as client:
        await client.create_session("s", SessionSettings(model="scripted/echo"))
        site.plan(HANGS)
        mirror.plan(page("mirrored"))
        async with working(program, real.address, site.base_url, "-grace", "0s", "-id", "first") as worker:
            await client.submit("s", PROMPT, run_id="r")
            await asyncio.wait_for(site.until(lambda: site.num_requests_open == 1), LIMIT)
            async with working(program, real.address, mirror.base_url, "-id", "second"):
                worker.kill()
                assert (await ended(client, "r")).text == "done"
        assert (await last_result(client)).content[0].text.text == "mirrored"


async def test_it_connects_again_to_a_server_that_was_killed_and_goes_on_with_its_call(
    real: RealServer, program: Path
) -> None:
    async with Upstream() as site, Client(real.address, backoff=QUICK) as client:
        await client.create_session("s", SessionSettings(model="scripted/echo"))
        site.plan(HANGS, page("at last"))
        async with working(program, real.address, site.base_url) as worker:
            await client.submit("s", PROMPT, run_id="r")
            await asyncio.wait_for(site.until(lambda: site.num_requests_open == 1), LIMIT)
            await real.kill()
            # What ran under the lost stream is stopped before the call comes again.
            await asyncio.wait_for(site.until(lambda: site.num_requests_open == 0), LIMIT)
            await real.start()
            await serving(worker, real.address)
            assert (await ended(client, "r")).text == "done"
        assert (await last_result(client)).content[0].text.text == "at last"
        assert len(site.requests) == 2

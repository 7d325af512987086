"""One session is served by all kinds of tools at once, in four processes of three languages; then all are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from examples.upstream import Upstream
from examples.upstream.answer import Answer, Ending
from tests.clients import go_worker
from tests.service.failure.stories import is_valid, reason_of
from tests.service.harness import Harness, load_settings, serving
from tests.service.mcp import others
from tests.service.mcp.turns import Hasty, calling, connected, event, results, script, text

ROOT = Path(__file__).resolve().parents[2]
# Not skipped where Go is missing: that is a failure unless the client is not wanted.
pytestmark = [pytest.mark.asyncio if go_worker.WANTED else pytest.mark.skip(reason="TURNKEEPER_CLIENTS leaves Go out")]


def page(content: str) -> Answer:
    return Answer((content.encode(),), content_type="text/plain")


HANGS = Answer((b"slowly",), content_type="text/plain", ending=Ending.HANG)


@asynccontextmanager
async def confirming(address: str) -> AsyncIterator[Process]:
    """The client that serves `confirm`."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "tests.clients.tool_client", address], cwd=ROOT, stdout=PIPE
    )
    try:
        await said(process, "serving")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def said(process: Process, word: str) -> None:
    """Wait until the client has said so."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), go_worker.LIMIT)
    assert line.decode().strip() == word


def all_kinds(web: Upstream, echoed: str) -> str:
    """An answer that calls a tool of each kind, and then the words "done"."""
    return script(
        calling(
            ("all_echo", {"message": echoed}),
            ("web_fetch", {"url": f"{web.base_url}/news"}),
            ("get_page", {"path": "about"}),
            ("confirm", {}),
        )
    )


async def check(server: Harness, run_id: str, echoed: str) -> None:
    """Each of them has answered."""
    assert (await server.terminals("s", [run_id]))[run_id].text == "done"
    found = await results(server, "s")
    assert not any(found[name].is_error for name in ("all_echo", "web_fetch", "get_page", "confirm"))
    assert text(found["all_echo"]) == f"Echo: {echoed}"
    assert "the news" in text(found["web_fetch"])
    assert (text(found["get_page"]), text(found["confirm"])) == ("about us", "yes")


async def test_all_kinds_serve_one_session_and_are_killed_in_mid_call(tmp_path: Path) -> None:
    program = await go_worker.build(tmp_path)
    pids = {name: tmp_path / f"{name}.pid" for name in ("all", "web")}
    fetch: list[str | Path] = [others.fetch(), "-m", "mcp_server_fetch", "--ignore-robots-txt", "--allow-private-ips"]
    settings = load_settings(
        tmp_path / "data",
        **others.as_child("all", pids["all"], "node", others.everything(), "stdio"),
        **others.as_child("web", pids["web"], *fetch),
    )
    async with AsyncExitStack() as stack:
        site, web = await stack.enter_async_context(Upstream()), await stack.enter_async_context(Upstream())
        server = await stack.enter_async_context(serving(tmp_path, clock=Hasty(), settings=settings))
        address = server.server.grpc_address
        await server.session("s")

        async with AsyncExitStack() as first:
            worker = await first.enter_async_context(go_worker.working(program, address, site.base_url, "-grace", "0s"))
            client = await first.enter_async_context(confirming(address))
            site.plan(page("about us"), HANGS)
            web.plan(page("the news"), HANGS)
            await server.submit("s", all_kinds(web, "hi"), run_id="well")
            await check(server, "well", "hi")

            # The server reads them in this order: once it has answered the second it has begun with the first.
            prompt = script(
                calling(
                    ("all_trigger-long-running-operation", {"duration": 3600, "steps": 3600}),
                    ("all_echo", {"message": "while it runs"}),
                    ("web_fetch", {"url": f"{web.base_url}/news"}),
                    ("get_page", {"path": "about"}),
                    ("confirm", {"wait": True}),
                )
            )
            await server.submit("s", prompt, run_id="killed")
            await said(client, "waiting")
            await asyncio.wait_for(site.until(lambda: site.num_requests_open == 1), go_worker.LIMIT)
            await asyncio.wait_for(web.until(lambda: web.num_requests_open == 1), go_worker.LIMIT)
            await event(server, "s", "tool_call_finished", "all_echo")
            for pid in (worker.pid, client.pid, *(int(path.read_text()) for path in pids.values())):
                os.kill(pid, signal.SIGKILL)
            outcome = (await server.terminals("s", ["killed"]))["killed"]
            assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/ANSWERED", "done", 2)
            found = await results(server, "s")
            unknown = "whether it took effect is unknown"
            assert {name: text(one) for name, one in found.items() if one.is_error} == {
                "all_trigger-long-running-operation": f"the tool server 'all' was lost during this call; {unknown}",
                "web_fetch": f"the tool server 'web' was lost during this call; {unknown}",
                "get_page": "the client that serves 'get_page' was lost",
                "confirm": f"the client that ran 'confirm' was lost; {unknown}",
            }
            assert is_valid(await server.messages("s"))

        # The server starts its own again; the others are started by whoever runs them.
        await connected(server, "all_echo")
        await connected(server, "web_fetch")
        async with go_worker.working(program, address, site.base_url), confirming(address):
            site.plan(page("about us"))
            web.plan(page("the news"))
            await server.submit("s", all_kinds(web, "again"), run_id="again")
            await check(server, "again", "again")

"""What a person at the command sees while a model fails, a context is summarised, or somebody is waited for.

Against the real server, with scripted models that fail.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Done, environment, start
from tests.cli.terminal import terminal
from tests.clients.real import RealServer, lasting_server
from turnkeeper import Client, SessionSettings

pytestmark = pytest.mark.asyncio
FALLBACKS = 'models."scripted/lorem".fallbacks=["scripted/echo"]'
WINDOW = 'models."scripted/echo".context_window_tokens=4000'


SETTINGS = [FALLBACKS, WINDOW, "retries.first_delay_seconds=0.01", "retries.jitter=0"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a server is that tries again nearly at once, and has a model that another stands in for."""
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    with lasting_server(tmp_path_factory.mktemp("trouble") / "data", *settings) as address:
        yield address


async def run(address: str, *arguments: str) -> Done:
    process = await start(address, *arguments)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


def failing(*attempts: dict[str, Any], then: str) -> str:
    return json.dumps({"text": then, "attempts": list(attempts)})


LIMITED = {"fail": "PROVIDER_RATE_LIMITED", "retryable": True, "status": 429}
BROKEN = {"text": "half an answer", "fail": "PROVIDER_STREAM_BROKEN", "fail_after": 3, "retryable": True}


async def test_retries_are_said_and_their_text_is_taken_back(address: str, session: str) -> None:
    async with terminal(environment(address), "chat", "--session", session) as (screen, process):
        await screen.shows("> ")
        screen.type(failing(LIMITED, BROKEN, then="whole") + "\n")
        await screen.shows("[Scripted failure: The script fails after 0 tokens; scripted/echo is asked again in ")
        await screen.shows("half an answer")
        await screen.shows("[what stands above is void]")
        await screen.shows("[Scripted failure: The script fails after 3 tokens; scripted/echo is asked again in ")
        await screen.shows("whole\r\n> ")
        screen.type("/quit\n")
        assert await asyncio.wait_for(process.wait(), 30) == 0
    watched = (await run(address, "watch", session, "--after", "0", "--history")).out.splitlines()
    about = [line.split(None, 3)[3] for line in watched]
    assert "attempt_discarded  the attempt is void (PROVIDER_STREAM_BROKEN)" in about
    assert [line for line in about if line.startswith("retry_scheduled")] == [
        "retry_scheduled  Scripted failure: The script fails after 0 tokens; scripted/echo is asked again in 0 s",
        "retry_scheduled  Scripted failure: The script fails after 3 tokens; scripted/echo is asked again in 0 s",
    ]


async def test_a_model_that_stands_in_is_named(address: str) -> None:
    async with terminal(environment(address), "chat", "--model", "scripted/lorem") as (screen, process):
        await screen.shows("> ")
        screen.type(json.dumps({"text": "here", "by_model": {"lorem": LIMITED}}) + "\n")
        await screen.shows("[Scripted failure: The script fails after 0 tokens; scripted/echo is asked now]")
        await screen.shows("here\r\n> ")
        screen.type("/quit\n")
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_a_summary_is_no_answer(address: str, session: str) -> None:
    filling = json.dumps({"tokens": 1500, "usage": {"input_tokens": 3900, "output_tokens": 50}})
    async with terminal(environment(address), "chat", "--session", session) as (screen, process):
        await screen.shows("> ")
        screen.type(filling + "\n")
        await screen.shows("\r\n> ")
        screen.type("short\n")
        await screen.shows("[the context is full: scripted/echo summarises what was said so far]\r\n")
        await screen.shows("[the summary stands in for what was said so far]\r\nshort\r\n> ")
        screen.type("/summarize\n")
        # Nothing of the summary's own text is between the two.
        await screen.shows("[scripted/echo summarises what was said so far]\r\n[the summary stands in")
        await screen.shows("> ")
        screen.type("/quit\n")
        assert await asyncio.wait_for(process.wait(), 30) == 0
    listed = (await run(address, "messages", session)).out
    assert listed.count("  summary of what came before:\n") == 2
    done = await run(address, "summarize", session)
    assert done.code == 0
    assert "run_accepted  (summary)" in done.out
    assert done.out.splitlines()[-1].endswith("run_finished  completed/answered")


async def test_a_context_that_does_not_fit_is_said(address: str, session: str) -> None:
    too_long = {"fail": "PROVIDER_REFUSED", "overflow": True, "status": 400}
    async with terminal(environment(address), "chat", "--session", session) as (screen, process):
        await screen.shows("> ")
        screen.type("hello\n")
        await screen.shows("hello\r\n> ")
        screen.type(json.dumps({"text": "fits", "attempts": [too_long]}) + "\n")
        await screen.shows(
            "[Scripted failure: The script fails after 0 tokens; scripted/echo is asked again with less]"
        )
        await screen.shows("[the context is full: scripted/echo summarises what was said so far]\r\n")
        await screen.shows("[the summary is given up: the summary would be as long as what it stands for]\r\n")
        await screen.shows("[failed/context_exhausted: Context exhausted: ")
        await screen.shows("\r\n> ")
        screen.type("/quit\n")
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_a_lost_server_is_said_and_so_is_what_it_had_shown(tmp_path: Path, session: str) -> None:
    hanging = json.dumps({"text": "so far", "hang": True})
    server = RealServer(tmp_path / "data")
    try:
        await server.start()
        async with terminal(environment(server.address), "chat", "--session", session) as (screen, process):
            await screen.shows("> ")
            screen.type(hanging + "\n")
            await screen.shows("so far")
            await server.kill()
            await screen.shows(f"[no connection to {server.address}; trying again]")
            await server.start()
            await screen.shows("[connected again]")
            await screen.shows("[what stands above is void; the server was restarted, and the model is asked again]")
            await screen.shows("so far")
            screen.type("/cancel\n")
            await screen.shows("[cancelled/user]\r\n> ")
            screen.type("/quit\n")
            assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        await server.kill()


async def test_what_stood_in_line_and_what_others_ask_is_named_when_it_begins(address: str, session: str) -> None:
    async with terminal(environment(address), "chat", "--session", session) as (screen, process):
        await screen.shows("> ")
        screen.type(json.dumps({"text": "first", "hang": True}) + "\n")
        await screen.shows("first")
        screen.type("and then\n")
        await screen.shows("[in line, 1 ahead]")
        screen.type("/cancel\n")
        await screen.shows("[cancelled/user]\r\n[now: and then]\r\nand then\r\n> ")
        async with Client(address) as other:
            await other.submit(session, "from elsewhere")
        await screen.shows("[now: from elsewhere]\r\nfrom elsewhere\r\n> ")
        screen.type("/quit\n")
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_a_stop_is_given_a_hint_and_the_end_that_is_no_answer_is_named(address: str, session: str) -> None:
    seen = asyncio.Event()

    async def look() -> str:
        """Look."""
        await seen.wait()
        return "seen"

    call = {"tool_calls": [{"name": "look", "id": "c1"}]}
    settings = SessionSettings(model="scripted/echo")
    async with Client(address) as client, client.converse(session, create_with=settings) as holder:
        await holder.offer_tools(look)
        async with terminal(environment(address), "chat", "--session", session) as (screen, process):
            await screen.shows("> ")
            screen.type(json.dumps({"replies": [call]}) + "\n")
            await screen.shows("[calls look {}]\r\n[waits for tool look]")
            held = await run(address, "runs", session, "--open")
            assert held.out.splitlines()[1].rstrip(" s0123456789.").endswith("tool look")
            screen.type("/stop say what you have\n")
            await screen.shows("[is asked to stop by anonymous: say what you have]")
            seen.set()
            await screen.shows("[look said: seen]\r\nsay what you have\r\n[completed/stopped]\r\n> ")
            screen.type("/quit\n")
            assert await asyncio.wait_for(process.wait(), 30) == 0

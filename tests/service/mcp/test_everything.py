"""A tool server that nobody here wrote, in another language: `server-everything`, from the protocol's own examples."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.service.harness import LIMIT, load_settings, serving
from tests.service.mcp import others
from tests.service.mcp.turns import Hasty, calling, connected, event, results, script, text
from turnkeeper_service.tools.functions import FunctionTool


@pytest.fixture(scope="session")
def everything() -> Path:
    """The server's program."""
    return others.everything()


@pytest.mark.asyncio
async def test_it_serves_a_turn_and_is_killed_in_mid_call(tmp_path: Path, everything: Path) -> None:
    pid_file = tmp_path / "pid"
    settings = load_settings(tmp_path, **others.as_child("all", pid_file, "node", everything, "stdio"))
    tools = {"other": FunctionTool(lambda: "", name="other").offered()}
    async with serving(tmp_path, clock=Hasty(), tools=tools, settings=settings) as server:
        await server.session("s")
        prompt = script(
            calling(
                ("all_get-sum", {"a": 2, "b": 3}), ("all_get-tiny-image", {}), ("all_get-env", {}), ("all_get-sum-", {})
            ),
            # The server reads them in this order: once it has answered the second it has begun with the first.
            calling(
                ("all_trigger-long-running-operation", {"duration": 3600, "steps": 3600}),
                ("all_echo", {"message": "while it runs"}),
            ),
            calling(("all_echo", {"message": "gone?"}), gate="gone"),
        )
        await server.submit("s", prompt, run_id="r")
        await event(server, "s", "tool_call_finished", "all_echo")
        process = int(pid_file.read_text())
        os.kill(process, signal.SIGKILL)
        await server.gates.reached("gone")
        # It comes again by itself.
        await connected(server, "all_echo")
        assert int(pid_file.read_text()) != process
        server.gates.open("gone")
        assert (await server.terminals("s", ["r"]))["r"].text == "done"
        found = await results(server, "s")
        assert "5" in text(found["all_get-sum"])
        assert [part.media.mime_type for part in found["all_get-tiny-image"].content] == ["", "image/png", ""]
        assert found["all_get-tiny-image"].content[1].media.data.startswith(b"\x89PNG")
        # It inherits no more of the environment than it needs.
        assert not [
            name for name in json.loads(text(found["all_get-env"])) if name.startswith(("PYTEST", "TURNKEEPER"))
        ]
        assert text(found["all_get-sum-"]) == "there is no tool 'all_get-sum-'"
        lost = found["all_trigger-long-running-operation"]
        assert (lost.is_error, lost.is_synthetic) == (True, True)
        assert text(lost) == "the tool server 'all' was lost during this call; whether it took effect is unknown"
        assert text(found["all_echo"]) == "Echo: gone?"


@pytest.mark.asyncio
async def test_over_http_it_is_found_again_after_it_was_started_anew(tmp_path: Path, everything: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    tools = {"other": FunctionTool(lambda: "", name="other").offered()}
    settings = load_settings(tmp_path, mcp__all__url=f"http://127.0.0.1:{port}/mcp", mcp__all__wait="true")
    prompt = script(calling(("all_echo", {"message": "hi"})))
    async with AsyncExitStack() as stack:
        async with listening(everything, port):
            server = await stack.enter_async_context(serving(tmp_path, clock=Hasty(), tools=tools, settings=settings))
            await server.session("s")
            await server.submit("s", prompt, run_id="before")
            await server.terminals("s", ["before"])
            assert text((await results(server, "s"))["all_echo"]) == "Echo: hi"
        async with listening(everything, port):
            # Started anew, it knows nothing of the session. A call may meet that; those after it do not.
            async with asyncio.timeout(LIMIT):
                for number in itertools.count():
                    await server.submit("s", prompt, run_id=f"after-{number}")
                    await server.terminals("s", [f"after-{number}"])
                    if text((await results(server, "s"))["all_echo"]) == "Echo: hi":
                        break
            await server.server.close()


@asynccontextmanager
async def listening(program: Path, port: int) -> AsyncIterator[None]:
    """The server over HTTP, killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *["node", str(program), "streamableHttp"],
        env=os.environ | {"PORT": str(port)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(LIMIT):
            while b"listening" not in (line := await process.stderr.readline()):
                assert line, "it has ended"
        yield
    finally:
        process.kill()
        await process.communicate()

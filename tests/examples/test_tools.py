"""The tools of `examples/tools/` are served and called."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.clients.real import RealServer
from tests.examples.test_examples import LIMIT, ROOT, run
from turnkeeper import Client, SessionSettings

FOLDER = ROOT / "examples" / "tools"


@pytest.mark.asyncio
async def test_the_functions_are_called_and_one_asks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))
    server = RealServer(tmp_path / "data", "--config", str(FOLDER / "turnkeeper.toml"))
    try:
        await server.start()
        code, out, err = await run("examples/tools/ask.py", TURNKEEPER_ADDRESS=server.address)
    finally:
        await server.kill()
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "find_book: E-12",
        "due_date: error: weeks: 12 is greater than the maximum of 8",
        'due_date: {"due":"2026-03-22","weeks":3}',
        "may it order_book? not today",
        "order_book: error: this call was not allowed: the budget is spent",
        "Momo is on shelf E-12; bring it back by 22 March.",
    ]


def test_the_page_on_tools_shows_the_example_as_it_is() -> None:
    """What is copied from the page is what was run."""
    page = (ROOT / "docs" / "tools.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        assert any(block in path.read_text() for path in FOLDER.glob("*.py"))


@pytest_asyncio.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    """Where a server without tools of its own is."""
    server = RealServer(tmp_path / "data")
    try:
        await server.start()
        yield server.address
    finally:
        await server.kill()


@pytest.mark.asyncio
async def test_the_client_serves_a_tool_to_its_own_session(address: str) -> None:
    code, out, err = await run("examples/tools/client_tool.py", TURNKEEPER_ADDRESS=address)
    assert (code, err) == (0, "")
    assert out.splitlines() == ['read_cart: ["a lamp", "two chairs"]', "You are about to buy a lamp and two chairs."]


@pytest.mark.asyncio
async def test_the_worker_serves_a_tool_to_any_session(address: str) -> None:
    path = ROOT / "examples" / "tools" / "worker.py"
    environ = os.environ | {"TURNKEEPER_ADDRESS": address}
    worker = await asyncio.create_subprocess_exec(sys.executable, str(path), stdout=PIPE, stderr=PIPE, env=environ)
    try:
        assert worker.stdout is not None
        line = await asyncio.wait_for(worker.stdout.readline(), LIMIT)
        assert line.decode() == f"serving weather at {address}\n"
        # The line that its docstring gives to try.
        [prompt] = re.findall(r'^    (\{"replies".*)$', path.read_text(), re.MULTILINE)
        async with Client(address) as client:
            await client.create_session("s", SessionSettings(model="scripted/echo"))
            assert await client.run("s", prompt).text() == "Take a hat."
            await client.run("s", prompt.replace("Florence", "Atlantis")).text()
            messages = [message async for message in client.list_messages("s")]
        found = [part.tool_result for message in messages for part in message.parts if part.HasField("tool_result")]
        assert [(result.is_error, result.content[0].text.text) for result in found] == [
            (False, '{"city": "Florence", "celsius": 40}'),
            (True, "no station in 'Atlantis'; there are Florence, Oslo"),
        ]
        worker.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(worker.communicate(), LIMIT)
        assert (worker.returncode, err) == (0, b"")
    finally:
        if worker.returncode is None:
            worker.kill()
        await worker.communicate()

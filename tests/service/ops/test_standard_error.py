"""Standard error of a server that nobody watches: lines of JSON, whoever writes there."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import grpc
import pytest

from tests.service.failure.process import ROOT, ServerProcess
from tests.service.harness import LIMIT, submission
from tests.service.turns.scenes import calls, script
from turnkeeper.v1 import (
    run_service_pb2,
    run_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)

TOOLS = 'tools.functions=["tests.service.ops.loud_tools:shout"]'


async def run(address: str, prompt: str) -> str:
    """A run to its end; its text."""
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(LIMIT):
        sessions = session_service_pb2_grpc.SessionServiceStub(channel)
        await sessions.CreateSession(session_service_pb2.CreateSessionRequest(session_id="s"))
        runs = run_service_pb2_grpc.RunServiceStub(channel)
        request = run_service_pb2.RunRequest(submission=submission("s", prompt, "r"))
        async for response in runs.Run(request):
            for item in response.items:
                if item.event.HasField("run_finished"):
                    return item.event.run_finished.outcome.text
    raise AssertionError("it did not end")


async def knock(address: str, what: bytes) -> None:
    """Send bytes that are no gRPC."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(what)
    await writer.drain()
    writer.write_eof()
    await reader.read()
    writer.close()


@pytest.mark.asyncio
async def test_every_line_is_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "always")
    odd = f'mcp.odd.args=["-m", "tests.service.mcp.odd_server", "{tmp_path / "odd"}"]'
    flags = ["--set", TOOLS, "--set", f"mcp.odd.command={sys.executable}", "--set", odd]
    flags += ["--set", f'mcp.odd.env={{"PYTHONPATH": "{ROOT}"}}', "--set", "mcp.none.command=true"]
    (tmp_path / "odd").mkdir()
    data = tmp_path / "data"
    with ServerProcess(data, *flags) as server:
        await asyncio.to_thread(server.serving)
        for what in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\xff\xff", b"\0" * 100):
            await knock(server.grpc_address, what)
        assert await run(server.grpc_address, script(calls("shout"), "done")) == "done"
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.ended) == 0
        lines = [json.loads(line) for line in server.log.splitlines()]
    said = [line["event"] for line in lines]
    for event in ("a library says", "a thread ended by a fault", "a fault that nobody can catch", "stopped"):
        assert said.count(event) == 1, said
    assert said.count("something writes to standard error; its lines are logged at the level debug") == 1
    assert next(line for line in lines if line["event"] == "a library says")["line"] == "native line"
    # What a tool says may be what somebody said to it.
    assert "raw SAID" not in server.log


@pytest.mark.asyncio
async def test_a_server_that_cannot_serve_says_so_in_json(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "first") as server:
        await asyncio.to_thread(server.serving)
        port = server.grpc_address.rpartition(":")[2]
        with ServerProcess(tmp_path / "second", "--port", port) as other:
            assert await asyncio.to_thread(other.ended) == 1
            lines = [json.loads(line) for line in other.log.splitlines()]
    assert any(line["event"] == "cannot serve" and "cannot listen" in line["detail"] for line in lines)

"""The leak fixture finds what a test leaves open, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CONFTEST = "from tests.support.leaks import no_leaks, opened_once\n"
LEAKING = """
import asyncio, os, socket
import pytest

KEEP = []

@pytest.mark.asyncio
async def test_task():
    KEEP.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))

@pytest.mark.asyncio
async def test_timer():
    KEEP.append(asyncio.get_running_loop().call_later(100, print))

def test_socket():
    KEEP.append(socket.create_server(("127.0.0.1", 0)))

def test_pipe():
    KEEP.append(os.pipe())
"""
CLEAN = """
import asyncio, socket
import grpc, grpc.aio, pytest, uvloop

def test_socket():
    socket.create_server(("127.0.0.1", 0)).close()

@pytest.mark.asyncio
async def test_task():
    asyncio.create_task(asyncio.sleep(100)).cancel()

async def echo(request, context):
    return request

async def call_a_server():
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.A", {"Echo": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await channel.unary_unary("/a.A/Echo")(b"x") == b"x"
    await server.stop(None)

@pytest.mark.asyncio
@pytest.mark.parametrize("n", range(3))
async def test_grpc(n):
    await call_a_server()

def test_grpc_on_uvloop():
    uvloop.run(call_a_server())
"""


def run(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_case.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", f"pythonpath={ROOT}"]
    command += ["-o", "asyncio_mode=strict", "-o", "markers=leaks(allow): allowed", str(folder / "test_case.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_what_is_left_open_fails_the_test_that_left_it(tmp_path: Path) -> None:
    result = run(tmp_path, LEAKING)
    assert "4 passed, 4 errors" in result.stdout, result.stdout
    for sign in ("task forgotten: Event.wait", "timer: <TimerHandle", "listening AF_INET socket", ": pipe:["):
        assert sign in result.stdout, sign


def test_what_is_given_back_is_not_reported(tmp_path: Path) -> None:
    result = run(tmp_path, CLEAN)
    assert "6 passed" in result.stdout, result.stdout
    assert "error" not in result.stdout, result.stdout

"""The command where nobody reads any more, or the shell has closed a stream: no traceback, whatever it prints."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE

import pytest

from tests.cli.conftest import environment
from tests.clients.fake import SESSION, FakeServer

pytestmark = pytest.mark.asyncio
COMMANDS = [
    ["--help"],
    ["chat", "--help"],
    ["config"],
    ["watch", SESSION, "--after", "0", "--history"],
    ["watch", SESSION, "--after", "0", "--history", "--json"],
    ["approvals", SESSION],
    ["chat", "--session", SESSION],
    ["chat", "--session", SESSION, "--json"],
]


@pytest.fixture
def talkative(server: FakeServer) -> FakeServer:
    """A server with something to say."""
    server.log.start("r1")
    server.log.answer("r1", "m1", "hello")
    server.on_accept = lambda run_id: server.log.answer(run_id, f"m-{run_id}", "hello")
    return server


async def run(server: FakeServer, command: str, out: int) -> tuple[int, str]:
    """A shell's command line whose output goes to a file descriptor; its exit code and what it complains."""
    process = await asyncio.create_subprocess_exec(
        *["bash", "-c", command, sys.executable],
        stdin=PIPE,
        stdout=out,
        stderr=PIPE,
        env=environment(server.address),
    )
    _, err = await asyncio.wait_for(process.communicate(b"one\ntwo\nthree\n"), 60)
    assert process.returncode is not None
    return process.returncode, err.decode()


async def test_a_reader_that_has_gone_is_no_fault(talkative: FakeServer) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        lines = [f'"$0" -m turnkeeper.cli {" ".join(arguments)}' for arguments in COMMANDS]
        done = await asyncio.gather(*(run(talkative, line, writer) for line in lines))
    finally:
        os.close(writer)
    assert dict(zip(lines, done, strict=True)) == dict.fromkeys(lines, (1, ""))


async def test_a_stream_that_is_closed_is_no_fault(talkative: FakeServer) -> None:
    lines = [f'"$0" -m turnkeeper.cli {" ".join(arguments)} >&-' for arguments in COMMANDS[2::2]]
    lines += [f'"$0" -m turnkeeper.cli chat --session {SESSION} 2>&-']
    done = await asyncio.gather(*(run(talkative, line, DEVNULL) for line in lines))
    assert dict(zip(lines, done, strict=True)) == dict.fromkeys(lines, (0, ""))


async def test_a_keyboard_that_is_closed_is_the_end_of_the_input(talkative: FakeServer) -> None:
    done = await run(talkative, f'"$0" -m turnkeeper.cli chat --session {SESSION} <&-', DEVNULL)
    assert done == (0, "")

"""A conversation over a pipe and in a terminal."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import Process
from pathlib import Path

import grpc
import pytest

from tests.cli.conftest import Command, environment
from tests.cli.terminal import terminal
from tests.clients.fake import SESSION, FakeServer, Lost, delta
from turnkeeper.v1.event_pb2 import (
    DELIVERY_STEER,
    OUTCOME_REASON_PROVIDER_ERROR,
    OUTCOME_REASON_USER,
    OUTCOME_STATUS_CANCELLED,
    OUTCOME_STATUS_FAILED,
    Event,
    Outcome,
    RunError,
    RunFinished,
    SessionDeleted,
)
from turnkeeper.v1.run_service_pb2 import ConverseRequest, StreamItem

pytestmark = pytest.mark.asyncio


def echoes(server: FakeServer) -> None:
    """Every run answers with its prompt, in two deltas that are then committed."""

    def answer(run_id: str) -> None:
        text = server.log.runs[run_id].prompt[0].text.text
        message_id = f"m-{run_id}"
        server.log.start(run_id)
        server.log.write(delta(0, text[:2], message_id=message_id, run_id=run_id))
        server.log.answer(run_id, message_id, text)

    server.on_accept = answer


def ends(server: FakeServer, run_id: str, outcome: Outcome) -> None:
    server.log.append(Event(run_id=run_id, run_finished=RunFinished(outcome=outcome)))


def starts_and_waits_for_a_cancel(server: FakeServer) -> None:
    def begin(run_id: str) -> None:
        server.log.start(run_id)
        server.log.write(delta(0, "thinking", message_id=f"m-{run_id}", run_id=run_id))

    def obey(frame: ConverseRequest) -> StreamItem | None:
        if frame.WhichOneof("frame") == "cancel":
            cancelled = Outcome(status=OUTCOME_STATUS_CANCELLED, reason=OUTCOME_REASON_USER)
            ends(server, frame.cancel.scope.run_id, cancelled)
        return None

    server.on_accept, server.on_frame = begin, obey


async def test_every_line_of_a_pipe_is_a_prompt(server: FakeServer, command: Command) -> None:
    echoes(server)
    done = await command("chat", "--session", SESSION, given="hello\nGrüße\n\nlast")
    assert (done.code, done.out, done.err) == (0, "hello\nGrüße\nlast\n", "")


async def test_a_file_is_read_as_a_pipe_is(server: FakeServer, tmp_path: Path) -> None:
    echoes(server)
    path = tmp_path / "prompts"
    path.write_text("one\ntwo\n")
    with path.open() as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "turnkeeper.cli",
            "chat",
            "--session",
            SESSION,
            stdin=file,
            stdout=asyncio.subprocess.PIPE,
            env=environment(server.address),
        )
    out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"one\ntwo\n")


async def test_a_run_that_failed_is_said_and_counted(server: FakeServer, command: Command) -> None:
    failed = Outcome(status=OUTCOME_STATUS_FAILED, reason=OUTCOME_REASON_PROVIDER_ERROR)
    failed.errors.append(RunError(title="no such model"))
    server.on_accept = lambda run_id: ends(server, run_id, failed)
    done = await command("chat", "--session", SESSION, given="hello\n")
    assert (done.code, done.out, done.err) == (1, "", "[failed/provider_error: no such model]\n")


async def test_commands_and_json(server: FakeServer, command: Command) -> None:
    echoes(server)
    done = await command("chat", "--session", SESSION, "--json", given="/steer and this\n/queue\n/quit\nnever\n")
    assert done.code == 0
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert lines[0].keys() <= {"event", "delta", "receipt"}
    sent = [frame.WhichOneof("frame") for frame in server.log.frames]
    assert sent == ["open", "submit", "clear_queue"]
    assert server.log.frames[1].submit.delivery == DELIVERY_STEER


async def test_a_session_is_made_where_none_is_named(server: FakeServer, command: Command) -> None:
    echoes(server)
    done = await command("chat", "--model", "scripted/echo", given="hello\n")
    assert done.code == 0
    opened = server.log.frames[0].open
    assert len(opened.session_id) == 36
    assert opened.create_with.model == "scripted/echo"


async def chat_over_pipes(server: FakeServer) -> Process:
    return await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "turnkeeper.cli", "chat", "--session", SESSION],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(server.address),
    )


async def test_ctrl_c_over_a_pipe_cancels_the_run(server: FakeServer) -> None:
    starts_and_waits_for_a_cancel(server)
    process = await chat_over_pipes(server)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"hello\n")
    await process.stdout.readuntil(b"thinking")
    process.send_signal(signal.SIGINT)
    await server.log.until(lambda: server.log.outcome(next(iter(server.log.runs))) is not None)
    process.stdin.close()
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"\n", b"[cancelled/user]\n")


async def test_a_conversation_that_the_server_ends_is_over(server: FakeServer) -> None:
    process = await chat_over_pipes(server)
    await server.log.until(lambda: len(server.log.frames) == 1)
    server.log.append(Event(session_deleted=SessionDeleted()))
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"[the session is deleted]\n")


async def test_a_conversation_that_cannot_go_on_says_why(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNKEEPER_TOKEN", "old")

    def lose(method: str, item: StreamItem) -> None:
        if item.WhichOneof("item") == "event":
            server.refuse = lambda called: (grpc.StatusCode.UNAUTHENTICATED, "the token is gone")
            raise Lost

    server.before_item = lose
    process = await chat_over_pipes(server)
    await server.log.until(lambda: len(server.log.frames) == 1)
    server.log.start("r1")
    out, err = await process.communicate()
    lines = [f"[no connection to {server.address}; trying again]", "turnkeeper: UNAUTHENTICATED: the token is gone"]
    assert (process.returncode, out, err.decode().splitlines()) == (1, b"", lines)


async def test_ctrl_c_in_a_terminal_cancels_and_the_second_leaves(server: FakeServer) -> None:
    starts_and_waits_for_a_cancel(server)
    async with terminal(environment(server.address), "chat", "--session", SESSION) as (screen, process):
        await screen.shows("> ")
        screen.type("hello\n")
        await screen.shows("thinking")
        screen.type("\x03")
        await screen.shows("[cancelled/user]")
        await screen.shows("> ")
        screen.type("again\n")
        await screen.shows("thinking")
        screen.type("\x03")
        await screen.shows("[cancelled/user]")
        screen.type("\x03")
        assert await asyncio.wait_for(process.wait(), 30) == 0
    cancelled = [frame for frame in server.log.frames if frame.WhichOneof("frame") == "cancel"]
    assert [frame.cancel.scope.run_id for frame in cancelled] == list(server.log.runs)


async def test_a_line_that_the_terminal_has_cut_is_not_sent(server: FakeServer) -> None:
    echoes(server)
    async with terminal(environment(server.address), "chat", "--session", SESSION) as (screen, process):
        await screen.shows("> ")
        screen.type("x" * 4000)
        screen.type("y" * 1000 + "\n")
        await screen.shows("[the terminal has cut this line, and it is not sent: give it over a pipe]\r\n> ")
        screen.type("hello\n")
        await screen.shows("hello\r\n> ")
        screen.type("/quit\n")
        assert await asyncio.wait_for(process.wait(), 30) == 0
    assert [run.prompt[0].text.text for run in server.log.runs.values()] == ["hello"]


async def test_a_session_that_is_there_keeps_its_model_and_says_so(server: FakeServer, command: Command) -> None:
    echoes(server)
    done = await command("chat", "--session", SESSION, "--model", "p/other", given="hello\n")
    assert (done.code, done.out) == (0, "hello\n")
    assert done.err == "[the session was there already, with scripted/echo]\n"


async def test_what_is_typed_while_an_answer_streams_is_submitted_at_once(server: FakeServer) -> None:
    starts_and_waits_for_a_cancel(server)
    async with terminal(environment(server.address), "chat", "--session", SESSION) as (screen, process):
        await screen.shows("> ")
        screen.type("first\n")
        await screen.shows("thinking")
        screen.type("second\n")
        await server.log.until(lambda: len(server.log.runs) == 2)
        screen.type("/quit\n")
        assert await asyncio.wait_for(process.wait(), 30) == 0
    assert [run.prompt[0].text.text for run in server.log.runs.values()] == ["first", "second"]

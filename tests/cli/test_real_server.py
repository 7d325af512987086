"""The command against the real server: every line of it, for people and as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cli.conftest import Done, start
from tests.clients.real import lasting_server
from turnkeeper import Client, SessionSettings

pytestmark = pytest.mark.asyncio


@dataclass
class Shell:
    """Runs commands against one server."""

    address: str

    async def run(self, *arguments: str, given: str = "") -> Done:
        process = await start(self.address, *arguments)
        out, err = await asyncio.wait_for(process.communicate(given.encode()), 60)
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    async def json(self, *arguments: str, given: str = "") -> list[dict[str, Any]]:
        done = await self.run(*arguments, "--json", given=given)
        assert (done.code, done.err) == (0, "")
        return [json.loads(line) for line in done.out.splitlines()]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with lasting_server(tmp_path_factory.mktemp("shell") / "data") as address:
        yield Shell(address)


async def test_a_conversation_and_what_is_left_of_it(shell: Shell) -> None:
    done = await shell.run("chat", "--session", "s1", given="hello there\nand again\n")
    assert (done.code, done.out, done.err) == (0, "hello there\nand again\n", "")

    listed = await shell.run("messages", "s1")
    lines = [line for line in listed.out.splitlines() if line.startswith("  ")]
    assert lines == ["  hello there", "  hello there", "  and again", "  and again"]
    roles = [found["message"]["role"] for found in await shell.json("messages", "s1")]
    assert roles == ["ROLE_USER", "ROLE_ASSISTANT"] * 2

    runs = (await shell.run("runs", "s1")).out.splitlines()
    assert runs[0].split()[:3] == ["RUN", "STATE", "ACCEPTED"]
    assert [line.split()[1] for line in runs[1:]] == ["finished", "finished"]
    assert [line.split()[-1] for line in runs[1:]] == ["completed/answered"] * 2
    assert (await shell.run("runs", "s1", "--open")).out.count("\n") == 1

    sessions = (await shell.run("sessions")).out.splitlines()
    assert sessions[1].split()[:2] == ["s1", "idle"]
    assert [found["session"]["session_id"] for found in await shell.json("sessions")] == ["s1"]

    watched = await shell.json("watch", "s1", "--after", "0", "--history", "--no-deltas")
    seqs = [int(found["event"]["seq"]) for found in watched]
    assert seqs == list(range(1, len(seqs) + 1))
    shown = await shell.run("watch", "s1", "--after", "0", "--history")
    assert sum("run_finished  completed/answered" in line for line in shown.out.splitlines()) == 2


async def test_a_failed_run_and_a_refused_prompt_are_one(shell: Shell) -> None:
    failing = json.dumps({"text": "so far", "fail": "PROVIDER_REFUSED", "fail_after": 2})
    done = await shell.run("chat", "--session", "s3", given=failing + "\n")
    assert done.code == 1
    assert done.out.startswith("so far")
    assert "[failed/provider_refused" in done.err
    refused = await shell.run("chat", "--session", "s4", given="\0\n")
    assert refused.code == 1
    assert "[refused: INVALID_ARGUMENT/" in refused.err


async def test_an_unknown_session_is_named(shell: Shell) -> None:
    for arguments in (("runs", "nowhere"), ("messages", "nowhere"), ("watch", "nowhere")):
        done = await shell.run(*arguments)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("turnkeeper: NOT_FOUND/SESSION_NOT_FOUND: ")
        assert done.err.count("\n") == 1


async def test_cancel_in_every_scope(shell: Shell) -> None:
    hanging = json.dumps({"text": "thinking", "hang": True})
    for scope in (("--session", "s3"), ("--all",)):
        talking = await start(shell.address, "chat", "--session", "s3")
        assert talking.stdin is not None
        assert talking.stdout is not None
        talking.stdin.write(hanging.encode() + b"\n")
        talking.stdin.close()
        await talking.stdout.readuntil(b"thinking")
        done = await shell.run("cancel", *scope, "--wait")
        assert done.code == 0
        assert "  covered  cancelled/user" in done.out
        _, err = await asyncio.wait_for(talking.communicate(), 60)
        assert (talking.returncode, err) == (0, b"[cancelled/user]\n")
    unseen = await shell.run("cancel", "--run", "not-yet")
    assert (unseen.code, unseen.out) == (0, "not-yet  not seen so far: it is cancelled when it comes\n")


async def test_refusals_name_what_was_typed_and_not_the_contracts_fields(shell: Shell) -> None:
    there = "there are scripted/echo, scripted/lorem"
    cases = (
        (("chat", "--model", "nobody/x"), f"UNKNOWN_MODEL: --model: there is no provider 'nobody'; {there}"),
        (
            ("chat", "--model", "echo"),
            "--model: 'echo' is not of the form provider/model; did you mean 'scripted/echo'?",
        ),
        (("chat", "--session", "a b"), "INVALID_ID: --session: is not 1 to 128 of the characters"),
        (("runs", "a b"), "INVALID_ID: SESSION: is not 1 to 128 of the characters"),
        (("messages", "s", "--context", "a b"), "INVALID_ID: --context: is not 1 to 128 of the characters"),
        (("approvals", "s", "--allow", "a b"), "INVALID_ID: --allow: is not 1 to 128 of the characters"),
        (("cancel", "--run", "a b"), "INVALID_ID: --run: is not 1 to 128 of the characters"),
        (("cancel", "--session", "a b"), "INVALID_ID: --session: is not 1 to 128 of the characters"),
    )
    answers = await asyncio.gather(*(shell.run(*arguments) for arguments, _ in cases))
    for (_, said), done in zip(cases, answers, strict=True):
        assert (done.code, done.out) == (1, "")
        assert said in done.err
        assert not [path for path in ("session_id", "run_id", "create_with", "scope", "submission") if path in done.err]
    refused = await shell.run("chat", "--session", "s5", given="\0\n")
    assert refused.err.startswith("[refused: INVALID_ARGUMENT/INVALID_FIELD: the prompt: ")


async def test_sessions_show_the_model_that_a_prompt_gets(shell: Shell) -> None:
    async with Client(shell.address) as client:
        await client.create_session("plain")
        await client.create_session("own", SessionSettings(model="scripted/lorem"))
    rows = {row.split()[0]: row.split()[2] for row in (await shell.run("sessions")).out.splitlines()[1:]}
    assert (rows["plain"], rows["own"]) == ("scripted/echo", "scripted/lorem")


async def test_a_session_is_erased_and_a_busy_one_only_by_force(shell: Shell) -> None:
    async with Client(shell.address) as client:
        await client.create_session("busy")
        await client.submit("busy", json.dumps({"text": "thinking", "hang": True}))
    refused = await shell.run("delete", "busy")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("turnkeeper: FAILED_PRECONDITION/SESSION_BUSY: ")
    assert await shell.run("delete", "busy", "--force") == Done(0, "", "")
    assert (await shell.run("delete", "busy")).err.startswith("turnkeeper: NOT_FOUND/SESSION_NOT_FOUND: ")

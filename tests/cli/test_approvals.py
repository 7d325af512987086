"""Tools and approvals at the command line: what is shown, who is asked, and who may answer. Against the real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Done, environment, start
from tests.cli.terminal import terminal
from tests.clients.real import lasting_server
from turnkeeper import Client, Event, SessionSettings

pytestmark = pytest.mark.asyncio
ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
TOOLS = ROOT / "examples" / "tools"


def script(*steps: list[dict[str, Any]] | str) -> str:
    """A line whose answers are calls, or texts."""
    replies = [{"text": step} if isinstance(step, str) else {"tool_calls": step} for step in steps]
    return json.dumps({"replies": replies})


def order(title: str) -> dict[str, Any]:
    return {"name": "order_book", "arguments": {"title": title}, "id": title}


FIND = {"name": "find_book", "arguments": {"title": "Momo"}, "id": "1"}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a server of the example's tools is."""
    path = os.pathsep.join(filter(None, [str(TOOLS), os.environ.get("PYTHONPATH")]))
    folder = tmp_path_factory.mktemp("approvals") / "data"
    with lasting_server(folder, "--config", str(TOOLS / "turnkeeper.toml"), PYTHONPATH=path) as address:
        yield address


async def run(address: str, *arguments: str) -> Done:
    process = await start(address, *arguments)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


async def asked(address: str, session_id: str) -> str:
    """Wait until something is asked; returns the approval's id."""
    async with Client(address) as client, asyncio.timeout(60):
        async for item in client.watch(session_id, 0):
            if isinstance(item, Event) and item.HasField("approval_requested"):
                return item.approval_requested.approval_id
    raise AssertionError("nothing was asked")


async def test_a_terminal_shows_calls_and_asks_for_leave(address: str, session: str) -> None:
    async with terminal(environment(address), "chat", "--session", session) as (screen, process):
        await screen.shows("> ")
        screen.type(script([FIND, order("Emma"), order("Dune")], "That is all.") + "\n")
        await screen.shows('[calls find_book {"title":"Momo"}]')
        await screen.shows("[find_book said: E-12]")
        await screen.shows('allow order_book {"title":"Emma"}? [y/n] ')
        screen.type("what?\n")
        await screen.shows("[y allows it; n refuses it")
        await screen.shows('allow order_book {"title":"Emma"}? [y/n] ')
        screen.type("y\n")
        await screen.shows("[allowed by ")
        await screen.shows("[order_book said: Emma is ordered]")
        await screen.shows('allow order_book {"title":"Dune"}? [y/n] ')
        screen.type("n too much sand\n")
        await screen.shows("[order_book failed: this call was not allowed: too much sand]")
        await screen.shows("That is all.")
        await screen.shows("> ")
        screen.type("/quit\n")
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_the_readme_shows_what_a_terminal_shows(address: str) -> None:
    block = re.findall(r"```console\n\$ turnkeeper chat --session books\n(.*?)```", README.read_text(), re.DOTALL)[0]
    prompt, *shown = block.splitlines()
    async with terminal(environment(address), "chat", "--session", "books") as (screen, process):
        await screen.shows("> ")
        screen.type(prompt.removeprefix("> ") + "\n")
        for line in shown:
            question, is_asked, answer = line.partition("? [y/n] ")
            await screen.shows(question)
            if is_asked:
                screen.type(answer + "\n")
        screen.type("/quit\n")
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_an_answer_from_elsewhere_takes_the_question_away(address: str, session: str) -> None:
    async with terminal(environment(address), "chat", "--session", session) as (screen, process):
        await screen.shows("> ")
        screen.type(script([order("Emma")], "Well.") + "\n")
        await screen.shows("? [y/n] ")
        approval_id = await asked(address, session)
        listed = (await run(address, "approvals")).out.splitlines()
        assert listed[0].split() == ["SESSION", "APPROVAL", "UNTIL", "CALL"]
        assert listed[1].split()[:2] == [session, approval_id]
        assert listed[1].endswith(', else refused  order_book {"title":"Emma"}')
        done = await run(address, "approvals", session, "--deny", approval_id, "--comment", "no money")
        assert (done.code, done.out) == (0, f'{approval_id}  refused  order_book {{"title":"Emma"}}\n')
        await screen.shows("[refused by ")
        await screen.shows("no money")
        # What is typed now is a prompt, not an answer.
        await screen.shows("> ")
        screen.type("y\n")
        await screen.shows("y")
        await screen.shows("> ")
        screen.type("/quit\n")
        assert await asyncio.wait_for(process.wait(), 30) == 0
    again = await run(address, "approvals", session, "--allow", approval_id)
    assert again.code == 1
    assert again.err.startswith("turnkeeper: FAILED_PRECONDITION/APPROVAL_ANSWERED: ")
    assert (await run(address, "approvals")).out.count("\n") == 1


async def test_a_terminal_that_comes_later_asks_too(address: str, session: str) -> None:
    async with Client(address) as client:
        await client.create_session(session, SessionSettings(model="scripted/echo"))
        receipt = await client.submit(session, script([order("Emma")], "Well."))
        await asked(address, session)
        async with terminal(environment(address), "chat", "--session", session) as (screen, process):
            await screen.shows('allow order_book {"title":"Emma"}? [y/n] ')
            screen.type("/cancel\n")
            await screen.shows("[cancelled/user]")
            # The question went with its run.
            await screen.shows("> ")
            screen.type("/quit\n")
            assert await asyncio.wait_for(process.wait(), 30) == 0
        assert (await client.get_run(receipt.run_id)).HasField("outcome")


async def test_over_a_pipe_nobody_is_asked_and_the_way_is_named(address: str, session: str) -> None:
    async with Client(address) as client:
        await client.create_session(session, SessionSettings(model="scripted/echo"))
    talking = await start(address, "chat", "--session", session)
    assert talking.stdin is not None
    talking.stdin.write((script([order("Emma")], "Well.") + "\n").encode())
    talking.stdin.close()
    approval_id = await asked(address, session)
    [listed] = (await run(address, "approvals", session, "--json")).out.splitlines()
    assert json.loads(listed)["approval"]["tool_call"]["name"] == "order_book"
    done = await run(address, "approvals", session, "--allow", approval_id, "--json")
    assert json.loads(done.out)["approval"]["approval_id"] == approval_id
    out, err = await asyncio.wait_for(talking.communicate(), 60)
    assert (talking.returncode, out) == (0, b"Well.\n")
    named = f'[order_book {{"title":"Emma"}} waits for leave: turnkeeper approvals {session} --allow {approval_id}]'
    assert named in err.decode().splitlines()
    watched = await run(address, "watch", session, "--after", "0", "--history", "--no-deltas")
    assert f'approval_requested  {approval_id} order_book {{"title":"Emma"}}' in watched.out
    assert f"approval_resolved  {approval_id} allowed by " in watched.out
    assert "tool_call_finished  order_book said: Emma is ordered" in watched.out
    listed_messages = (await run(address, "messages", session)).out.splitlines()
    said = [line.strip() for line in listed_messages if line.startswith("  ")][1:]
    assert said == ['calls order_book {"title":"Emma"}', "order_book said: Emma is ordered", "Well."]


async def test_tools_are_listed_with_why_a_model_is_not_told_of_one(address: str) -> None:
    listed = await run(address, "tools")
    assert (listed.code, listed.err) == (0, "")
    lines = [re.split(r"  +", line) for line in listed.out.splitlines()]
    assert lines[0] == ["TOOL", "RUN BY", "STATE", "DESCRIPTION"]
    assert [line[:3] for line in lines[1:]] == [
        [name, "server", "offered"] for name in ("due_date", "find_book", "order_book")
    ]
    async with Client(address) as client:
        await client.create_session("bare", SessionSettings(tools=["find_book"]))
    of_session = await run(address, "tools", "bare", "--model", "scripted/lorem", "--json")
    found = {
        one["tool"]["name"]: one["tool"].get("left_out", "") for one in map(json.loads, of_session.out.splitlines())
    }
    unnamed = "the session does not name it"
    assert found == {"due_date": unnamed, "find_book": "", "order_book": unnamed}
    unknown = await run(address, "tools", "--model", "zzz/m")
    assert (unknown.code, "there is no provider 'zzz'" in unknown.err) == (1, True)

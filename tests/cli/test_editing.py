"""A conversation in a terminal that can be drawn on: the line is edited there, and answers are written above it."""

from __future__ import annotations

import asyncio
import json
import os
import textwrap
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import environment
from tests.cli.terminal import COLUMNS, Terminal, terminal
from tests.clients.fake import SESSION, FakeServer, delta
from tests.clients.real import lasting_server
from turnkeeper import Client, Event, SessionSettings
from turnkeeper.cli._history import MAX_LINES, PromptHistory

pytestmark = pytest.mark.asyncio
ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "examples" / "tools"
LEFT, UP, CTRL_C, CTRL_D, ENTER = "\x1b[D", "\x1b[A", "\x03", "\x04", "\r"
PASTE, PASTED = "\x1b[200~", "\x1b[201~"


@pytest.fixture
def environ(server: FakeServer, tmp_path: Path) -> Mapping[str, str]:
    return {**environment(server.address), "XDG_STATE_HOME": str(tmp_path)}


@asynccontextmanager
async def chatting(environ: Mapping[str, str], session: str = SESSION) -> AsyncIterator[Terminal]:
    """Somebody at a chat, which has to end well when it is left."""
    async with terminal(environ, "chat", "--session", session, kind="xterm-256color") as (screen, process):
        await screen.displays(">")
        yield screen
        screen.type("/quit" + ENTER)
        assert await asyncio.wait_for(process.wait(), 30) == 0


def writes(server: FakeServer, *texts: str) -> None:
    """Every run begins to answer with these texts."""

    def begin(run_id: str) -> None:
        server.log.start(run_id)
        more(server, run_id, *texts)

    server.on_accept = begin


def more(server: FakeServer, run_id: str, *texts: str) -> None:
    offset = sum(len(one.text.encode()) for one in server.log.deltas if one.message_id == f"m-{run_id}")
    for text in texts:
        server.log.write(delta(offset, text, message_id=f"m-{run_id}", run_id=run_id))
        offset += len(text.encode())


def said(server: FakeServer) -> list[str]:
    return [run.prompt[0].text.text for run in server.log.runs.values()]


async def accepted(server: FakeServer, count: int) -> str:
    """Wait for so many prompts; the last run's id."""
    await server.log.until(lambda: len(server.log.runs) == count)
    return list(server.log.runs)[-1]


async def test_a_line_is_edited_and_the_history_is_kept(server: FakeServer, environ: Mapping[str, str]) -> None:
    async with chatting(environ) as screen:
        screen.type("helo" + LEFT + "l" + ENTER)
        server.log.answer(await accepted(server, 1), "m1", "good day")
        await screen.displays("> hello", "good day", ">")
    async with chatting(environ) as screen:
        screen.type(UP)
        await screen.displays("> /quit")
        screen.type(UP + " again" + ENTER)
        server.log.answer(await accepted(server, 2), "m2", "good night")
        await screen.displays("> hello again", "good night", ">")
    assert said(server) == ["hello", "hello again"]
    assert os.stat(f"{environ['XDG_STATE_HOME']}/turnkeeper/history").st_mode & 0o777 == 0o600


async def test_keys_and_answers_do_not_mix(server: FakeServer, environ: Mapping[str, str]) -> None:
    writes(server, "the answer ")
    async with chatting(environ) as screen:
        screen.type("first" + ENTER)
        first = await accepted(server, 1)
        await screen.displays("> first", "the answer", ">")
        screen.type("sec")
        await screen.displays("> first", "the answer", "> sec")
        more(server, first, "goes on")
        await screen.displays("> first", "the answer goes on", "> sec")
        server.on_accept = lambda run_id: None
        screen.type("ond" + ENTER)
        await accepted(server, 2)
        # What was entered waits below the line that is being written, until that line has ended.
        await screen.displays("> first", "the answer goes on", "> second", ">")
        more(server, first, " and on\n", "below")
        await screen.displays("> first", "the answer goes on and on", "> second", "below", ">")
        server.log.answer(first, f"m-{first}", "the answer goes on and on\nbelow")


async def test_a_long_line_is_cut_between_words(server: FakeServer, environ: Mapping[str, str]) -> None:
    words = " ".join(f"word{number}" for number in range(20))
    writes(server, *words.partition("word7"))
    async with chatting(environ) as screen:
        screen.type("go" + ENTER)
        server.log.answer(await accepted(server, 1), f"m-{next(iter(server.log.runs))}", words)
        await screen.displays("> go", *textwrap.wrap(words, COLUMNS - 1), ">")


async def test_what_is_pasted_is_one_prompt(server: FakeServer, environ: Mapping[str, str]) -> None:
    async with chatting(environ) as screen:
        screen.type(f"{PASTE}two\nlines{PASTED}" + ENTER)
        server.log.answer(await accepted(server, 1), "m1", "yes")
        await screen.displays("yes", ">")
        screen.type("x" * 5000 + ENTER)
        server.log.answer(await accepted(server, 2), "m2", "all of it")
        await screen.displays("all of it", ">")
    assert said(server) == ["two\nlines", "x" * 5000]


async def test_what_a_model_says_is_shown_and_not_obeyed(server: FakeServer, environ: Mapping[str, str]) -> None:
    async with chatting(environ) as screen:
        screen.type("hello" + ENTER)
        server.log.answer(await accepted(server, 1), "m1", "a\x1b[2Jb\x07c\td")
        await screen.displays("> hello", "a\ufffd[2Jb\ufffdc    d", ">")


async def test_ctrl_c_cancels_and_keeps_the_line(server: FakeServer, environ: Mapping[str, str]) -> None:
    writes(server, "thinking")
    async with chatting(environ) as screen:
        screen.type("go" + ENTER)
        await screen.displays("> go", "thinking", ">")
        screen.type("next" + CTRL_C)
        await server.log.until(lambda: any(frame.HasField("cancel") for frame in server.log.frames))
        await screen.displays("thinking", "> next")
        screen.type("\x15")


async def test_the_end_of_the_input_waits_for_the_answers(server: FakeServer, environ: Mapping[str, str]) -> None:
    writes(server, "so far")
    async with terminal(environ, "chat", "--session", SESSION, kind="xterm-256color") as (screen, process):
        await screen.displays(">")
        screen.type("go" + ENTER)
        run_id = await accepted(server, 1)
        await screen.displays("> go", "so far", ">")
        screen.type(CTRL_D)
        await screen.displays("> go", "so far")
        server.log.answer(run_id, f"m-{run_id}", "so far and to the end")
        assert await asyncio.wait_for(process.wait(), 30) == 0
        await screen.displays("> go", "so far and to the end")


async def test_a_question_takes_no_key_that_was_meant_for_a_prompt(tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, [str(TOOLS), os.environ.get("PYTHONPATH")]))
    call = {"name": "order_book", "arguments": {"title": "Emma"}, "id": "1"}
    asking = json.dumps({"replies": [{"tool_calls": [call]}, {"text": "Done."}]})
    config = ["--config", str(TOOLS / "turnkeeper.toml")]
    with lasting_server(tmp_path / "data", *config, PYTHONPATH=path) as address:
        environ = {**environment(address), "XDG_STATE_HOME": str(tmp_path)}
        async with chatting(environ, "s") as screen, Client(address) as other:
            screen.type("yes, and then")
            await screen.displays("> yes, and then")
            asked_first = await other.submit("s", asking)
            await screen.displays('allow order_book {"title":"Emma"}? [y/n]')
            screen.type("y" + ENTER)
            await screen.displays("[order_book said: Emma is ordered]", "Done.", "> yes, and then")
            async with other.watch("s", after_seq=0, run_ids=[asked_first.run_id]) as stream:
                # What is shown of an answer is shown before its run is over, and this prompt is not to stand in line.
                async for item in stream:
                    if isinstance(item, Event) and item.HasField("run_finished"):
                        break
            screen.type(ENTER)
            await screen.displays("> yes, and then", "yes, and then", ">")
        async with Client(address) as client:
            await client.create_session("other", SessionSettings())
            asked = [message.parts[0].text.text async for message in client.list_messages("s") if message.role == 1]
    assert asked == [asking, "yes, and then"]
    assert "+y\n" not in (tmp_path / "turnkeeper" / "history").read_text()


async def test_a_long_history_is_shortened(tmp_path: Path) -> None:
    path = tmp_path / "turnkeeper" / "history"
    history = PromptHistory(path)
    for number in range(MAX_LINES + 5):
        history.store_string(f"line {number}")
    kept = list(PromptHistory(path).load_history_strings())
    assert (len(kept), kept[0], kept[-1]) == (MAX_LINES, f"line {MAX_LINES + 4}", "line 5")
    assert path.stat().st_mode & 0o777 == 0o600

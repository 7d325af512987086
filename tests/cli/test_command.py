"""The command beside the conversation: help, exit codes, what is installed and what is not."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

import turnkeeper
from tests.cli.conftest import Command, Done, environment, start
from tests.cli.terminal import terminal
from tests.clients.fake import FakeServer
from turnkeeper.cli import application

COMMANDS = ("chat", "watch", "runs", "sessions", "messages", "tools", "approvals", "summarize", "cancel", "delete")


def called(*arguments: str) -> Done:
    """The command in this process, for what needs no server."""
    done = CliRunner().invoke(application(), arguments, prog_name="turnkeeper", env={"COLUMNS": "80"})
    return Done(done.exit_code, done.stdout, done.stderr)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str) -> None:
    done = called(name, "--help")
    assert done.code == 0
    assert f"Usage: turnkeeper {name}" in done.out
    assert f"\n  Examples:\n      turnkeeper {name}" in done.out


@pytest.mark.parametrize("words", [("config",), ("config", "check"), ("serve",), ("token",)])
def test_the_servers_commands_have_their_examples_line_by_line(words: tuple[str, ...]) -> None:
    done = called(*words, "--help")
    assert f"\n  Examples:\n      turnkeeper {' '.join(words)}\n" in done.out.replace(
        " --tenant acme --name billing", ""
    )


def test_help_lists_all_commands_the_servers_too() -> None:
    done = called("--help")
    listed = [line.split()[0] for line in done.out.split("Commands:")[1].splitlines() if line.startswith("  ")]
    assert {*COMMANDS, "serve", "config"} <= set(listed)
    assert listed[0] == "chat"


@pytest.mark.parametrize("words", [(), ("config",)])
def test_what_help_says_of_commands_is_not_cut(words: tuple[str, ...]) -> None:
    listed = " ".join(called(*words, "--help").out.split("Commands:")[1].split())
    assert "..." not in listed
    assert listed.endswith(".")
    if not words:
        assert "Have the context of a session summarised, so that less is sent to models; wait for it." in listed


def test_the_version_is_said() -> None:
    assert called("--version") == Done(0, f"turnkeeper {turnkeeper.__version__}\n", "")
    assert turnkeeper.__version__ == metadata.version("turnkeeper")


def test_a_shell_is_told_what_may_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, expected in (("turnkeeper s", {"sessions", "summarize", "serve"}), ("turnkeeper cancel --r", {"--run"})):
        asked = {"_TURNKEEPER_COMPLETE": "complete_bash", "COMP_WORDS": given, "COMP_CWORD": str(given.count(" "))}
        done = CliRunner().invoke(application(), [], prog_name="turnkeeper", env=asked)
        assert expected <= set(done.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("runs",),
        ("cancel",),
        ("cancel", "--all", "--run", "r"),
        ("cancel", "--all", "--hint", "h"),
        ("watch", "s", "--after", "-1"),
        ("approvals", "--allow", "a"),
        ("approvals", "s", "--allow", "a", "--deny", "a"),
        ("sessions", "--nonsense"),
        ("sessions", "--address", "http://127.0.0.1:7450"),
    ],
)
def test_wrong_usage_is_two(arguments: tuple[str, ...]) -> None:
    done = called(*arguments)
    assert done.code == 2
    assert done.err
    assert "Traceback" not in done.err


CALLS = [
    ("chat", "--session", "s"),
    ("watch", "s"),
    ("runs", "s"),
    ("sessions",),
    ("messages", "s"),
    ("tools",),
    ("approvals", "s"),
    ("summarize", "s"),
    ("cancel", "--session", "s"),
    ("delete", "s"),
]


@pytest.mark.asyncio
async def test_every_command_says_in_one_line_that_there_is_no_server(server: FakeServer, command: Command) -> None:
    assert {arguments[0] for arguments in CALLS} == set(COMMANDS)
    await server.stop()
    for done in await asyncio.gather(*(command(*arguments) for arguments in CALLS)):
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith(f"turnkeeper: no connection to {server.address}: the connection is refused")
        assert done.err.count("\n") == 1


@pytest.mark.asyncio
async def test_a_refusal_is_one_line_and_one(server: FakeServer, command: Command) -> None:
    server.refuse = lambda method: (grpc.StatusCode.NOT_FOUND, "no such session")
    done = await command("watch", "s")
    assert (done.code, done.out, done.err) == (1, "", "turnkeeper: NOT_FOUND: no such session\n")


@pytest.mark.asyncio
async def test_a_token_that_is_missing_is_asked_for(
    server: FakeServer, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.refuse = lambda method: (grpc.StatusCode.UNAUTHENTICATED, "who are you?")
    monkeypatch.delenv("TURNKEEPER_TOKEN", raising=False)
    missing = await command("approvals", "s")
    assert missing.err == "turnkeeper: UNAUTHENTICATED: who are you? (TURNKEEPER_TOKEN is not set)\n"
    monkeypatch.setenv("TURNKEEPER_TOKEN", "wrong")
    assert (await command("approvals", "s")).err == "turnkeeper: UNAUTHENTICATED: who are you?\n"


@pytest.mark.asyncio
async def test_watch_prints_events_and_ends_by_ctrl_c(server: FakeServer, command: Command) -> None:
    server.log.start("r1")
    server.log.answer("r1", "m1", "hello")
    done = await command("watch", "s", "--after", "0", "--history")
    assert done.code == 0
    names = [line.split()[3] for line in done.out.splitlines()]
    assert names == ["run_started", "message_committed", "run_finished"]
    process = await start(server.address, "watch", "s", "--after", "2", "--json")
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(b'{"event":{"session_id":"s","seq":"3"')
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, err) == (0, b"")


NEEDS = "turnkeeper: the command needs {}: pip install 'turnkeeper[cli]'\n"
WITHOUT = """
import importlib.abc, importlib.metadata, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
sys.argv = {arguments!r}
{before}
from turnkeeper.cli import main
main()
"""


def run_without(names: list[str], arguments: list[str], before: str = "") -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(names=names, arguments=["turnkeeper", *arguments], before=before)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_without_the_extra_the_fix_is_named() -> None:
    done = run_without(["typer"], ["sessions"])
    assert (done.returncode, done.stderr) == (1, NEEDS.format("typer"))


@pytest.mark.asyncio
async def test_what_only_a_chat_in_a_terminal_needs_is_named_there(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "prompt_toolkit.py").write_text("raise ModuleNotFoundError('gone', name='prompt_toolkit')")
    environ = {**environment(server.address), "PYTHONPATH": str(tmp_path)}
    async with terminal(environ, "chat", kind="xterm-256color") as (screen, process):
        await screen.shows(NEEDS.format("prompt_toolkit").strip())
        assert await asyncio.wait_for(process.wait(), 30) == 1


@pytest.mark.parametrize("arguments", [["serve", "--port", "0"], ["config"], ["config", "check"]])
def test_without_the_server_its_commands_name_the_package(arguments: list[str]) -> None:
    done = run_without([], arguments, before="importlib.metadata.entry_points = lambda **_: ()")
    expected = f"turnkeeper: `{arguments[0]}` is part of the server: pip install turnkeeper-service\n"
    assert (done.returncode, done.stderr) == (1, expected)


def test_installed_commands_are_found_by_their_entry_points(tmp_path: Path) -> None:
    (tmp_path / "plugged.py").write_text(
        "import typer\n"
        "def wave(to: str = 'you') -> None:\n    print('waves at', to)\n"
        "things = typer.Typer()\n"
        "@things.command()\ndef first() -> None:\n    print('first')\n"
        "@things.command()\ndef second() -> None:\n    print('second')\n"
    )
    info = tmp_path / "plugged-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[turnkeeper.commands]\nwave = plugged:wave\nthings = plugged:things\n")
    before = f"sys.path.insert(0, {str(tmp_path)!r})"
    for arguments, expected in (
        (["wave", "--to", "me"], "waves at me\n"),
        (["things", "second"], "second\n"),
    ):
        done = run_without([], arguments, before)
        assert (done.returncode, done.stdout) == (0, expected), done.stderr

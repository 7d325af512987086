"""The server's commands: how they end, what they print, and what signals do."""

from __future__ import annotations

import importlib.metadata
import json
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from turnkeeper_service import commands
from turnkeeper_service.principal import Principal, read_token_file
from turnkeeper_service.settings.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
Start = Callable[[str], subprocess.Popen[str]]
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    commands.register(app)

    def invoke(*arguments: str, **environ: str) -> Result:
        return CliRunner().invoke(app, list(arguments), env={"HOME": str(tmp_path), "COLUMNS": "120", **environ})

    return invoke


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def popen(story: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.service.ops.fake_server", story],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield popen
    for process in processes:
        process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for found in process.stdout:
        if found.rstrip("\n") == line:
            return
    pytest.fail(f"it never printed {line!r}: {process.stderr.read() if process.stderr else ''}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_well(start: Start, number: signal.Signals) -> None:
    process = start("serves")
    until(process, "loop uvloop")
    until(process, "listening grpc=127.0.0.1:1 http=127.0.0.1:2")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (out, process.returncode) == ("draining 7.0\nclosed\n", 0)
    assert [json.loads(line)["event"] for line in err.splitlines()] == ["draining", "stopped"]


def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    process = start("slow")
    until(process, "listening grpc=127.0.0.1:1 http=127.0.0.1:2")
    process.send_signal(signal.SIGTERM)
    until(process, "draining 7.0")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == ("", 1)


@pytest.mark.parametrize(
    ("story", "code", "words"),
    [
        ("locked", 3, "/data is in use by process 7"),
        ("unreadable", 2, "/data/turnkeeper.db is not a database of ours"),
        ("unwritable", 1, "/data cannot be written"),
        ("taken", 1, "cannot listen for gRPC on 127.0.0.1:7450"),
        ("no tool", 2, "tools.functions: 'f' is not a function"),
        ("bad", 1, "it cannot be built"),
        ("fails", 1, "the disk is full"),
    ],
)
def test_what_cannot_serve_says_why_and_by_its_exit_code(start: Start, story: str, code: int, words: str) -> None:
    process = start(story)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert words in err
    assert "Traceback" not in err
    logged = json.loads(err.splitlines()[0])
    # What its words say whole has no trace; a fault of the program has one.
    assert ("exception" in logged) == (story == "bad")
    assert logged["event"] == ("stopped by a fault" if story == "bad" else "cannot serve")
    assert out.endswith("closed\n") == (story != "bad")


@pytest.mark.parametrize("story", ["fails while draining", "cannot drain"])
def test_a_fault_while_draining_is_a_failure(start: Start, story: str) -> None:
    process = start(story)
    until(process, "listening grpc=127.0.0.1:1 http=127.0.0.1:2")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (out, process.returncode) == ("draining 7.0\nclosed\n", 1)
    assert ("the disk is full" if story == "fails while draining" else "no drain") in err


def test_a_drain_by_rpc_ends_it_well(start: Start) -> None:
    process = start("drained")
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.endswith("closed\n")


def test_flags_of_serve_become_settings(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Settings] = []

    def keep(settings: Settings) -> int:
        seen.append(settings)
        return 0

    monkeypatch.setattr(commands, "run_server", keep)
    flags = "--port 0 --http-address 127.0.0.1:0 --data-dir d --model scripted/lorem --token-file t --drain-timeout 3"
    result = run(
        "serve",
        *flags.split(),
        "--log-level",
        "debug",
        "--set",
        "limits.max_running_turns=0",
        "--set",
        "defaults.system_prompt=a=b",
    )
    assert result.exit_code == 0, result.output
    (settings,) = seen
    server = settings.server
    assert (server.grpc_address, server.http_address, server.log_level) == ("127.0.0.1:0", "127.0.0.1:0", "debug")
    assert (server.data_dir, server.drain_timeout_seconds) == (tmp_path / "d", 3.0)
    assert (settings.auth.mode, settings.auth.token_file) == ("token", tmp_path / "t")
    assert (settings.defaults.model, settings.defaults.system_prompt) == ("scripted/lorem", "a=b")
    assert settings.limits.max_running_turns == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--set", "limits.max_running_turn=1"],
            "unknown key limits.max_running_turn; did you mean limits.max_running_turns?",
        ),
        (["--set", "limits.max_running_turns"], "must be KEY=VALUE"),
        (["--set", "a b=1"], "flag a b: not a dotted key"),
        (["--grpc-address", "0.0.0.0:1"], 'auth.mode "none" lets everybody in'),
        (["--port", "1", "--grpc-address", "127.0.0.1:1"], "exclude each other"),
        (["--port", "65536"], "65535"),
        (["--config", "none.toml"], "none.toml: cannot read it: No such file or directory"),
    ],
)
def test_bad_flags_of_serve_exit_2(run: Run, arguments: list[str], words: str) -> None:
    result = run("serve", *arguments)
    assert (result.exit_code, words in result.stderr) == (2, True), result.stderr


def test_config_prints_the_merged_settings_without_secrets(run: Run, tmp_path: Path) -> None:
    (tmp_path / "turnkeeper.toml").write_text(
        '[providers.x]\nformat = "openai-chat"\nbase_url = "http://h"\napi_key_env = "KEY"\n'
        'headers = { "x y" = "hush" }\n'
        '[models."x/a"]\ncapabilities = ["tools", "images"]\n[defaults]\nsystem_prompt = "a\\u007f\\nü😀\\""\n'
    )
    result = run(
        "config", "--set", "limits.max_running_turns=9", KEY="hush", TURNKEEPER_LIMITS__MAX_RUNNING_TURNS_PER_TENANT="8"
    )
    assert result.exit_code == 0
    assert "hush" not in result.stdout
    values = tomllib.loads(result.stdout)
    assert values["limits"]["max_running_turns"] == 9
    assert values["limits"]["max_running_turns_per_tenant"] == 8
    assert values["providers"]["x"]["api_key"] == "**********"
    assert values["models"]["x/a"]["capabilities"] == ["images", "tools"]
    assert values["defaults"]["system_prompt"] == 'a\x7f\nü😀"'
    assert "# run_timeout_seconds is unset" in result.stdout


def test_what_config_prints_is_a_file_that_means_the_same(run: Run, tmp_path: Path) -> None:
    printed = run("config").stdout
    (tmp_path / "again.toml").write_text(printed)
    assert run("config", "--config", "again.toml").stdout == printed


def test_config_check_reads_what_the_settings_name(run: Run, tmp_path: Path) -> None:
    assert run("config", "check").stdout == "ok\n"
    (tmp_path / "turnkeeper.toml").write_text(
        '[auth]\nmode = "token"\ntoken_file = "tokens.toml"\n[providers.x]\nformat = "openai-chat"\n'
        'base_url = "http://h"\napi_key_env = "ABSENT"\n'
    )
    result = run("config", "check")
    assert result.exit_code == 2
    assert "environment variable ABSENT is not set" in result.stderr
    assert "tokens.toml: cannot read it" in result.stderr
    (tmp_path / "tokens.toml").write_text("")
    assert run("config", "check", ABSENT="k").exit_code == 0
    assert run("config", "--set", "limits.max_running_turns=-1", "check", ABSENT="k").exit_code == 2
    tls = ["--set", "tls.cert_file=c", "--set", "tls.key_file=k"]
    assert "c: cannot read it" in run("config", "check", *tls, ABSENT="k").stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("json", "'json' is not of the form package.module:function"),
        ("absent_module:f", "cannot load 'absent_module:f': No module named 'absent_module'"),
        ("json:absent", "cannot load 'json:absent': module 'json' has no attribute 'absent'"),
        ("string:digits", "'string:digits' is not a function"),
    ],
)
def test_a_function_that_is_no_tool_is_a_wrong_setting(run: Run, name: str, words: str) -> None:
    flags = ["--set", f'tools.functions=["{name}"]']
    checked = run("config", "check", *flags)
    assert (checked.exit_code, checked.stderr) == (2, f"turnkeeper: tools.functions: {words}\n")


def test_config_check_names_variables_that_mean_nothing(run: Run) -> None:
    known = {"TURNKEEPER_TOKEN": "t", "TURNKEEPER_ADDRESS": "a", "TURNKEEPER_TLS_CA": "c", "TURNKEEPER_LOGLEVEL": ""}
    assert run("config", "check", **known).exit_code == 0
    result = run("config", "check", TURNKEEPER_DATADIR="secret", TURNKEEPER_MODEL="m", TURNKEEPER_ZZZ="z")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "turnkeeper: environment variable TURNKEEPER_DATADIR: nothing has this name; did you mean TURNKEEPER_DATA_DIR?",
        "turnkeeper: environment variable TURNKEEPER_MODEL: nothing has this name; "
        "did you mean TURNKEEPER_DEFAULTS__MODEL?",
        "turnkeeper: environment variable TURNKEEPER_ZZZ: nothing has this name",
    ]
    # Whatever else is in the environment, the settings themselves are read.
    assert run("config", TURNKEEPER_PORT="tcp://10.0.0.1:7450").exit_code == 0


def test_config_check_names_programs_that_are_not_there(run: Run, tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    (tmp_path / "turnkeeper.toml").write_text(
        '[mcp.a]\ncommand = "no-such-program"\n[mcp.b]\ncommand = "/absent/program"\n[mcp.c]\ncommand = "sh"\n'
        f'[mcp.d]\ncommand = "tool"\nenv = {{ PATH = "{tool.parent}" }}\n[mcp.e]\nurl = "http://h"\n'
    )
    result = run("config", "check")
    # One that may not be run is none.
    assert (result.exit_code, result.stderr.splitlines()) == (
        2,
        [
            "turnkeeper: mcp.a.command: there is no program no-such-program",
            "turnkeeper: mcp.b.command: there is no program /absent/program",
            "turnkeeper: mcp.d.command: there is no program tool",
        ],
    )
    tool.chmod(0o755)
    assert "mcp.d" not in run("config", "check").stderr


def test_config_check_runs_the_commands_that_print_keys(run: Run, tmp_path: Path) -> None:
    (tmp_path / "turnkeeper.toml").write_text(
        '[providers.x]\nformat = "openai-chat"\nbase_url = "http://h"\napi_key_command = ["/bin/echo", "hush"]\n'
        '[providers.y]\nformat = "openai-chat"\nbase_url = "http://h"\napi_key_command = ["/absent"]\n'
    )
    result = run("config", "check")
    assert (result.exit_code, result.stdout) == (2, "")
    absent = "providers.y.api_key_command: cannot run /absent: No such file or directory"
    assert result.stderr == f"turnkeeper: {absent}\n"
    well = run("config", "check", "--set", 'providers.y.api_key_command=["/bin/echo", "k"]')
    assert (well.exit_code, well.stdout) == (0, "ok\n")


def test_token_prints_a_token_and_the_entry_that_knows_it(run: Run, tmp_path: Path) -> None:
    result = run("token", "--tenant", "acme", "--name", 'the "ops"', "--role", "user", "--role", "admin")
    minted, _, stanza = result.stdout.partition("\n\n")
    (tmp_path / "t").write_text(stanza)
    assert re.fullmatch(r"tk_[\w-]{43}", minted)
    assert minted not in stanza
    known = read_token_file(tmp_path / "t").tokens
    assert [principal for _, principal in known] == [Principal("acme", 'the "ops"', frozenset({"user", "admin"}))]


def test_token_appends_to_a_file(run: Run, tmp_path: Path) -> None:
    outputs = [run("token", "--append", "t").stdout for _ in range(2)]
    assert all(re.fullmatch(r"tk_[\w-]{43}\n", output) for output in outputs)
    assert len(read_token_file(tmp_path / "t").tokens) == 2
    assert run("token", "--append", "absent/t").exit_code == 1
    result = run("token", "--role", "boss")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "roles must be a list of some of" in result.stderr


def test_the_commands_are_entry_points_of_the_client(run: Run) -> None:
    declared = tomllib.loads((ROOT / "service/pyproject.toml").read_text())["project"]["entry-points"]
    for name, value in declared["turnkeeper.commands"].items():
        entry = importlib.metadata.EntryPoint(name, value, "turnkeeper.commands").load()
        assert callable(entry)
        assert run(name, "--help").exit_code == 0
        assert "Example" in run(name, "--help").stdout


def test_importing_the_commands_is_cheap() -> None:
    heavy = ["grpc", "pydantic", "uvloop", "aiohttp", "sqlalchemy", "structlog"]
    code = f"import sys, turnkeeper_service.commands; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_the_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "turnkeeper_service", "config", "check", "--set", "limits.max_running_turns=x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "limits.max_running_turns" in done.stderr

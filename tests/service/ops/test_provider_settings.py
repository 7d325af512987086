"""What the settings of providers and models become: keys and where they come from, limits, retries, stand-ins."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.service.manual_clock import ManualClock
from turnkeeper_service.process.clock import SystemClock
from turnkeeper_service.provider_wiring import model_catalog, provider_options
from turnkeeper_service.providers.facts.public_list import PublicList
from turnkeeper_service.providers.options import CallLimits, ProviderOptions
from turnkeeper_service.providers.policy.credentials import COMMAND_SECONDS
from turnkeeper_service.providers.policy.retry import RetryPolicy
from turnkeeper_service.settings.layers import SettingsError
from turnkeeper_service.settings.settings import Settings
from turnkeeper_service.wiring import run_options

TABLE = '[providers.x]\nformat = "openai-chat"\nbase_url = "http://127.0.0.1:9"\n'


def load(folder: Path, text: str, /, **environ: str) -> Settings:
    (folder / "turnkeeper.toml").write_text(text)
    return Settings.load({"HOME": str(folder), **environ}, cwd=folder)


def command(code: str) -> str:
    return f'api_key_command = ["{sys.executable}", "-c", "{code}"]\n'


async def options_of(folder: Path, text: str, /, **environ: str) -> ProviderOptions:
    (options,) = await provider_options(load(folder, TABLE + text, **environ), SystemClock())
    return options


async def problems_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        await provider_options(load(folder, text), SystemClock())
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


@pytest.mark.asyncio
async def test_the_first_way_to_the_key_wins_and_is_the_one_that_is_taken_again(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    (tmp_path / "printed").write_text("from-command\n")
    read_it = command("print(open('printed').read())").replace("'printed'", f"'{tmp_path / 'printed'}'")
    ways = ['api_key = "direct"\n', 'api_key_file = "key"\n', read_it, 'api_key_env = "KEY"\n']
    found = [await options_of(tmp_path, "".join(ways[first:]), KEY="from-variable") for first in range(4)]
    assert [options.key for options in found] == ["direct", "from-file", "from-command", "from-variable"]
    (tmp_path / "key").write_text("new-in-file")
    (tmp_path / "printed").write_text("new-from-command")
    again = [await options.key_source() if options.key_source else None for options in found]
    assert again == [None, "new-in-file", "new-from-command", None]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('api_key_file = "absent"', "api_key_file: cannot read absent: No such file or directory"),
        ('api_key_file = "empty"', "api_key_file: empty is empty"),
        (
            'api_key_command = ["/absent/program"]',
            "api_key_command: cannot run /absent/program: No such file or directory",
        ),
        (command("import sys; sys.exit(3)"), "api_key_command: the command ended with status 3"),
        (command("pass"), "api_key_command: the command printed nothing"),
        (command("import os; os.write(1, bytes([255]))"), "api_key_command: not UTF-8 text"),
        ('ca_file = "absent"', "ca_file: cannot use absent: No such file or directory"),
        ('ca_file = "empty"', "ca_file: cannot use empty: no certificates, PEM"),
    ],
)
async def test_what_a_provider_needs_and_does_not_find_is_said_at_the_start(
    tmp_path: Path, line: str, problem: str
) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "key").write_text("secret-that-is-fine")
    others = TABLE.replace(".x]", ".y]") + 'api_key_file = "key"\n' + TABLE.replace(".x]", ".z]") + 'ca_file = "empty"'
    found = await problems_of(tmp_path, f"{TABLE}{line}\n{others}\n")
    assert found == [f"providers.x.{problem}", "providers.z.ca_file: cannot use empty: no certificates, PEM"]
    assert "secret" not in str(found)


@pytest.mark.asyncio
async def test_limits_of_calls(tmp_path: Path) -> None:
    assert (await options_of(tmp_path, "max_wait_seconds = 1\n")).limits is None
    some = "max_concurrent_calls = 2\nmax_wait_seconds = 1\nmax_waiting_calls = 0\n"
    assert (await options_of(tmp_path, some)).limits == CallLimits(max_concurrent=2, max_wait=1, max_waiting=0)
    paced = (await options_of(tmp_path, "max_calls_per_minute = 30\n")).limits
    assert paced == CallLimits(max_starts=30, per_seconds=60)


def test_retries(tmp_path: Path) -> None:
    assert run_options(load(tmp_path, "")).retry == RetryPolicy()
    text = "[retries]\nmax_retries = 1\nfirst_delay_seconds = 2\nmax_delay_seconds = 3\njitter = 0\n"
    policy = RetryPolicy(max_retries=1, first_delay=2, max_delay=3, max_hint=3, jitter=0)
    assert run_options(load(tmp_path, text)).retry == policy


MODEL = TABLE + '[models."x/big"]\n'


@pytest.mark.asyncio
async def test_models_that_stand_in(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        MODEL
        + 'fallbacks = ["x/small", "scripted/echo"]\ncontext_window_tokens = 9\nmax_output_tokens = 5\n'
        + 'capabilities = ["reasoning"]\n[retries]\ncool_down_seconds = 7\n',
    )
    catalog = model_catalog(settings, PublicList())
    facts, chain = catalog.facts("x/big"), catalog.chain("x/big")
    assert (chain.models, chain.cool_down) == (("x/big", "x/small", "scripted/echo"), 7)
    assert (facts.context_window, facts.max_output_tokens) == (9, 5)
    assert (facts.capabilities.takes_images, facts.capabilities.is_reasoning) == (False, True)
    assert catalog.chain("x/small").models == ("x/small",)


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        ('["y/a"]', "y/a needs a table [providers.y]"),
        ('["x/small", "x/small"]', "a model stands in for others once, and never for itself"),
        ('["x/big"]', "a model stands in for others once, and never for itself"),
    ],
)
def test_models_that_cannot_stand_in(tmp_path: Path, models: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, f"{MODEL}fallbacks = {models}\n")
    assert [one.partition(":5: ")[2] for one in caught.value.problems] == [f'models."x/big".fallbacks: {problem}']


@pytest.mark.asyncio
async def test_a_command_that_does_not_end_is_ended_and_said(tmp_path: Path) -> None:
    clock = ManualClock()
    settings = load(tmp_path, TABLE + command("import time; time.sleep(600)"))
    reading = asyncio.create_task(provider_options(settings, clock))
    await clock.armed(COMMAND_SECONDS)
    clock.advance(COMMAND_SECONDS)
    with pytest.raises(SettingsError, match="did not end within 30 s"):
        await reading

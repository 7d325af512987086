"""docs/providers.md says what the adapters do, and its recipes can be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.service.providers import providers_page
from turnkeeper_service import commands
from turnkeeper_service.process.clock import SystemClock
from turnkeeper_service.provider_wiring import provider_options
from turnkeeper_service.providers.registry import ProviderRegistry
from turnkeeper_service.settings.settings import Settings

TEXT = providers_page.PAGE.read_text(encoding="utf-8")
RECIPES = re.findall(r"^### (.+?)\n\n```toml\n(.*?)```", TEXT, re.MULTILINE | re.DOTALL)


def test_the_page_says_what_the_adapters_do() -> None:
    assert providers_page.page() == TEXT, "run `python -m tests.service.providers.providers_page`"
    written = TEXT.partition(providers_page.MARK)[0]
    assert max(map(len, written.splitlines())) <= 120


def test_there_is_a_recipe_for_each() -> None:
    names = ["OpenAI", "Anthropic", "Gemini", "OpenRouter", "Groq", "Ollama", "vLLM", "llama.cpp"]
    assert [name for name, _ in RECIPES] == names
    assert all(len(text.splitlines()) <= 10 for _, text in RECIPES)


def check(folder: Path, text: str) -> str:
    """What `turnkeeper config check` says of a configuration, its keys at hand."""
    (folder / "turnkeeper.toml").write_text(text)
    keys = dict.fromkeys(re.findall(r'api_key_env = "(\w+)"', text), "k")
    app = typer.Typer()
    commands.register(app)
    arguments = ["config", "check", "--config", str(folder / "turnkeeper.toml")]
    return CliRunner().invoke(app, arguments, env={"HOME": str(folder), **keys}).output


@pytest.mark.parametrize("text", [text for _, text in RECIPES], ids=[name for name, _ in RECIPES])
def test_the_command_takes_the_recipes(text: str, tmp_path: Path) -> None:
    assert check(tmp_path, text) == "ok\n"


def test_the_command_takes_what_is_shown_of_the_rest(tmp_path: Path) -> None:
    shown = [
        text for text in re.findall(r"^```toml\n(.*?)```", TEXT, re.M | re.S) if text not in dict(RECIPES).values()
    ]
    assert len(shown) == 3
    tables = [f'[providers.{name}]\nformat = "scripted"\n' for name in ("openai", "anthropic", "groq")]
    assert check(tmp_path, "\n".join([*shown, *tables])) == "ok\n"


@pytest.mark.asyncio
@pytest.mark.parametrize(("name", "text"), RECIPES, ids=[name for name, _ in RECIPES])
async def test_recipes(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "turnkeeper.toml"
    path.write_text(text)
    keys = dict.fromkeys(re.findall(r'api_key_env = "(\w+)"', text), "k")
    settings = Settings.load({"HOME": str(tmp_path), **keys}, config=path)
    ((provider, _),) = settings.providers.items()
    registry = ProviderRegistry(await provider_options(settings, SystemClock()), SystemClock())
    models = [*settings.models, settings.defaults.model]
    assert any(model.partition("/")[0] == provider for model in models)
    for model in models:
        registry.resolve(model)

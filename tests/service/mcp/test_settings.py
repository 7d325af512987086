"""The tables [mcp.NAME]."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.harness import load_settings
from turnkeeper_service.settings.layers import SettingsError
from turnkeeper_service.settings.text import render
from turnkeeper_service.wiring import mcp_options


def test_a_server_is_a_command_or_an_address_and_nothing_of_it_is_told_that_is_secret(tmp_path: Path) -> None:
    settings = load_settings(
        tmp_path,
        mcp__files__command="serve-files",
        mcp__files__args='["z", "a", "z"]',
        mcp__files__env='{"KEY": "hidden one"}',
        mcp__files__needs_approval='["write"]',
        mcp__web__url="https://example.com/mcp",
        mcp__web__headers='{"authorization": "hidden two"}',
        mcp__web__prefix="",
        mcp__web__needs_approval="true",
        mcp__web__timeout_seconds="3.5",
    )
    files = mcp_options("files", settings.mcp["files"], 1000)
    assert (files.prefix, files.args, files.env) == ("files_", ["z", "a", "z"], {"KEY": "hidden one"})
    assert (files.needs_approval, files.timeout) == (frozenset({"write"}), None)
    web = mcp_options("web", settings.mcp["web"], 1000)
    assert (web.prefix, web.headers, web.timeout) == ("", {"authorization": "hidden two"}, 3.5)
    assert web.needs_approval is True
    shown = render(settings)
    assert '[mcp.files]\ncommand = "serve-files"\nargs = ["z", "a", "z"]\n' in shown
    assert "hidden" not in shown


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "mcp.x: needs either a command or a url"),
        ({"command": "a", "url": "http://b"}, "mcp.x: needs either a command or a url"),
        ({"url": "ftp://b"}, "mcp.x.url: must start with http:// or https://"),
        ({"command": "a", "prefix": "y_"}, "mcp.y: its tools have the prefix of mcp.x"),
        ({"command": "a", "prefix": "a.b"}, "mcp.x.prefix"),
        ({"command": "a", "env": '{"K": 12345}'}, "mcp.x.env.K"),
    ],
)
def test_what_makes_no_server_is_refused(tmp_path: Path, values: dict[str, str], problem: str) -> None:
    tables = {f"mcp__x__{key}": value for key, value in values.items()} or {"mcp__x__wait": "true"}
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path, **tables, mcp__y__command="c")
    (said,) = caught.value.problems
    assert problem in said
    assert "12345" not in said

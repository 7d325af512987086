"""Keys and headers as files, terminals and variables hand them over: what is around goes, what is inside is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.upstream import Answer, Upstream, token_stream
from tests.service.failure.stories import reason_of
from tests.service.harness import serving
from tests.service.providers.test_formats import KEY_HEADERS, WIRE_FORMATS
from turnkeeper_service.settings.layers import SettingsError
from turnkeeper_service.settings.settings import Settings

KEY = "sk-key-of-ours"
TABLE = '[providers.x]\nformat = "{}"\nbase_url = "{}"\n'
AROUND = ["{}\r\n", "\ufeff{}", " \t{}\n\n", "\ufeff \ufeff{}\r", "{}\xa0", "\u2028{}"]
WITHIN = ["{}\nof-ours", "{}\r\nof-ours", "sk-\u200b{}", "{}\u200b", "{}\x00", "{}schlüssel", "{}\u20ac"]
WAYS = ["file", "command", "variable", "setting", "setting's variable", "flag"]


def way(folder: Path, name: str, key: str) -> tuple[str, dict[str, str], dict[str, str], str]:
    """Give a key in one way: lines of the table, variables, flags, and the setting that an error is to name."""
    environ, flags, line = {"HOME": str(folder)}, dict[str, str](), ""
    written = folder / "key"
    if name in ("file", "command"):
        written.write_bytes(key.encode())
    match name:
        case "file":
            line, setting = 'api_key_file = "key"\n', "providers.x.api_key_file"
        case "command":
            line, setting = f'api_key_command = ["cat", {json.dumps(str(written))}]\n', "providers.x.api_key_command"
        case "variable":
            line, setting = 'api_key_env = "KEY"\n', "providers.x.api_key_env"
            environ["KEY"] = key
        case "setting":
            escaped = "".join(f"\\U{ord(one):08x}" for one in key)
            line, setting = f'api_key = "{escaped}"\n', "providers.x.api_key"
        case "flag":
            flags["providers.x.api_key"], setting = key, "providers.x.api_key"
        case _:
            environ["TURNKEEPER_PROVIDERS__X__API_KEY"], setting = key, "providers.x.api_key"
    return line, environ, flags, setting


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "wire_format"), [*((name, "openai-chat") for name in WAYS), *(("file", one) for one in WIRE_FORMATS[1:])]
)
async def test_what_is_around_a_key_is_not_sent(tmp_path: Path, name: str, wire_format: str) -> None:
    header, value = KEY_HEADERS[wire_format]
    async with Upstream(lambda request: Answer(token_stream(1, wire_format))) as upstream:
        for number, around in enumerate(AROUND):
            folder = tmp_path / str(number)
            folder.mkdir()
            line, environ, flags, _ = way(folder, name, around.format(KEY))
            (folder / "turnkeeper.toml").write_text(TABLE.format(wire_format, upstream.base_url) + line)
            flags |= {"server.grpc_address": "127.0.0.1:0", "server.http_address": "127.0.0.1:0"}
            settings = Settings.load(environ, {**flags, "defaults.generate_titles": "false"}, cwd=folder)
            async with serving(folder, settings=settings) as server:
                await server.session("s", model="x/m")
                await server.submit("s", "hello", "r")
                assert (await server.terminals("s", ["r"]))["r"].text == "t0 "
            assert upstream.requests[-1].headers[header] == value.replace("key-of-ours", KEY)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("key", WITHIN)
async def test_what_is_in_a_key_ends_the_start_and_is_never_said(tmp_path: Path, name: str, key: str) -> None:
    line, environ, flags, setting = way(tmp_path, name, key.format(KEY))
    problem = await refused(tmp_path, line, environ, flags)
    assert setting in problem
    assert not [said for said in ("sk-", "of-ours", "schl") if said in problem]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("header", "words"),
    [
        ('"x-a" = "secret\\nof-ours"', "the value of 'x-a' holds a line break"),
        ('"x-a" = "secret\\u20ac"', "the value of 'x-a' holds a character that a header cannot carry"),
        ('"x-a" = "secret\\u0007"', "the value of 'x-a' holds a character that is not shown"),
        ('"x a" = "secret"', "'x a' is no name of a header"),
        ('"" = "secret"', "'' is no name of a header"),
        ('"x-é" = "secret"', "'x-é' is no name of a header"),
    ],
)
async def test_a_header_that_cannot_be_sent_ends_the_start(tmp_path: Path, header: str, words: str) -> None:
    problem = await refused(tmp_path, f"headers = {{ {header} }}\n", {}, {})
    assert problem.endswith(f"providers.x.headers: {words}")
    assert "secret" not in problem


async def refused(folder: Path, line: str, environ: dict[str, str], flags: dict[str, str]) -> str:
    """The one problem with which the start ends."""
    (folder / "turnkeeper.toml").write_text(TABLE.format("openai-chat", "http://127.0.0.1:9") + line)
    flags = {**flags, "server.grpc_address": "127.0.0.1:0", "server.http_address": "127.0.0.1:0"}
    with pytest.raises(SettingsError) as caught:
        async with serving(folder, settings=Settings.load({"HOME": str(folder), **environ}, flags, cwd=folder)):
            pass
    (problem,) = caught.value.problems
    return problem


@pytest.mark.asyncio
async def test_headers_of_latin_letters_are_sent_and_a_key_that_breaks_later_fails_its_call_alone(
    tmp_path: Path,
) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    answers = [Answer(token_stream(1)), Answer.error(401, "{}"), Answer(token_stream(2))]
    async with Upstream(lambda request: answers.pop(0)) as upstream:
        table = (
            TABLE.format("openai-chat", upstream.base_url) + 'headers = { x-name = " Zoë\\n" }\napi_key_file = "key"\n'
        )
        (tmp_path / "turnkeeper.toml").write_text(table)
        flags = {"server.grpc_address": "127.0.0.1:0", "server.http_address": "127.0.0.1:0"}
        flags |= {"defaults.generate_titles": "false", "retries.max_retries": "0"}
        settings = Settings.load({"HOME": str(tmp_path)}, flags, cwd=tmp_path)
        async with serving(tmp_path, settings=settings) as server:
            await server.session("s", model="x/m")
            outcomes = []
            for run_id in ("r1", "r2", "r3"):
                await server.submit("s", "hello", run_id)
                outcomes.append((await server.terminals("s", [run_id]))[run_id])
                key.write_text("sk-\nof-ours")
        assert [reason_of(one) for one in outcomes] == [
            "COMPLETED/ANSWERED",
            "FAILED/PROVIDER_UNAUTHENTICATED",
            "COMPLETED/ANSWERED",
        ]
        assert upstream.requests[0].headers["x-name"].encode("latin-1").decode() == "Zoë"

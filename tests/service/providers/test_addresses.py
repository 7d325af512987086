"""Where requests go: base URLs that ask for something, and those that are refused at the start with the right form."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.upstream import Answer, Upstream, token_stream
from tests.service.harness import load_settings, serving
from tests.service.providers.test_formats import WIRE_FORMATS
from turnkeeper_service.settings.layers import SettingsError

PATHS = {
    "openai-chat": "/chat/completions",
    "openai-responses": "/responses",
    "anthropic-messages": "/messages",
    "gemini": "/models/m:streamGenerateContent",
}


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_the_path_stands_before_what_the_base_url_asks_for(tmp_path: Path, wire_format: str) -> None:
    more = ["alt=sse"] if wire_format == "gemini" else []
    async with Upstream(lambda request: Answer(token_stream(1, request.wire_format))) as upstream:
        for number, (given, base, asked) in enumerate(
            [
                (
                    "/openai/deployments/gpt?api-version=2024-10-21",
                    "/openai/deployments/gpt",
                    ["api-version=2024-10-21"],
                ),
                ("/v1/?a=b%20c&d=/e/", "/v1", ["a=b%20c&d=/e/"]),
                ("/v1//", "/v1", []),
                ("?", "", []),
                (" \n", "", []),
            ]
        ):
            settings = {"providers.up.format": wire_format, "providers.up.base_url": upstream.base_url + given}
            folder = tmp_path / str(number)
            folder.mkdir()
            async with serving(folder, settings=load_settings(folder, **settings)) as server:
                await server.session("s", model="up/m")
                await server.submit("s", "hello", "r")
                assert (await server.terminals("s", ["r"]))["r"].text == "t0 "
            query = "&".join([*asked, *more])
            assert upstream.requests[-1].path == base + PATHS[wire_format] + (f"?{query}" if query else "")


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
@pytest.mark.parametrize(
    ("base_url", "problem"),
    [
        ("api.example.com/v1", "must start with http:// or https://"),
        ("https://h.example/v1#frag", "has a fragment, which is never sent; write https://h.example/v1"),
        ("https://h.example/v1?a=b#", "has a fragment, which is never sent; write https://h.example/v1?a=b"),
        *(
            (
                f"https://h.example/v1{path}{end}",
                "is the address of a request; write where the paths start: https://h.example/v1",
            )
            for path in (*PATHS.values(), "/completions", "/models/gemini-2.5-pro:generateContent")
            for end in ("", "/")
        ),
        (
            "https://h.example/d/gpt/chat/completions?api-version=1",
            "is the address of a request; write where the paths start: https://h.example/d/gpt?api-version=1",
        ),
        ("https:///v1", "names no host"),
        ("https://?a=b", "names no host"),
        ("https://h.example:70000/v1", "is no address: Port out of range 0-65535"),
        ("https://\U0001f389.example/v1", "is no address: its host has a character that no host's name has"),
        ("https://a..example/v1", "is no address: a part of its host's name is empty or longer than 63 characters"),
        (
            f"https://{'a' * 64}.example/v1",
            "is no address: a part of its host's name is empty or longer than 63 characters",
        ),
        (f"https://{'a.' * 150}example/v1", "is no address: its host's name is longer than 253 characters"),
        ("https://[::1/v1", "is no address: Invalid IPv6 URL"),
        ("https://h.exa mple/v1", "holds white space, or a character that is not shown"),
        ("https://h.example/\u200bv1", "holds white space, or a character that is not shown"),
    ],
)
def test_a_base_url_that_cannot_be_one_is_refused_with_the_right_form(
    tmp_path: Path, wire_format: str, base_url: str, problem: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path, **{"providers.up.format": wire_format, "providers.up.base_url": base_url})
    assert caught.value.problems == (f"flag providers.up.base_url: providers.up.base_url: {problem}",)

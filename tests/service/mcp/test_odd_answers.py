"""Tool servers that answer what the protocol does not say: what can be used is used, and they serve on."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.service.harness import Harness, load_settings, serving
from tests.service.manual_clock import ManualClock
from tests.service.mcp.odd_http import OddHttp
from tests.service.mcp.turns import Hasty, at_address, calling, connected, results, script, text
from turnkeeper.v1 import content_pb2, tool_service_pb2, tool_service_pb2_grpc
from turnkeeper_service.process.clock import Clock
from turnkeeper_service.tools.functions import FunctionTool
from turnkeeper_service.tools.mcp.connection import UNCHANGED_PAUSE
from turnkeeper_service.tools.mcp.content import offered_name

PROGRAM = Path(__file__).with_name("odd_server.py")
OTHER = {"other": FunctionTool(lambda: "", name="other").offered()}
FINE = b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[{"type":"text","text":"fine @PID@"}]}}\n'
PICTURE = b"\x89PNG\r\n\x1a\n more"
IN_BASE64 = base64.b64encode(PICTURE).decode()
DEEP = b"[" * 5000 + b"]" * 5000
UNUSABLE = "the tool server gave an answer that cannot be used: "

BOUND = {"limits__max_tool_result_bytes": str(1 << 16)}
WAYS = {
    "child": ("", ""),
    "json": ("@BODY@", "application/json"),
    "events": ("event: message\ndata: @BODY@\n\n", "text/event-stream"),
    "untyped": ("@BODY@", ""),
    "plain-events": ("data: @BODY@\n", "text/plain"),
}


def result(content: Any, **more: Any) -> bytes:
    """An answer to a call, in a line."""
    return b'{"jsonrpc":"2.0","id":@ID@,"result":%s}\n' % json.dumps({"content": content, **more}).encode()


def said(raw: bytes) -> bytes:
    """An answer to a call with one text, byte for byte."""
    return b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[{"type":"text","text":"%s"}]}}\n' % raw


@asynccontextmanager
async def odd(
    tmp_path: Path, way: str, answers: dict[str, bytes], clock: Clock | None = None
) -> AsyncIterator[Harness]:
    """A server of ours whose tool server gives these answers, reached in one of the ways. Runs wait for it."""
    folder = tmp_path / "answers"
    folder.mkdir()
    for name, raw in answers.items():
        (folder / name).write_bytes(raw)
    if way == "child":
        settings = {
            "mcp__own__command": sys.executable,
            "mcp__own__args": json.dumps(["-m", "tests.service.mcp.odd_server", str(folder)]),
            "mcp__own__env": json.dumps({"PYTHONPATH": str(PROGRAM.parents[3])}),
            "mcp__own__wait": "true",
        }
        async with serving(
            tmp_path, clock=clock or Hasty(), tools=OTHER, settings=load_settings(tmp_path, **BOUND, **settings)
        ) as server:
            await server.session("s")
            yield server
        return
    wrap, content_type = WAYS[way]
    async with OddHttp(folder, wrap, content_type) as own:
        settings = at_address(own.url)
        async with serving(
            tmp_path, clock=clock or Hasty(), tools=OTHER, settings=load_settings(tmp_path, **BOUND, **settings)
        ) as server:
            await server.session("s")
            yield server


async def called(server: Harness, *tools: str, run_id: str = "r") -> dict[str, content_pb2.ToolResult]:
    """The results of calls, one after the other in one run that is answered, by the tools' own names."""
    await server.submit("s", script(*(calling((f"own_{tool}", {})) for tool in tools)), run_id=run_id)
    assert (await server.terminals("s", [run_id]))[run_id].text == "done"
    found = await results(server, "s")
    return {tool: found[f"own_{tool}"] for tool in tools}


TEXTS = {
    "byte": (said(b"caf\xe9"), "caf\ufffd"),
    "half": (said(rb"caf\udce9"), "caf\ufffd"),
    "halves": (said(rb"\ud83d\ud83d\ude00 \\udce9 \ude00"), "\ufffd😀 \\udce9 \ufffd"),
    "nul": (said(rb"a\u0000b"), "a\ufffdb"),
    "mark": (b"\xef\xbb\xbf" + said(b"x"), "x"),
    "error": (
        b'{"jsonrpc":"2.0","id":@ID@,"error":{"code":-32000,"message":"no \xe9 \\udce9"}}\n',
        "no \ufffd \ufffd",
    ),
    "odd-error": (b'{"jsonrpc":"2.0","id":@ID@,"error":"out of paper"}\n', "out of paper"),
    "odd-code": (b'{"jsonrpc":"2.0","id":@ID@,"error":{"code":"E1","message":{"why":"paper"}}}\n', '{"why": "paper"}'),
    "both": (b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":"x"},"error":null}\n', "x"),
    "no-version": (b'{"id":@ID@,"result":{"content":[{"type":"text","text":"x"}]}}\n', "x"),
    "decimal": (b'{"jsonrpc":"2.0","id":@ID@.0,"result":{"content":[{"type":"text","text":"x"}]}}\n', "x"),
    "text-id": (b'{"jsonrpc":"2.0","id":"@ID@","result":{"content":[{"type":"text","text":"x"}]}}\n', "x"),
    "no-id": (b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}\n', "Parse error"),
    "batch": (b'[{"jsonrpc":"2.0","id":@ID@,"result":{"content":[{"type":"text","text":"x"}]}}]\n', "x"),
    "broken": (b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[}\n', f"{UNUSABLE}it is not JSON"),
    "deep": (
        b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[],"structuredContent":{"a":%s}}}\n' % DEEP,
        f"{UNUSABLE}it is nested too deeply",
    ),
    "less-deep": (
        b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[],"x":%s}}\n' % (b"[" * 300 + b"]" * 300),
        f"{UNUSABLE}it is nested too deeply",
    ),
    "long": (said(b"x" * 400_000), f"{UNUSABLE}it is longer than 327680 bytes"),
    "rather-long": (said(b"x" * 200_000), "the result is longer than 65536 bytes and was left out"),
}
CONTENT = {
    "structured": (b'{"jsonrpc":"2.0","id":@ID@,"result":{"structuredContent":{"a":1}}}\n', ['{"a": 1}']),
    "structured-list": (b'{"jsonrpc":"2.0","id":@ID@,"result":{"structuredContent":[1]}}\n', ["[1]"]),
    "structured-half": (
        rb'{"jsonrpc":"2.0","id":@ID@,"result":{"structuredContent":{"a":["\udce9"]}}}' + b"\n",
        ['{"a": ["\ufffd"]}'],
    ),
    "beside-empty": (result([{"type": "text", "text": ""}], structuredContent={"a": 1}), ['{"a": 1}']),
    "null-content": (result(None, structuredContent={"a": 1}, _meta=[]), ['{"a": 1}']),
    "old": (b'{"jsonrpc":"2.0","id":@ID@,"result":{"toolResult":"x"}}\n', ["x"]),
    "bare": (b'{"jsonrpc":"2.0","id":@ID@,"result":"x"}\n', ["x"]),
    "empty": (b'{"jsonrpc":"2.0","id":@ID@,"result":{}}\n', []),
    "null": (b'{"jsonrpc":"2.0","id":@ID@,"result":null}\n', []),
    "odd-block": (
        result([{"type": "text", "text": "good"}, {"type": "hologram", "x": 1}, None, 7, "bare"]),
        [
            "good",
            "[A part of this result was left out: content of the kind 'hologram'.]",
            "[A part of this result was left out: content of no kind.]",
            "[A part of this result was left out: content of no kind.]",
            "bare",
        ],
    ),
    "number": (result([{"type": "text", "text": 42}, {"text": "untyped"}]), ["42", "untyped"]),
    "bad-media": (
        result([{"type": "text", "text": "good"}, {"type": "image", "mimeType": "image/png", "data": "?!"}]),
        ["good", "[A part of this result was left out: image/png that is not base64.]"],
    ),
    "url": (
        result([{"type": "image", "mimeType": "image/png", "data": f"data:image/png;base64,{IN_BASE64}"}]),
        [PICTURE],
    ),
    "only-url": (result([{"type": "image", "data": f"data:image/png;base64,{IN_BASE64}"}]), [PICTURE]),
    "no-type": (
        result([{"type": "image", "data": IN_BASE64.rstrip("=")[:8] + "\n" + IN_BASE64.rstrip("=")[8:]}]),
        [PICTURE],
    ),
    "vendors-image": (
        result([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IN_BASE64}}]),
        [PICTURE],
    ),
    "vendors-url": (
        result([{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IN_BASE64}"}}]),
        [PICTURE],
    ),
    "text-of-no-kind": (result([{"type": "TEXT", "text": "x"}]), ["x"]),
    "bare-number": (b'{"jsonrpc":"2.0","id":@ID@,"result":5}\n', ["5"]),
    "percent": (result([{"type": "image", "mimeType": "image/svg+xml", "data": "data:,%3Csvg%20/%3E"}]), [b"<svg />"]),
    "bad-annotations": (result([{"type": "text", "text": "x", "annotations": {"priority": 9}, "_meta": []}]), ["x"]),
    "sound": (result([{"type": "audio", "mimeType": "audio/wav", "data": IN_BASE64}]), [PICTURE]),
    "blob": (result([{"type": "resource", "resource": {"mimeType": "image/png", "blob": IN_BASE64}}]), [PICTURE]),
    "link": (result([{"type": "resource_link", "uri": "file:///a", "name": "a"}]), ["a: file:///a"]),
    "no-resource": (
        result([{"type": "resource", "resource": None}]),
        ["[A part of this result was left out: a resource without content.]"],
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.asyncio
async def test_what_can_be_used_of_an_answer_is_used_and_the_server_serves_on(tmp_path: Path, way: str) -> None:
    cases = {name: (raw, [words]) for name, (raw, words) in TEXTS.items()} | CONTENT
    answers = {name: raw for name, (raw, _) in cases.items()} | {"fine": FINE}
    async with odd(tmp_path, way, answers) as server:
        before = text((await called(server, "fine", run_id="before"))["fine"])
        await server.session("long", max_steps=100)
        for start in range(0, len(cases), 20):
            names = [*list(cases)[start : start + 20], "fine"]
            found = await called(server, *names, run_id=f"r{start}")
            for name in names[:-1]:
                content = [part.text.text or part.media.data for part in found[name].content]
                assert content == cases[name][1], name
            assert text(found["fine"]) == before


@pytest.mark.asyncio
async def test_an_image_is_called_what_it_is(tmp_path: Path) -> None:
    kinds = {"right": "image/png", "wrong": "image/jpeg", "none": "", "odd": "picture"}
    answers = {name: result([{"type": "image", "mimeType": kind, "data": IN_BASE64}]) for name, kind in kinds.items()}
    async with odd(tmp_path, "child", answers) as server:
        found = await called(server, *kinds)
        assert {found[name].content[0].media.mime_type for name in kinds} == {"image/png"}


@pytest.mark.asyncio
async def test_an_error_that_a_result_names_in_a_word_is_one(tmp_path: Path) -> None:
    answers = {"word": result([{"type": "text", "text": "x"}], isError="true"), "none": result("x", isError=None)}
    async with odd(tmp_path, "child", answers) as server:
        found = await called(server, "word", "none")
        assert (found["word"].is_error, found["none"].is_error) == (True, False)


@pytest.mark.asyncio
async def test_what_a_child_writes_beside_its_messages_is_passed_over(tmp_path: Path) -> None:
    answers = {
        "junk": b"Starting up...\n\xff\xfe\n\n42\n{}\n[1]\nnull\n" + said(b"x"),
        "logs": b'{"level":"error","error":"disk","id":3}\n{"error":"disk"}\n{"method":"GET","id":1}\n' + said(b"x"),
        "prefix": b"\x1b[32mINFO\x1b[0m {x} " + said(b"x"),
        "neighbours": b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":7}}' + said(b"x"),
        "notices": b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":[]}\n'
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":"\xe9"}}\n'
        b'{"jsonrpc":"2.0","method":"notifications/nobody/knows"}\n'
        b'{"jsonrpc":"2.0","id":null,"method":"notifications/x"}\n'
        b'{"jsonrpc":"2.0","id":99999,"result":{}}\n' + said(b"x"),
        "fine": FINE,
    }
    async with odd(tmp_path, "child", answers) as server:
        found = await called(server, *answers)
        assert [text(found[name]) for name in list(answers)[:-1]] == ["x"] * 5
        assert text(found["fine"]) == text((await called(server, "fine", run_id="again"))["fine"])


@pytest.mark.parametrize("end", ["!exit", "!mute", "!deaf"])
@pytest.mark.asyncio
async def test_a_child_that_ends_its_stream_is_lost_and_connected_again(tmp_path: Path, end: str) -> None:
    async with odd(tmp_path, "child", {"end": end.encode(), "fine": FINE}) as server:
        before = text((await called(server, "fine", run_id="before"))["fine"])
        found = await called(server, "end")
        lost = "the tool server 'own' was lost during this call; whether it took effect is unknown"
        assert (text(found["end"]), found["end"].is_synthetic) == (lost, True)
        await connected(server, "own_fine")
        after = text((await called(server, "fine", run_id="after"))["fine"])
        assert after.startswith("fine")
        assert after != before


LISTED: dict[str, Any] = {
    "plain": {"name": "fine", "inputSchema": {"type": "object"}},
    "any": {"name": "any", "inputSchema": {"anyOf": [{"type": "object"}, {"type": "object", "required": ["a"]}]}},
    "none": {"name": "none"},
    "null-schema": {"name": "null", "inputSchema": None, "description": None, "annotations": []},
    "php": {"name": "php", "inputSchema": {"type": "object", "properties": [], "required": None}, "icons": 7},
    "kinds": {"name": "kinds", "inputSchema": {"type": ["object", "null"], "properties": {"a": None, "b": "text"}}},
    "text": {"name": "text", "inputSchema": '{"type":"object"}', "outputSchema": {"type": "nothing"}},
    "capitals": {"name": "capitals", "inputSchema": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}},
    "draft-04": {
        "name": "draft-04",
        "inputSchema": {"properties": {"a": {"type": "integer", "minimum": 0, "exclusiveMinimum": True}}},
    },
    "draft-03": {"name": "draft-03", "inputSchema": {"properties": {"a": {"type": ["any", {}], "required": True}}}},
    "no-draft": {
        "name": "no-draft",
        "inputSchema": {
            "required": ["a", "a", 5],
            "properties": {
                "a": {"type": "text", "description": 5, "pattern": r"\p{L}+", "enum": "x", "anyOf": [7]},
                "b": {"type": "array", "items": None, "minItems": "1", "examples": "x"},
                "c": {"type": "number", "default": float("inf"), "maximum": float("nan")},
            },
        },
    },
    "described": {"name": "described", "description": {"en": "x"}, "title": 5, "inputSchema": {}},
}
LEFT_OUT: list[Any] = [
    None,
    "x",
    {},
    {"name": 5, "inputSchema": {}},
    {"name": "", "inputSchema": {}},
    {"name": "list", "inputSchema": [1]},
    {"name": "array", "inputSchema": {"type": "array"}},
    {"name": "deep", "inputSchema": {"type": "object", "x": "DEEP"}},
]


@pytest.mark.parametrize("way", ["child", "json"])
@pytest.mark.asyncio
async def test_a_tool_that_cannot_be_offered_takes_none_of_the_others_with_it(tmp_path: Path, way: str) -> None:
    listed = json.dumps([*LISTED.values(), *LEFT_OUT]).encode().replace(b'"DEEP"', DEEP)
    answers = {
        "tools-list": b'{"jsonrpc":"2.0","id":@ID@,"result":{"nextCursor":"","_meta":[],"tools":%s}}\n' % listed,
        "initialize": b'{"jsonrpc":"2.0","id":@ID@,"result":{"protocolVersion":"2025-07-09",'
        b'"capabilities":{"tools":[]},"serverInfo":null,"instructions":5}}\n',
        **{one["name"]: FINE for one in LISTED.values()},
    }
    async with odd(tmp_path, way, answers) as server:
        names = [one["name"] for one in LISTED.values()]
        found = await called(server, *names)
        assert {name: text(one)[:4] for name, one in found.items()} == dict.fromkeys(names, "fine")
        servers = server.server._tool_servers
        assert servers is not None
        assert set(servers.tools()) == {f"own_{name}" for name in names}
        response = await tool_service_pb2_grpc.ToolServiceStub(server.channel).ListTools(
            tool_service_pb2.ListToolsRequest(session_id="s")
        )
        assert {one.name: one.left_out for one in response.tools if one.left_out} == {
            **{f"own_{offered_name('', f'#{number}')}": "it has no name" for number in range(13, 18)},
            "own_list": "its schema is not a JSON object",
            "own_array": "its schema is not that of an object",
            "own_deep": "its schema is nested too deeply",
        }


@pytest.mark.asyncio
async def test_a_server_that_ends_when_it_is_asked_for_a_newer_protocol_is_not_asked_again(tmp_path: Path) -> None:
    async with odd(tmp_path, "child", {"server-discover": b"!exit", "fine": FINE}) as server:
        assert text((await called(server, "fine"))["fine"]).startswith("fine")


@pytest.mark.asyncio
async def test_a_server_that_does_not_answer_a_call_answers_the_next(tmp_path: Path) -> None:
    clock = ManualClock()
    async with odd(tmp_path, "child", {"silent": b"!silent", "fine": FINE}, clock) as server:
        await server.submit("s", script(calling(("own_silent", {})), calling(("own_fine", {}))), run_id="r")
        await clock.armed(120)
        clock.advance(120)
        await server.terminals("s", ["r"])
        found = await results(server, "s")
        assert text(found["own_silent"]) == "the tool did not answer within 120 seconds"
        assert text(found["own_fine"]).startswith("fine")


BROKEN_OFF = (
    b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{"jsonrpc":"2.0","id":@ID@,'
)
RESPONSES = {
    "broken-off": (BROKEN_OFF, f"{UNUSABLE}it breaks off"),
    "page": (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 13\r\n\r\n<html></html>",
        "Unexpected content type: text/html",
    ),
    "empty": (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n",
        f"{UNUSABLE}it holds no answer",
    ),
    "bad": (
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\n{\xe9\xe9}",
        "Server returned an error response",
    ),
    "away": (
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://other.example/mcp\r\ncontent-length: 0\r\n\r\n",
        "Redirect to http://other.example/mcp not followed; use that URL as the endpoint if it is the intended server",
    ),
}


@pytest.mark.asyncio
async def test_a_response_that_is_none_costs_its_call_alone(tmp_path: Path) -> None:
    answers = {name: raw for name, (raw, _) in RESPONSES.items()} | {"fine": FINE}
    async with odd(tmp_path, "json", answers) as server:
        found = await called(server, *answers)
        assert {name: text(found[name]) for name in RESPONSES} == {
            name: words for name, (_, words) in RESPONSES.items()
        }
        assert text(found["fine"]).startswith("fine")


@pytest.mark.asyncio
async def test_a_list_that_never_ends_is_ended(tmp_path: Path) -> None:
    page = b'{"jsonrpc":"2.0","id":@ID@,"result":{"tools":[{"name":"fine","inputSchema":{}}],"nextCursor":"again"}}\n'
    async with odd(tmp_path, "child", {"tools-list": page, "fine": FINE}) as server:
        assert text((await called(server, "fine"))["fine"]).startswith("fine")


@pytest.mark.asyncio
async def test_a_server_that_says_without_end_that_its_tools_have_changed_is_asked_now_and_then(tmp_path: Path) -> None:
    clock = ManualClock()
    changed = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n'
    page = b'{"jsonrpc":"2.0","id":@ID@,"result":{"tools":[{"name":"fine","inputSchema":{}}]}}\n'
    async with odd(tmp_path, "child", {"tools-list": changed + page, "fine": FINE}, clock) as server:
        await clock.armed(UNCHANGED_PAUSE)
        clock.advance(UNCHANGED_PAUSE)
        await clock.armed(UNCHANGED_PAUSE, 2)
        # Its calls do not wait for what it would be told next.
        assert text((await called(server, "fine"))["fine"]).startswith("fine")


@pytest.mark.asyncio
async def test_a_server_without_tools_is_connected(tmp_path: Path) -> None:
    answers = {
        "tools-list": b'{"jsonrpc":"2.0","id":@ID@,"error":{"code":-32601,"message":"no such method"}}\n',
        "initialize": b'{"jsonrpc":"2.0","id":@ID@,"result":{"protocolVersion":"2024-11-05","capabilities":{},'
        b'"serverInfo":{"name":"x","version":"1"}}}\n',
    }
    async with odd(tmp_path, "child", answers) as server:
        found = await called(server, "fine")
        assert text(found["fine"]) == "there is no tool 'own_fine'"

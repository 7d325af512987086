"""Texts that are none: half of a character, whoever says it, is U+FFFD for the model, and the session goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tests.service.failure.stories import reason_of
from tests.service.harness import Flat, Harness
from tests.service.tools.holders import Client, Worker, offer, result
from tests.service.turns.scenes import Tools, call, calls, result_text, scene, script
from tests.service.wire.talk import Talk
from tests.service.wire.test_bad_frames import raw_converse
from turnkeeper.v1 import run_service_pb2, tool_service_pb2
from turnkeeper_service.tools.functions import EndTurn, ToolError

HALF = "caf\udce9"
WHOLE = "caf\ufffd"


class Loan(BaseModel):
    """What a tool may return."""

    title: str


def deep() -> Any:
    """A value that no library writes as JSON."""
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    return value


def refuse() -> None:
    """Say what is wrong."""
    raise ToolError(HALF)


SAID: dict[str, tuple[Any, str]] = {
    "alone": (lambda: HALF, WHOLE),
    "listed": (lambda: [HALF, 1], f'["{WHOLE}", 1]'),
    "key": (lambda: {HALF: {"at": Path("/a"), "by": (HALF,)}}, f'{{"{WHOLE}": {{"at": "/a", "by": ["{WHOLE}"]}}}}'),
    "model": (lambda: Loan(title=HALF), f'{{"title": "{WHOLE}"}}'),
    "bytes": (lambda: [b"caf\xe9", HALF], f'["{WHOLE}", "{WHOLE}"]'),
    "error": (refuse, WHOLE),
    "nul": (lambda: "a\0b", "a\ufffdb"),
    "deep": (deep, "the result is nested too deeply"),
    "end": (lambda: EndTurn([HALF]), f'["{WHOLE}"]'),
}


@pytest.mark.parametrize("name", SAID)
@pytest.mark.asyncio
async def test_a_function_may_say_half_a_character(tmp_path: Path, name: str) -> None:
    tools = Tools()
    tools.add(name, SAID[name][0])
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls(name), "the end"), "r")
        assert reason_of(await on.watch.terminal("r")).startswith("COMPLETED/")
        assert result_text((await on.results())[f"id-{name}"]) == SAID[name][1]
        await on.server.submit("s", script("hello"), "next")
        assert (await on.watch.terminal("next")).text == "hello"


@pytest.mark.asyncio
async def test_arguments_may_have_half_a_character_or_be_nested_too_deeply(tmp_path: Path) -> None:
    tools = Tools()
    tools.add("echo", lambda text: text)
    asked = [
        call("echo", "half") | {"arguments": r'{"text":"caf\udce9 \ud83d\ude00"}'},
        call("echo", "deep") | {"arguments": '{"text":' + "[" * 300 + "]" * 300 + "}"},
    ]
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script({"tool_calls": asked}, "the end"), "r")
        assert (await on.watch.terminal("r")).text == "the end"
        found = await on.results()
        assert result_text(found["half"]) == f"{WHOLE} 😀"
        assert found["deep"].is_error


async def raw_holder(server: Harness, kind: str) -> Any:
    """A client or worker that serves the tool ``look`` and can write bytes."""
    if kind == "client":
        talk = Talk(Flat(raw_converse(server.channel)()))
        await talk.send("open", open=run_service_pb2.OpenFrame(session_id="s", client_name="me"))
        await talk.answer("open")
        client = Client(talk)
        await client.offer("look")
        return client
    channel: Any = server.channel
    raw = channel.stream_stream(
        "/turnkeeper.v1.ToolService/ServeTools",
        request_serializer=lambda one: one if isinstance(one, bytes) else one.SerializeToString(),
        response_deserializer=tool_service_pb2.ServeToolsResponse.FromString,
    )
    worker = Worker(raw())
    await worker.send(open=tool_service_pb2.OpenWorker(worker_id="me", offer=offer("look")))
    await worker.until(lambda item: item.HasField("tools"))
    return worker


@pytest.mark.parametrize("kind", ["client", "worker"])
@pytest.mark.asyncio
async def test_a_holder_whose_protobuf_checks_no_texts_may_send_them(tmp_path: Path, kind: str) -> None:
    async with scene(tmp_path) as on:
        holder = await raw_holder(on.server, kind)
        await on.server.submit("s", script(calls("look"), "the end"), "r")
        given = result(await holder.invoked(), "cafe")
        frame: Any = (
            run_service_pb2.ConverseRequest(frame_id="f", tool_result=given)
            if kind == "client"
            else tool_service_pb2.ServeToolsRequest(frame_id="f", result=given)
        )
        stream = holder.talk.call if kind == "client" else holder.call
        await stream.write(frame.SerializeToString().replace(b"cafe", b"caf\xe9"))
        assert (await on.watch.terminal("r")).text == "the end"
        assert result_text((await on.results())["id-look"]) == WHOLE

"""The scripted provider, and the registry that has it built in."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.service.providers.collect import after, collect, request, user
from tests.service.providers.held_clock import HeldClock
from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import FailureReason, ModelRequest, PartKind
from turnkeeper_service.providers.gates import Gates
from turnkeeper_service.providers.options import ProviderOptions, Secret
from turnkeeper_service.providers.registry import ProviderRegistry, UnknownModelError
from turnkeeper_service.providers.scripted import MAX_COUNTED, ScriptedProvider


def directive(**reply: Any) -> ModelRequest:
    return request("echo", json.dumps(reply))


@pytest.mark.asyncio
async def test_echo(clock: HeldClock) -> None:
    collected = await collect(ScriptedProvider(clock), request("echo", "before", "three small words"))
    assert collected.text() == "three small words"
    assert collected.finished.usage.output_tokens == 3
    assert len(collected.events) == 6


@pytest.mark.asyncio
async def test_lorem(clock: HeldClock) -> None:
    provider = ScriptedProvider(clock)
    assert (await collect(provider, request("lorem"))).finished.usage.output_tokens == 64
    assert (await collect(provider, request("lorem-2"))).text() == "w0 w1 "


@pytest.mark.asyncio
async def test_a_directive_is_a_reply(clock: HeldClock) -> None:
    collected = await collect(
        ScriptedProvider(clock),
        directive(
            reasoning="think hard",
            text=["a", "b"],
            tool_calls=[{"name": "find", "arguments": {"q": 1}}, {"name": "break", "arguments": "{", "id": "x"}],
            finish="max_tokens",
            usage={"input_tokens": 5, "reasoning_tokens": 2},
        ),
    )
    assert collected.kinds == [PartKind.REASONING, PartKind.TEXT, PartKind.TOOL_CALL, PartKind.TOOL_CALL]
    assert [call.arguments_json for call in collected.calls] == ['{"q":1}', "{}"]
    finished = collected.finished
    assert finished.finish_reason == content_pb2.FINISH_REASON_MAX_TOKENS
    assert (finished.usage.input_tokens, finished.usage.HasField("output_tokens")) == (5, False)


@pytest.mark.asyncio
async def test_other_json_is_just_text(clock: HeldClock) -> None:
    assert (await collect(ScriptedProvider(clock), request("echo", '{"name": "x"}'))).text() == '{"name": "x"}'


@pytest.mark.asyncio
async def test_failures(clock: HeldClock) -> None:
    provider = ScriptedProvider(clock)
    collected = await collect(
        provider, directive(tokens=5, fail="PROVIDER_RATE_LIMITED", fail_after=2, retry_after=3, retryable=True)
    )
    assert collected.error is not None
    assert collected.error.reason is FailureReason.PROVIDER_RATE_LIMITED
    assert (collected.text(), collected.error.retry_after, collected.error.is_retryable) == ("w0 w1 ", 3, True)
    collected = await collect(provider, directive(fail="PROVIDER_ERROR"))
    assert collected.error is not None
    assert provider.num_open == 0


@pytest.mark.asyncio
async def test_a_call_fails_as_often_as_it_is_told_and_answers_then(clock: HeldClock) -> None:
    provider = ScriptedProvider(clock)
    half = {"text": "half an answer", "fail": "IDLE_TIMEOUT", "fail_after": 2, "fail_usage": {"input_tokens": 7}}
    full = {"fail": "PROVIDER_REFUSED", "status": 413, "overflow": True, "retryable": True}
    asked = directive(text="whole", attempts=[half, full], usage={"input_tokens": 9})
    first, second, third = [await collect(provider, asked) for _ in range(3)]
    assert first.error is not None
    assert second.error is not None
    assert (first.error.reason, first.text()) == (FailureReason.IDLE_TIMEOUT, "half an ")
    assert first.error.usage == content_pb2.Usage(num_calls=1, input_tokens=7)
    assert (second.error.status, second.error.usage, second.text()) == (413, None, "")
    assert second.error.is_context_overflow
    assert not second.error.is_retryable, "the same request overflows again"
    assert (third.text(), third.finished.usage.input_tokens) == ("whole", 9)
    assert (await collect(provider, asked)).text() == "whole"


@pytest.mark.asyncio
async def test_attempts_count_per_session_model_and_step(clock: HeldClock) -> None:
    provider = ScriptedProvider(clock)
    asked = directive(text="whole", attempts=[{"fail": "PROVIDER_ERROR"}])
    answered = [
        *asked.messages,
        content_pb2.Message(role=content_pb2.ROLE_ASSISTANT),
    ]
    others = [
        replace(asked, session_hash="other"),
        replace(asked, model="lorem"),
        replace(asked, messages=answered),
    ]
    for one in (asked, *others):
        assert (await collect(provider, one)).error is not None
        assert (await collect(provider, one)).text() == "whole"


@pytest.mark.asyncio
async def test_one_model_fails_where_another_answers(clock: HeldClock) -> None:
    provider = ScriptedProvider(clock)
    asked = directive(text="whole", by_model={"echo": {"fail": "PROVIDER_ERROR"}})
    assert (await collect(provider, asked)).error is not None
    assert (await collect(provider, replace(asked, model="lorem"))).text() == "whole"


@pytest.mark.asyncio
async def test_replies_follow_the_steps_of_a_turn(clock: HeldClock) -> None:
    script = {"replies": [{"tool_calls": [{"name": "find"}]}, {"text": "found"}]}
    history = [user("earlier"), content_pb2.Message(role=content_pb2.ROLE_ASSISTANT), user(json.dumps(script))]
    provider = ScriptedProvider(clock)
    first = await collect(provider, ModelRequest("echo", history))
    assert first.finished.finish_reason == content_pb2.FINISH_REASON_TOOL_USE
    history += [
        content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=first.parts),
        content_pb2.Message(role=content_pb2.ROLE_TOOL),
    ]
    assert (await collect(provider, ModelRequest("echo", history))).text() == "found"


@pytest.mark.asyncio
async def test_scripts_are_files_below_their_folder(clock: HeldClock, tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "one.json").write_text('{"replies": [{"text": "first"}, {"text": "last"}]}')
    (folder / "bad.json").write_text('{"replies": [{"txet": ""}]}')
    (tmp_path / "outside.json").write_text('{"replies": []}')
    provider = ScriptedProvider(clock, script_root=folder)
    messages = [user("go")]
    for expected in ("first", "last", "last"):
        assert (await collect(provider, ModelRequest("file:one.json", messages))).text() == expected
        messages.append(content_pb2.Message(role=content_pb2.ROLE_ASSISTANT))
    for name in ("bad.json", "missing.json", "../outside.json", str(tmp_path / "outside.json")):
        collected = await collect(provider, request(f"file:{name}"))
        assert collected.error is not None
        assert collected.error.reason is FailureReason.PROVIDER_REFUSED


@pytest.mark.asyncio
async def test_gates(clock: HeldClock) -> None:
    gates = Gates()
    provider = ScriptedProvider(clock, gates)
    tasks = [asyncio.create_task(collect(provider, directive(tokens=4, gate="g", gate_after=2))) for _ in range(3)]
    await gates.reached("g", 3)
    assert (provider.num_open, provider.max_open, gates.num_waiting("g")) == (3, 3, 3)
    gates.open("g")
    for task in tasks:
        assert (await task).text() == "w0 w1 w2 w3 "
    assert (provider.num_open, provider.max_open, provider.num_calls) == (0, 3, 3)
    gates.hold("g")
    task = asyncio.create_task(collect(provider, directive(tokens=4, gate="g")))
    await gates.reached("g", 4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (provider.num_open, gates.num_waiting("g")) == (0, 0)


@pytest.mark.asyncio
async def test_hanging_ends_with_a_cancel(clock: HeldClock) -> None:
    provider = ScriptedProvider(clock)
    seen = asyncio.Event()
    task = asyncio.create_task(after(provider.stream(directive(tokens=2, hang=True)), 2, seen))
    await seen.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert provider.num_open == 0


@pytest.mark.asyncio
async def test_pace_uses_the_clock(clock: HeldClock) -> None:
    task = asyncio.create_task(collect(ScriptedProvider(clock), directive(tokens=10, pace_ms=500)))
    await asyncio.sleep(0)
    assert await clock.advance_until(task, 0.5) == 5
    await task


@pytest.mark.asyncio
async def test_models_are_split_at_the_first_slash(clock: HeldClock) -> None:
    registry = ProviderRegistry([ProviderOptions("router", "openai-chat", "http://127.0.0.1:9/v1")], clock)
    assert registry.names == ["router", "scripted"]
    assert registry.resolve("router/maker/model:free")[1] == "maker/model:free"
    assert registry.resolve("scripted/file:a/b.json")[1] == "file:a/b.json"
    for model in ("echo", "/echo", "scripted/", "router2/m"):
        with pytest.raises(UnknownModelError) as caught:
            registry.resolve(model)
        assert caught.value.model == model
    with pytest.raises(UnknownModelError, match="did you mean 'router'"):
        registry.resolve("ruoter/m")
    await registry.close()


def test_options_are_checked(clock: HeldClock) -> None:
    with pytest.raises(ValueError, match="did you mean 'openai-chat'"):
        ProviderRegistry([ProviderOptions("a", "openai-chats")], clock)
    with pytest.raises(ValueError, match="must start with http"):
        ProviderRegistry([ProviderOptions("a", "openai-chat")], clock)
    with pytest.raises(ValueError, match="taken"):
        ProviderRegistry([ProviderOptions("a", "scripted"), ProviderOptions("a", "scripted")], clock)


def test_secrets_do_not_show() -> None:
    options = ProviderOptions("a", "openai-chat", api_key="sk-1", headers={"x-key": "sk-2"})
    assert options.api_key == Secret("sk-1")
    assert "sk-" not in f"{options} {options!r} {options.api_key} {[options.api_key]}"
    assert options.key == "sk-1"


@pytest.mark.asyncio
async def test_of_attempts_only_the_last_steps_are_counted(clock: HeldClock) -> None:
    provider = ScriptedProvider(clock)
    asked = directive(text="whole", attempts=[{"text": "half"}])

    async def answer(number: int) -> str:
        return (await collect(provider, replace(asked, session_hash=str(number)))).text()

    assert [await answer(number) for number in (0, 0, 1)] == ["half", "whole", "half"]
    for number in range(2, MAX_COUNTED + 1):
        await answer(number)
    assert await answer(1) == "whole"
    assert await answer(0) == "half"

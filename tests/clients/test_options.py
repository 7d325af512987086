"""Options of the client are real parameters: what is none is named, with what was meant, before anything is sent."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock, create_autospec

import pytest

from turnkeeper import Backoff, Client, Conversation, FunctionTool, SubmitOptions

NOWHERE = "127.0.0.1:1"
METHODS: list[Callable[..., Any]] = [Client.run, Client.submit, Conversation.submit, Conversation.steer]


async def refused(method: str, error: type[Exception], **options: Any) -> str:
    """What a method of a client says, which never comes to send anything."""
    async with Client(NOWHERE) as client:

        async def call() -> None:
            found = getattr(client, method)("s", "hi", **options)
            if inspect.isawaitable(found):
                await found

        with pytest.raises(error) as raised:
            await call()
    return str(raised.value)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__qualname__)
def test_the_signature_spells_out_every_option(method: Callable[..., Any]) -> None:
    parameters = inspect.signature(method).parameters
    assert set(SubmitOptions.__annotations__) <= set(parameters)
    assert {parameters[name].kind for name in SubmitOptions.__annotations__} == {inspect.Parameter.KEYWORD_ONLY}
    assert not [found for found in parameters.values() if found.kind is found.VAR_KEYWORD]


@pytest.mark.asyncio
@pytest.mark.parametrize("method", ["run", "submit"])
@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("delivry", "delivery"),
        ("output_schema_json", "output_schema"),
        ("timeout", "run_timeout"),
        ("max_step", "max_steps"),
        ("preapproved_tools", "pre_approved_tools"),
    ],
)
async def test_an_unknown_option_is_named_with_the_nearest(method: str, wrong: str, near: str) -> None:
    said = await refused(method, TypeError, **{wrong: "x"})
    assert said == f"Client.{method}() has no option {wrong!r}; did you mean {near!r}?"


@pytest.mark.asyncio
async def test_where_nothing_is_near_all_options_are_named() -> None:
    said = await refused("run", TypeError, qqq=1)
    assert all(name in said for name in SubmitOptions.__annotations__)


@pytest.mark.asyncio
async def test_every_method_names_what_was_meant() -> None:
    async with Client(NOWHERE) as client:
        with pytest.raises(TypeError, match="did you mean 'after_seq'"):
            client.watch("s", after_seqs=0)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="did you mean 'rollback'"):
            await client.cancel("s", rolback=True)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="did you mean 'create_with'"):
            client.converse("s", created_with=None)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="did you mean 'delivery'"):
            await client.converse("s").submit("hi", delivry="queue")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="did you mean 'address'"):
        Client(adress=NOWHERE)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="did you mean 'patience'"):
        Backoff(patiense=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="did you mean 'needs_approval'"):
        FunctionTool(print, need_approval=True)  # type: ignore[call-arg]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("delivery", "asap", "delivery must be one of 'queue', 'steer', 'reject', 'replace', not 'asap'"),
        ("delivery", "rejct", "did you mean 'reject'?"),
        ("delivery", 1, "delivery must be one of 'queue'"),
        ("delivery", [], "delivery must be one of 'queue'"),
        ("require_idle", "no", "require_idle must be True or False"),
        ("model", 3, "model must be a string"),
        ("run_id", b"r", "run_id must be a string"),
        ("parameters", {"temperature": 1}, "parameters must be of type ModelParameters"),
        ("output_schema", "{", "output_schema must be a JSON Schema: "),
        ("output_schema", {"type": {1, 2}}, "output_schema must be a JSON Schema: "),
        ("output_schema", ["object"], "output_schema must be a JSON Schema, "),
        ("max_steps", -1, "max_steps must be a whole number"),
        ("max_steps", "3", "max_steps must be a whole number"),
        ("max_steps", 2**40, "max_steps must be a whole number"),
        ("max_output_reprompts", True, "max_output_reprompts must be a whole number"),
        ("start_timeout", -1, "start_timeout must be a span"),
        ("start_timeout", float("nan"), "start_timeout must be a span"),
        ("run_timeout", 1e300, "run_timeout must be a span"),
        ("run_timeout", timedelta.max, "run_timeout must be a span"),
        ("run_timeout", timedelta(seconds=-1), "run_timeout must be a span"),
        ("cancel_on_disconnect", "5s", "cancel_on_disconnect must be a number of seconds"),
        ("pre_approved_tools", "order_book", "pre_approved_tools must be a list of strings"),
        ("pre_approved_tools", [1], "pre_approved_tools must be a string"),
    ],
)
async def test_a_value_that_is_none_is_named_with_what_it_may_be(option: str, value: Any, expected: str) -> None:
    for method in ("run", "submit"):
        assert expected in await refused(method, ValueError, **{option: value})


@pytest.mark.asyncio
async def test_other_values_are_named_too() -> None:
    async with Client(NOWHERE) as client:
        with pytest.raises(
            ValueError, match=r"mode must be one of 'abort', 'stop', not 'abrot'; did you mean 'abort'\?"
        ):
            await client.cancel("s", mode="abrot")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="prompt must be a string, a Part, or a list of both, not NoneType"):
            client.run("s", None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="prompt must be"):
            client.run("s", ["a", 1])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="reconnect_grace must be a number of seconds"):
            client.serve_tools("w", [], reconnect_grace="1m")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="max_concurrent must be a whole number"):
            client.serve_tools("w", [], max_concurrent=-1)
        with pytest.raises(ValueError, match="delivery must be one of 'steer', not 'queue'"):
            await client.converse("s").steer("hi", delivery="queue")


def test_a_wait_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="patience must be a span"):
        Backoff(patience=-1)
    with pytest.raises(ValueError, match="initial must be a number"):
        Backoff(initial=None)  # type: ignore[arg-type]


def test_none_is_not_given() -> None:
    client = Client(NOWHERE)
    assert client.run("s", "hi", run_id=None, delivery=None, max_steps=None, parameters=None).run_id


def test_what_stands_in_for_a_client_is_awaited_like_it() -> None:
    double = create_autospec(Client, instance=True)
    assert isinstance(double.submit, AsyncMock)
    assert asyncio.iscoroutinefunction(Client.submit)

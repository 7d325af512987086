"""Whatever an event holds, a decoder fails by a `ProviderError` or not at all, and its parts can be sent back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.upstream import streams_folder
from tests.service.providers.collect import Collected, check_parts, user
from tests.service.providers.providers_page import BUILDERS
from tests.service.providers.test_splits import WIRE_FORMATS, provider
from turnkeeper.v1 import content_pb2
from turnkeeper_service.engine.usage import estimate, filled_in
from turnkeeper_service.providers.base import ModelFinished, ModelRequest, ProviderError
from turnkeeper_service.providers.http.sse import SseEvent, SseSplitter
from turnkeeper_service.providers.options import ProviderOptions

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**53 + 1, 2**70, 1.5, -1e300, "", "0", "x", "error", "\x00", "1e999", "{}", "null"),
    *([], {}, [None], [[]], {"a": {}}, [{"text": 5}], {"text": ["a"]}, {"type": "text"}, {"error": {}}, [1, "a", {}]),
]


def events(wire_format: str) -> list[list[Any]]:
    """The data of the format's own streams, decoded."""
    found: list[list[Any]] = []
    for path in sorted((streams_folder() / wire_format).glob("*.sse")):
        splitter = SseSplitter()
        data = [one.data for one in [*splitter.feed(path.read_bytes()), *splitter.finish()]]
        chunks = []
        for one in data:
            try:
                chunks.append(json.loads(one))
            except ValueError:
                continue
        if chunks and len(data) < 50:
            found.append(chunks)
    return found


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of some JSON are."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*at, key)
        yield from places(one, (*at, key))


def put(value: Any, at: tuple[Any, ...], odd: Any) -> Any:
    """The same JSON with another value there."""
    if not at:
        return odd
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[at[0]] = put(value[at[0]], at[1:], odd)
    return copied


def play(wire_format: str, chunks: list[Any]) -> None:
    decoder = provider(wire_format).decoder()
    collected = Collected()
    try:
        for chunk in chunks:
            decoder.decode(SseEvent(json.dumps(chunk).encode()))
            collected.events += decoder.take()
            if decoder.is_over or decoder.failure is not None:
                break
        if decoder.failure is None:
            collected.events += decoder.finish()
    except ProviderError:
        pass
    check_parts(collected)
    said = content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, model="p/m", parts=collected.parts)
    request = ModelRequest("m", [user("hi"), said, user("more")])
    json.loads(BUILDERS[wire_format](request, ProviderOptions("p", wire_format)))
    for event in collected.events:
        if isinstance(event, ModelFinished):
            filled_in(event.usage, lambda: estimate((), "", 1)).SerializeToString()


STREAMS = {wire_format: events(wire_format) for wire_format in WIRE_FORMATS}


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
def test_each_value_in_turn(wire_format: str) -> None:
    for chunks in STREAMS[wire_format][::2]:
        for number, at in enumerate(places(chunks)):
            # Not every odd value at every place, but each of them at many.
            for odd in ODD[number % 4 :: 4]:
                play(wire_format, put(chunks, at, odd))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(WIRE_FORMATS), st.data())
def test_several_values_at_once(wire_format: str, data: st.DataObject) -> None:
    chunks = data.draw(st.sampled_from(STREAMS[wire_format]))
    for at in data.draw(st.lists(st.sampled_from(list(places(chunks))), min_size=1, max_size=5)):
        try:
            chunks = put(chunks, at, data.draw(st.sampled_from(ODD)))
        except (LookupError, TypeError, ValueError):
            continue
    play(wire_format, chunks)

"""A stream gives the same events however its bytes are cut."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.upstream import streams_folder
from turnkeeper_service.process.clock import SystemClock
from turnkeeper_service.providers.base import ModelEvent, PartDelta, ProviderError
from turnkeeper_service.providers.formats.decoding import StreamDecoder
from turnkeeper_service.providers.formats.streaming import HttpProvider
from turnkeeper_service.providers.http.sse import SseSplitter
from turnkeeper_service.providers.options import ProviderOptions
from turnkeeper_service.providers.registry import FORMATS, SCRIPTED, ProviderRegistry

STREAMS = sorted(path for path in streams_folder().glob("*/*.sse") if path.stem != "long")
WIRE_FORMATS = [name for name in FORMATS if name != SCRIPTED]


@cache
def provider(wire_format: str) -> HttpProvider:
    registry = ProviderRegistry([ProviderOptions("p", wire_format, "http://127.0.0.1")], SystemClock())
    found = registry.resolve("p/m")[0]
    assert isinstance(found, HttpProvider)
    return found


def events(wire_format: str, pieces: list[bytes]) -> tuple[list[ModelEvent], str]:
    """What a decoder makes of the pieces, up to its end or to the error that it met; deltas joined part by part."""
    splitter, decoder = SseSplitter(), provider(wire_format).decoder()
    found: list[ModelEvent] = []
    for piece in [*pieces, None]:
        for event in splitter.finish() if piece is None else splitter.feed(piece):
            decoder.decode(event)
            if decoder.failure is not None:
                return joined(found + decoder.take()), str(decoder.failure)
            if decoder.is_over:
                return ended(found, decoder)
        found += decoder.take()
    return ended(found, decoder)


def ended(found: list[ModelEvent], decoder: StreamDecoder[Any]) -> tuple[list[ModelEvent], str]:
    try:
        return joined(found + decoder.finish()), ""
    except ProviderError as error:
        return joined(found), str(error)


def joined(found: list[ModelEvent]) -> list[ModelEvent]:
    """The same events with one delta where several follow each other."""
    result: list[ModelEvent] = []
    for event in found:
        last = result[-1] if result else None
        if isinstance(event, PartDelta) and isinstance(last, PartDelta) and event.part == last.part:
            result[-1] = PartDelta(event.part, event.kind, last.text + event.text)
        else:
            result.append(event)
    return result


def cut(body: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


def test_every_format_has_streams() -> None:
    assert {path.parent.name for path in STREAMS} == set(WIRE_FORMATS)


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_any_two_pieces(path: Path) -> None:
    body = path.read_bytes()
    whole = events(path.parent.name, [body])
    # Every place for small streams; a stride that shares no factor with line lengths for longer ones.
    for place in range(0, len(body), 1 if len(body) < 1500 else 7):
        assert events(path.parent.name, [body[:place], body[place:]]) == whole, place


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 1 << 20), max_size=24))
def test_any_pieces(path: Path, places: list[int]) -> None:
    body = path.read_bytes()
    assert events(path.parent.name, cut(body, places)) == events(path.parent.name, [body])


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(STREAMS), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.lists(st.integers(0, 1 << 16)))
def test_any_line_ends(path: Path, line_end: bytes, places: list[int]) -> None:
    body = path.read_bytes()
    written = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", line_end)
    assert events(path.parent.name, cut(written, places)) == events(path.parent.name, [body])

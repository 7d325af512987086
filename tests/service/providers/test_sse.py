"""Events out of bytes: the same however the bytes are cut."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnkeeper_service.providers.http.sse import SseEvent, SseSplitter

LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
TEXT = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=12)
LINE = st.one_of(
    TEXT.map(lambda text: f"data: {text}"),
    TEXT.map(lambda text: f"data:{text}"),
    TEXT.map(lambda text: f": {text}"),
    TEXT.map(lambda text: f"event: {text}"),
    TEXT.map(lambda text: f"id: {text}"),
    st.integers(0, 9999).map(lambda number: f"retry: {number}"),
    TEXT,
    st.just(""),
    st.just("data"),
)
NAMELESS = re.compile(rb"(?:^|[\r\n]|\xef\xbb\xbf)[{\[]")
"""Data without their name, which the standard does not know and vendors send."""
STREAM = st.builds(
    lambda has_bom, lines: ("\ufeff" if has_bom else "") + "".join(line + end for line, end in lines),
    st.booleans(),
    st.lists(st.tuples(LINE, LINE_ENDS), max_size=24),
).map(str.encode)


def split(*chunks: bytes, max_event_bytes: int = 1000) -> tuple[list[SseEvent], bool]:
    splitter = SseSplitter(max_event_bytes)
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    return events + splitter.finish(), splitter.failure is not None


def by_the_book(stream: bytes) -> list[SseEvent]:
    """The standard's own algorithm, line by line, except that the end of the stream ends an event."""
    text = stream.decode().removeprefix("\ufeff")
    events: list[SseEvent] = []
    data: list[str] = []
    name, last_id, retry = "", "", None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for line in [*lines, ""]:
        if not line:
            if data:
                events.append(SseEvent("\n".join(data).encode(), name, last_id, retry))
            data, name, retry = [], "", None
            continue
        field, _, value = line.partition(":")
        # What may stand before a name, and does with vendors.
        field = field.strip("\ufeff \t\0").lower()
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
        elif field == "id" and "\0" not in value:
            last_id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            retry = int(value)
    return events


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(stream) + 1) for cut in cuts})
    return [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]


@given(STREAM.filter(lambda stream: not NAMELESS.search(stream)), st.lists(st.integers(0, 10_000), max_size=12))
def test_every_cut_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    expected = by_the_book(stream)
    assert split(stream) == (expected, False)
    assert split(*pieces(stream, cuts)) == (expected, False)
    assert split(*(stream[at : at + 1] for at in range(len(stream)))) == (expected, False)


@given(st.binary(max_size=60), st.lists(st.integers(0, 10_000), max_size=8))
def test_any_bytes_give_the_same_end(stream: bytes, cuts: list[int]) -> None:
    assert split(*pieces(stream, cuts), max_event_bytes=20) == split(stream, max_event_bytes=20)


def test_an_event_has_all_its_fields() -> None:
    events, _ = split(b"event: sum\nid: 4\nretry: 20\ndata: a\ndata\ndata:  b\n\ndata: next\n\n")
    assert events == [SseEvent(b"a\n\n b", "sum", "4", 20), SseEvent(b"next", "", "4")]


def test_comments_and_names_alone_are_no_events() -> None:
    assert split(b": hello\n\nevent: ping\n\nid: 1\n\n") == ([], False)


@pytest.mark.parametrize("tail", [b"", b"\n", b"\r", b"\r\n"])
def test_the_last_blank_line_may_be_missing(tail: bytes) -> None:
    assert split(b"data: a\n\ndata: b" + tail) == ([SseEvent(b"a"), SseEvent(b"b")], False)


def test_invalid_utf8_is_replaced() -> None:
    events = [SseEvent(one.encode()) for one in ("a", "\ufffdb", "c")]
    assert split(b"data: a\n\ndata: \xffb\n\ndata: c\n\n") == (events, False)


def test_a_field_is_known_by_its_name_whatever_stands_before_it() -> None:
    text = b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n data: c\n\n\0Data:d\n\n"
    assert split(text) == ([SseEvent(one.encode()) for one in "abcd"], False)


def test_a_character_may_be_cut_but_not_left_half() -> None:
    assert split(b"data: \xc3", b"\xbc\n\n") == ([SseEvent("ü".encode())], False)
    assert split(b"data: \xc3") == ([], False)


def test_an_event_over_the_limit_ends_the_stream() -> None:
    assert split(b"data: " + b"x" * 14 + b"\n\n", max_event_bytes=20) == ([SseEvent(b"x" * 14)], False)
    assert split(b"data: a\n\ndata: " + b"x" * 15 + b"\n\n", max_event_bytes=20) == ([SseEvent(b"a")], True)
    splitter = SseSplitter(20)
    assert splitter.feed(b"data: " + b"x" * 30) == []
    assert splitter.failure is not None
    assert splitter.feed(b"\n\ndata: b\n\n") == []


def test_a_large_event_in_small_pieces_costs_no_more_than_its_size() -> None:
    splitter = SseSplitter()
    piece = b"x" * 16_000
    splitter.feed(b"data: ")
    for _ in range(500):
        splitter.feed(piece)
    (event,) = splitter.feed(b"\n\n")
    assert len(event.data) == 8_000_000

"""Parts out of deltas."""

from __future__ import annotations

import pytest

from tests.service.providers.collect import Collected, check_parts
from turnkeeper_service.providers.base import FailureReason, PartDelta, PartEnded, PartKind, ProviderError
from turnkeeper_service.providers.formats.assembly import MAX_DELTA_BYTES, OpenPart, PartAssembler


def taken(parts: PartAssembler) -> Collected:
    parts.finish()
    collected = Collected(parts.take())
    check_parts(collected)
    return collected


def call(name: str, call_id: str = "") -> OpenPart:
    return OpenPart(PartKind.TOOL_CALL, name, call_id)


def test_text_and_reasoning_alternate_in_order() -> None:
    parts = PartAssembler()
    for kind, text in (
        (PartKind.REASONING, "a"),
        (PartKind.TEXT, "b"),
        (PartKind.TEXT, "c"),
        (PartKind.REASONING, "d"),
    ):
        parts.text(kind, text)
    assert taken(parts).kinds == [PartKind.REASONING, PartKind.TEXT, PartKind.REASONING]


def test_nothing_is_no_part() -> None:
    parts = PartAssembler()
    parts.text(PartKind.TEXT, "")
    parts.close(parts.open(OpenPart(PartKind.REASONING)))
    parts.open(OpenPart(PartKind.TEXT))
    assert taken(parts).events == []


def test_nul_characters_are_dropped() -> None:
    parts = PartAssembler()
    parts.text(PartKind.TEXT, "a\0b")
    parts.text(PartKind.TEXT, "\0")
    assert taken(parts).text() == "ab"


def test_what_comes_after_an_unfinished_call_waits_for_it() -> None:
    parts = PartAssembler()
    first = parts.open(call("first"))
    parts.append(first, '{"a":')
    parts.text(PartKind.TEXT, "meanwhile")
    second = parts.open(call("second"))
    parts.append(second, "{}")
    assert [event.text for event in parts.take() if isinstance(event, PartDelta)] == ['{"a":']
    parts.append(first, "1}")
    ended = [event.content for event in parts.take() if isinstance(event, PartEnded)]
    assert [part.WhichOneof("part") for part in ended] == ["tool_call", "text"]
    parts.finish()
    ended += [event.content for event in parts.take() if isinstance(event, PartEnded)]
    assert [part.tool_call.name for part in ended] == ["first", "", "second"]


def test_calls_that_end_together_come_out_in_order() -> None:
    parts = PartAssembler()
    first, second = parts.open(call("first")), parts.open(call("second"))
    parts.close(second)
    parts.append(first, "{}")
    collected = taken(parts)
    assert [item.name for item in collected.calls] == ["first", "second"]
    assert [item.tool_call_id for item in collected.calls] == ["call_0", "call_1"]


def test_ids_are_unique_in_the_message() -> None:
    parts = PartAssembler()
    for call_id in ("call_1", "", "call_1", "x"):
        parts.close(parts.open(call("f", call_id)))
    ids = [item.tool_call_id for item in taken(parts).calls]
    assert len(set(ids)) == 4
    assert (ids[0], ids[3]) == ("call_1", "x")


@pytest.mark.parametrize(
    ("sent", "arguments", "is_marked"),
    [
        ("", "{}", False),
        ("null", "{}", False),
        ('{"a": 1}', '{"a": 1}', False),
        ('{"a": 1', "{}", True),
        ("[1]", "{}", True),
        ('"{}"', "{}", False),
        (r'"{\"a\": 1}"', '{"a": 1}', False),
        ('"a"', "{}", True),
        ('{}{"a":1}', '{"a":1}', False),
        ('{"a":1} {"a":2} ', '{"a":2}', False),
        ('{"a":1}{"a', '{"a":1}', False),
        ('{"a":1}}', "{}", True),
        ('{"a":1} done', "{}", True),
        ('{"a":"\\ud83d"}', '{"a":"\\ufffd"}', False),
        ('{"a":"\\\\ud83d \\ud83d\\ude00"}', '{"a":"\\\\ud83d \\ud83d\\ude00"}', False),
        ('{"a":' + "[" * 5000 + "]" * 5000 + "}", "{}", True),
    ],
)
def test_arguments_are_one_object(sent: str, arguments: str, is_marked: bool) -> None:
    parts = PartAssembler()
    parts.append(parts.open(call("f")), sent)
    (part,) = taken(parts).parts
    assert part.tool_call.arguments_json == arguments
    assert ("invalid_arguments" in part.provider_details.fields) is is_marked


def test_what_comes_together_leaves_together() -> None:
    parts = PartAssembler()
    for text in "abc":
        parts.text(PartKind.TEXT, text)
    assert [event.text for event in parts.take() if isinstance(event, PartDelta)] == ["abc"]
    assert parts.take() == []
    for kind, text in ((PartKind.TEXT, "d"), (PartKind.REASONING, "e"), (PartKind.REASONING, "f")):
        parts.text(kind, text)
    assert [event.text for event in parts.take() if isinstance(event, PartDelta)] == ["d", "ef"]


def test_a_delta_has_a_bound_unless_it_came_longer() -> None:
    parts = PartAssembler()
    sizes = [MAX_DELTA_BYTES - 1, 1, 1, 2 * MAX_DELTA_BYTES, 1]
    for size in sizes:
        parts.text(PartKind.TEXT, "x" * size)
    found = [len(event.text) for event in parts.take() if isinstance(event, PartDelta)]
    assert found == [MAX_DELTA_BYTES, 1, 2 * MAX_DELTA_BYTES, 1]


def test_the_limit_counts_bytes_of_everything() -> None:
    parts = PartAssembler(max_bytes=10 + 2 * 64)
    parts.text(PartKind.REASONING, "aaaa")
    parts.text(PartKind.TEXT, "üüü")
    with pytest.raises(ProviderError) as caught:
        parts.text(PartKind.TEXT, "b")
    assert caught.value.reason is FailureReason.PROVIDER_PROTOCOL


@pytest.mark.parametrize("kind", list(PartKind))
def test_an_answer_of_empty_parts_has_an_end_too(kind: PartKind) -> None:
    parts = PartAssembler(max_bytes=64_000)
    for _ in range(1000):
        parts.close(parts.open(OpenPart(kind)))
    with pytest.raises(ProviderError):
        parts.open(OpenPart(kind))

"""However a message's deltas are cut, repeated and resumed, the same text comes out, each byte once."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnkeeper import DeltaGapError, MessageAssembler
from turnkeeper.v1.content_pb2 import Message
from turnkeeper.v1.event_pb2 import AttemptDiscarded, Event, MessageCommitted, Outcome, RunFinished
from turnkeeper.v1.run_service_pb2 import Delta, Snapshot, SnapshotPart

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@st.composite
def pieces(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)) | {0, len(text)})
    return [text[a:b] for a, b in pairwise(cuts)]


@st.composite
def streams(draw: st.DrawFn) -> tuple[dict[str, tuple[str, ...]], list[Delta]]:
    """Messages, and their deltas: in order within a part, interleaved in any way between parts and messages."""
    messages = {f"m{n}": tuple(draw(st.lists(TEXT, min_size=1, max_size=3))) for n in range(draw(st.integers(1, 3)))}
    queues: list[list[Delta]] = []
    for message_id, parts in messages.items():
        for index, text in enumerate(parts):
            offset, queue = 0, []
            for piece in draw(pieces(text)):
                queue.append(Delta(message_id=message_id, attempt=1, part=index, offset=offset, text=piece))
                offset += len(piece.encode())
            queues.append(queue)
    order = [number for number, queue in enumerate(queues) for _ in queue]
    shuffled = draw(st.permutations(order))
    taken = [0] * len(queues)
    deltas = []
    for number in shuffled:
        deltas.append(queues[number][taken[number]])
        taken[number] += 1
    return messages, deltas


def texts(messages: dict[str, tuple[str, ...]]) -> dict[tuple[str, int], str]:
    return {(name, index): text for name, parts in messages.items() for index, text in enumerate(parts) if text}


def seen(assembler: MessageAssembler) -> dict[tuple[str, int], str]:
    return {
        (message.message_id, index): part.text
        for message in assembler.open_messages
        for index, part in message.parts.items()
        if part.text
    }


def shown(items: list[object]) -> dict[tuple[str, int], str]:
    """What a reader that only prints what it is given would show."""
    found: dict[tuple[str, int], str] = {}
    for item in items:
        if isinstance(item, Delta):
            found[item.message_id, item.part] = found.get((item.message_id, item.part), "") + item.text
    return {key: text for key, text in found.items() if text}


@given(streams())
def test_any_split_and_interleaving_gives_the_text(stream: tuple[dict[str, tuple[str, ...]], list[Delta]]) -> None:
    messages, deltas = stream
    assembler = MessageAssembler()
    new = [item for delta in deltas for item in assembler.apply(delta)]
    assert seen(assembler) == texts(messages) == shown(list(new))


@given(streams(), st.data())
def test_a_reconnect_anywhere_gives_the_same_text_once(
    stream: tuple[dict[str, tuple[str, ...]], list[Delta]], data: st.DataObject
) -> None:
    messages, deltas = stream
    assembler, new = MessageAssembler(), []
    for delta in deltas[: data.draw(st.integers(0, len(deltas)), label="lost after")]:
        new += assembler.apply(delta)
    positions = {position.message_id: list(position.offsets) for position in assembler.positions()}
    for name, parts in messages.items():
        # The server may resume at the position, before it, or by a snapshot of the whole.
        how = data.draw(st.sampled_from(["rest", "whole", "snapshot"]), label=name)
        if how == "snapshot":
            new += assembler.apply(snapshot(name, parts))
            continue
        for index, text in enumerate(parts):
            have = positions.get(name, [])[index : index + 1] if how == "rest" else []
            offset = have[0] if have else 0
            rest = text.encode()[offset:].decode()
            new += assembler.apply(Delta(message_id=name, attempt=1, part=index, offset=offset, text=rest))
    assert seen(assembler) == texts(messages) == shown(list(new))


@given(streams())
def test_what_is_there_already_changes_nothing(stream: tuple[dict[str, tuple[str, ...]], list[Delta]]) -> None:
    messages, deltas = stream
    assembler = MessageAssembler()
    for delta in deltas:
        assembler.apply(delta)
    again = [item for delta in deltas for item in assembler.apply(delta)]
    assert again == []
    assert seen(assembler) == texts(messages)


def snapshot(name: str, parts: tuple[str, ...], attempt: int = 1) -> Snapshot:
    listed = [SnapshotPart(part=n, text=text, length=len(text.encode())) for n, text in enumerate(parts)]
    return Snapshot(message_id=name, attempt=attempt, parts=listed)


def piece(offset: int, text: str, attempt: int = 1, part: int = 0) -> Delta:
    return Delta(message_id="m", attempt=attempt, part=part, offset=offset, text=text, run_id="r")


def test_a_gap_is_an_error_and_changes_nothing() -> None:
    assembler = MessageAssembler()
    assembler.apply(piece(0, "ab"))
    with pytest.raises(DeltaGapError, match="2 bytes here, delta at 3"):
        assembler.apply(piece(3, "d"))
    assert assembler.apply(piece(2, "cd")) == [piece(2, "cd")]
    with pytest.raises(DeltaGapError):
        MessageAssembler().apply(piece(1, "b"))


def test_an_overlap_is_trimmed_at_bytes() -> None:
    assembler = MessageAssembler()
    assembler.apply(piece(0, "grü"))
    assert assembler.apply(piece(2, "üße")) == [piece(4, "ße")]
    assert assembler.positions()[0].offsets == [7]


def test_a_voided_attempt_is_forgotten_and_late_deltas_of_it_are_dropped() -> None:
    assembler = MessageAssembler()
    assembler.apply(piece(0, "wrong"))
    void = Event(run_id="r", attempt_discarded=AttemptDiscarded(message_id="m", attempt=1))
    assert assembler.apply(void) == [void]
    assert assembler.positions() == []
    assert assembler.apply(piece(5, "er")) == []
    assert assembler.apply(piece(0, "right", attempt=2)) == [piece(0, "right", attempt=2)]
    message = assembler.get("m")
    assert message is not None
    assert (message.text, message.attempt) == ("right", 2)


def test_a_newer_attempt_begins_anew_though_nothing_voided_the_old() -> None:
    assembler = MessageAssembler()
    assembler.apply(piece(0, "wrong"))
    assert assembler.apply(snapshot("m", ("new",), attempt=2)) == [
        Delta(message_id="m", attempt=2, text="new"),
    ]
    assert assembler.apply(piece(5, "x", attempt=1)) == []


def test_a_committed_message_closes_the_open_one() -> None:
    assembler = MessageAssembler()
    assembler.apply(piece(0, "text"))
    assembler.apply(Event(run_id="r", message_committed=MessageCommitted(message=Message(message_id="m"))))
    assert assembler.open_messages == ()
    assert assembler.apply(piece(4, "late")) == []
    assert assembler.apply(snapshot("m", ("late",))) == []


def test_a_snapshot_that_contradicts_replaces() -> None:
    assembler = MessageAssembler()
    assembler.apply(piece(0, "abc"))
    other = snapshot("m", ("xyz",))
    assert assembler.apply(other) == [other]
    message = assembler.get("m")
    assert message is not None
    assert message.text == "xyz"


def test_reasoning_and_tool_input_are_parts_and_not_text() -> None:
    assembler = MessageAssembler()
    assembler.apply(Delta(message_id="m", attempt=1, part=0, reasoning="hm"))
    assembler.apply(Delta(message_id="m", attempt=1, part=1, tool_name="add", tool_input='{"a"'))
    assembler.apply(Delta(message_id="m", attempt=1, part=1, offset=4, tool_input=":1}"))
    assembler.apply(Delta(message_id="m", attempt=1, part=2, text="3"))
    message = assembler.get("m")
    assert message is not None
    assert message.text == "3"
    assert [(part.kind, part.tool_name, part.text) for part in message.parts.values()] == [
        ("reasoning", "", "hm"),
        ("tool_input", "add", '{"a":1}'),
        ("text", "", "3"),
    ]
    assert list(assembler.positions()[0].offsets) == [2, 7, 1]


def test_a_run_that_ends_without_its_message_leaves_nothing_open() -> None:
    assembler = MessageAssembler()
    assembler.apply(Event(run_id="r", attempt_discarded=AttemptDiscarded(message_id="m", attempt=1)))
    assembler.apply(Event(run_id="r", run_finished=RunFinished(outcome=Outcome())))
    assert assembler.open_messages == ()

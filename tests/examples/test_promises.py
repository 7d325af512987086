"""The demo's checks notice what is broken: each is given a log with one fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from examples.demo.promises import BrokenPromiseError, Truth, check_all
from examples.demo.record import Record, Shown, Submitted
from turnkeeper import Event, Message, Outcome, OutcomeStatus, Part, Run, RunState, Text
from turnkeeper.v1.content_pb2 import Role, RunUsage

SESSION = "s"


def event(run_id: str, **payload: object) -> Event:
    return Event(session_id=SESSION, run_id=run_id, **payload)  # type: ignore[arg-type]


def ended(run_id: str, status: str, message_id: str = "", text: str = "") -> Event:
    outcome = Outcome(
        status=OutcomeStatus.Value(f"OUTCOME_STATUS_{status}"), message_id=message_id, text=text, usage=RunUsage()
    )
    return event(run_id, run_finished={"outcome": outcome})


def answer(run_id: str, message_id: str, text: str, attempt: int = 1) -> Event:
    message = Message(
        message_id=message_id, role=Role.ROLE_ASSISTANT, run_id=run_id, parts=[Part(text=Text(text=text))]
    )
    return event(run_id, attempt=attempt, message_committed={"message": message})


class World:
    """A good log of three runs: `a` was cut by a kill and resumed, `b` was cancelled in line, `c` overtaken."""

    def __init__(self) -> None:
        self.events = [
            event("a", run_accepted={"accept_sequence": 1}),
            event("a", run_started={}),
            event("b", run_accepted={"accept_sequence": 2}),
            event("b", run_cancel_requested={}),
            ended("b", "CANCELLED"),
            event("a", attempt=1, attempt_discarded={"message_id": "m", "attempt": 1}),
            answer("a", "m", "whole", attempt=2),
            ended("a", "COMPLETED", "m", "whole"),
            event("c", run_accepted={"accept_sequence": 3}),
            ended("c", "CANCELLED"),
        ]
        self.sequences = {"a": 1, "b": 2, "c": 3}
        self.record = Record(
            submitted=[
                Submitted("a", SESSION, "prompt a", 1, ["COMPLETED"]),
                Submitted("b", SESSION, "prompt b", 2, ["CANCELLED"]),
                Submitted("c", SESSION, "prompt c", 3, ["CANCELLED"]),
            ],
            covered=["b"],
            overtaken=["c"],
            resumed=["a"],
            shown=[Shown("m", 1, "who"), Shown("m", 2, "whole")],
        )
        self.asked = ["prompt a"]
        self.lists = True

    def check(self, *, live: Callable[[list[Event]], list[Event]] = list) -> list[str]:
        """Number the log, let the caller see it, and check; returns what holds."""
        for seq, found in enumerate(self.events, 1):
            found.seq = found.seq or seq
        self.record.events = {SESSION: live(self.events)}
        truth = Truth({SESSION: self.events}, {SESSION: self._runs()}, {SESSION: self._messages()}, self.asked)
        return [name for name, _ in check_all(self.record, truth)]

    def _runs(self) -> list[Run]:
        outcomes = {found.run_id: found.run_finished.outcome for found in self.events if found.HasField("run_finished")}
        return [Run(run_id=name, state=RunState.RUN_STATE_FINISHED, outcome=ended) for name, ended in outcomes.items()]

    def _messages(self) -> list[Message]:
        return [found.message_committed.message for found in self.events if found.HasField("message_committed")]


def test_a_good_log_keeps_every_promise() -> None:
    assert len(World().check()) == 9


def no_terminal(world: World) -> None:
    del world.events[9]


def two_terminals(world: World) -> None:
    world.events.append(ended("b", "CANCELLED"))


def event_behind_terminal(world: World) -> None:
    world.events.append(event("b", run_cancel_requested={}))


def stranger(world: World) -> None:
    world.events.append(ended("x", "COMPLETED"))


def wrong_outcome(world: World) -> None:
    world.events[7].run_finished.outcome.status = OutcomeStatus.OUTCOME_STATUS_FAILED


def other_sequence(world: World) -> None:
    world.events[8].run_accepted.accept_sequence = 4


def two_at_once(world: World) -> None:
    world.events.insert(4, event("b", run_started={}))


def out_of_order(world: World) -> None:
    world.events.insert(0, event("c", run_started={}))
    world.events.insert(1, world.events.pop())
    world.events.insert(0, world.events.pop())


def covered_and_completed(world: World) -> None:
    world.events[4].run_finished.outcome.status = OutcomeStatus.OUTCOME_STATUS_COMPLETED
    world.record.submitted[1].expected = ["COMPLETED"]


def cancelled_by_nobody(world: World) -> None:
    world.record.covered = []


def overtaken_and_asked(world: World) -> None:
    world.asked.append("prompt c")


def overtaken_and_stepped(world: World) -> None:
    world.events.insert(9, event("c", step_started={}))


def gap(world: World) -> None:
    for seq, found in enumerate(world.events, 1):
        found.seq = seq if seq < 5 else seq + 1


def other_text(world: World) -> None:
    world.record.shown[1].text = "hole"


def never_shown_again(world: World) -> None:
    world.record.shown.pop()


def cut_and_otherwise(world: World) -> None:
    world.record.cut = ["a"]
    world.record.shown[1].text = "who else"


def other_terminal_text(world: World) -> None:
    world.events[7].run_finished.outcome.text = "part"


def no_discard(world: World) -> None:
    del world.events[5]


def no_usage(world: World) -> None:
    world.events[9].run_finished.outcome.ClearField("usage")


def uncounted_call(world: World) -> None:
    world.events.insert(7, event("a", step_finished={}))


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        (no_terminal, "one terminal per run"),
        (two_terminals, "one terminal per run"),
        (event_behind_terminal, "one terminal per run"),
        (stranger, "one terminal per run"),
        (wrong_outcome, "every run ended as it should"),
        (other_sequence, "accepted means durable"),
        (two_at_once, "one at a time"),
        (out_of_order, "first come, first served"),
        (covered_and_completed, "exact cancel"),
        (cancelled_by_nobody, "exact cancel"),
        (overtaken_and_asked, "exact cancel"),
        (overtaken_and_stepped, "exact cancel"),
        (gap, "seq without gaps"),
        (other_text, "resumed text is committed text"),
        (never_shown_again, "resumed text is committed text"),
        (cut_and_otherwise, "resumed text is committed text"),
        (other_terminal_text, "resumed text is committed text"),
        (no_discard, "resumed text is committed text"),
        (no_usage, "always accounted"),
        (uncounted_call, "always accounted"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_fault_breaks_its_promise(fault: Callable[[World], None], promise: str) -> None:
    world = World()
    fault(world)
    with pytest.raises(BrokenPromiseError, match=f"^{promise}: "):
        world.check()


def lost(events: list[Event]) -> list[Event]:
    return events[:4] + events[5:]


def doubled(events: list[Event]) -> list[Event]:
    return events[:5] + events[4:]


def missing_end(events: list[Event]) -> list[Event]:
    return events[:-1]


@pytest.mark.parametrize("live", [lost, doubled, missing_end])
def test_what_the_caller_saw_has_to_be_the_log(live: Callable[[list[Event]], list[Event]]) -> None:
    with pytest.raises(BrokenPromiseError, match=r"^seq without gaps: "):
        World().check(live=live)

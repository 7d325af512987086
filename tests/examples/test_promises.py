"""The demo's checks notice what is broken: each is given a log with one fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from examples.demo.promises import BrokenPromiseError, Truth, check_all
from examples.demo.record import Answered, Record, Shown, Submitted
from turnkeeper import Event, Message, Outcome, OutcomeStatus, Part, Run, RunState, Text
from turnkeeper.v1.content_pb2 import Role, RunUsage, ToolCall, ToolResult

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


def calling(run_id: str, message_id: str, *call_ids: str) -> Event:
    parts = [Part(tool_call=ToolCall(tool_call_id=call_id, name="order")) for call_id in call_ids]
    message = Message(message_id=message_id, role=Role.ROLE_ASSISTANT, run_id=run_id, parts=parts)
    return event(run_id, attempt=1, message_committed={"message": message})


def results(run_id: str, message_id: str, *call_ids: str) -> Event:
    parts = [Part(tool_result=ToolResult(tool_call_id=call_id)) for call_id in call_ids]
    message = Message(message_id=message_id, role=Role.ROLE_TOOL, run_id=run_id, parts=parts)
    return event(run_id, message_committed={"message": message})


class World:
    """A good log of four runs.

    `a` was cut by a kill and resumed, `b` was cancelled in line, `c` overtaken; `d` called a tool that was allowed and
    one that was refused.
    """

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
        self.desk = [
            event("d", run_accepted={"accept_sequence": 4}),
            event("d", run_started={}),
            calling("d", "m2", "x", "y"),
            event("d", tool_call_requested={"tool_call": {"tool_call_id": "x"}}),
            event("d", tool_call_requested={"tool_call": {"tool_call_id": "y"}}),
            event("d", approval_requested={"approval_id": "p", "tool_call": {"tool_call_id": "x"}}),
            event("d", approval_resolved={"approval_id": "p", "is_allowed": True}),
            event("d", tool_call_started={"tool_call_id": "x"}),
            event("d", tool_call_finished={"result": {"tool_call_id": "x"}}),
            event("d", approval_requested={"approval_id": "q", "tool_call": {"tool_call_id": "y"}}),
            event("d", approval_resolved={"approval_id": "q", "is_allowed": False}),
            event("d", tool_call_skipped={"result": {"tool_call_id": "y"}}),
            results("d", "m3", "x", "y"),
            ended("d", "COMPLETED"),
        ]
        self.waiting: list[str] = []
        self.record = Record(
            submitted=[
                Submitted("a", SESSION, "prompt a", 1, ["COMPLETED"]),
                Submitted("b", SESSION, "prompt b", 2, ["CANCELLED"]),
                Submitted("c", SESSION, "prompt c", 3, ["CANCELLED"]),
                Submitted("d", SESSION, "prompt d", 4, ["COMPLETED"]),
            ],
            covered=["b"],
            overtaken=["c"],
            resumed=["a"],
            shown=[Shown("m", 1, "who"), Shown("m", 2, "whole")],
            answered=[
                Answered("p", is_allowed=True, is_listed=True, second="APPROVAL_ANSWERED"),
                Answered("q", is_allowed=False, is_listed=True, second="APPROVAL_ANSWERED"),
            ],
        )
        self.asked = ["prompt a"]
        self.lists = True

    def check(self, *, live: Callable[[list[Event]], list[Event]] = list) -> list[str]:
        """Number the log, let the caller see it, and check; returns what holds."""
        self.events += self.desk
        for seq, found in enumerate(self.events, 1):
            found.seq = found.seq or seq
        self.record.events = {SESSION: live(self.events)}
        runs, messages = {SESSION: self._runs()}, {SESSION: self._messages()}
        truth = Truth({SESSION: self.events}, runs, messages, self.waiting, self.asked)
        return [name for name, _ in check_all(self.record, truth)]

    def _runs(self) -> list[Run]:
        outcomes = {found.run_id: found.run_finished.outcome for found in self.events if found.HasField("run_finished")}
        return [Run(run_id=name, state=RunState.RUN_STATE_FINISHED, outcome=ended) for name, ended in outcomes.items()]

    def _messages(self) -> list[Message]:
        return [found.message_committed.message for found in self.events if found.HasField("message_committed")]


def test_a_good_log_keeps_every_promise() -> None:
    assert len(World().check()) == 11


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


def lost_result(world: World) -> None:
    del world.desk[12].message_committed.message.parts[1]


def result_in_another_order(world: World) -> None:
    world.desk[12] = results("d", "m3", "y", "x")


def result_twice(world: World) -> None:
    world.desk.insert(9, event("d", tool_call_finished={"result": {"tool_call_id": "x"}}))


def result_elsewhere(world: World) -> None:
    world.desk.insert(12, answer("d", "m4", ""))


def call_at_the_end(world: World) -> None:
    del world.desk[12]


def call_without_event(world: World) -> None:
    del world.desk[11], world.desk[4]


def two_answers(world: World) -> None:
    world.desk.insert(11, event("d", approval_resolved={"approval_id": "q", "is_allowed": False}))


def refused_and_run(world: World) -> None:
    world.desk.insert(11, event("d", tool_call_started={"tool_call_id": "y"}))


def run_before_its_answer(world: World) -> None:
    world.desk.insert(6, world.desk.pop(7))


def other_decision(world: World) -> None:
    world.record.answered[1].is_allowed = True


def answered_by_nobody(world: World) -> None:
    world.record.answered.pop()


def second_answer_taken(world: World) -> None:
    world.record.answered[0].second = ""


def not_listed(world: World) -> None:
    world.record.answered[0].is_listed = False


def waits_for_ever(world: World) -> None:
    world.waiting = ["p"]


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
        (lost_result, "one result per call"),
        (result_in_another_order, "one result per call"),
        (result_twice, "one result per call"),
        (result_elsewhere, "one result per call"),
        (call_at_the_end, "one result per call"),
        (call_without_event, "one result per call"),
        (two_answers, "approvals are answered once"),
        (refused_and_run, "approvals are answered once"),
        (run_before_its_answer, "approvals are answered once"),
        (other_decision, "approvals are answered once"),
        (answered_by_nobody, "approvals are answered once"),
        (second_answer_taken, "approvals are answered once"),
        (not_listed, "approvals are answered once"),
        (waits_for_ever, "approvals are answered once"),
        (gap, "seq without gaps"),
        (other_text, "resumed text is committed text"),
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

"""The promises, checked against the log: what the server says over gRPC when all is over, and what the caller saw.

Each check is a function of facts and raises `BrokenPromiseError`; it talks to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from turnkeeper import Event, Message, Outcome, OutcomeStatus, Run, RunState

from .record import Record
from .talk import outcome_name

ASSISTANT = 2
"""`ROLE_ASSISTANT`."""


class BrokenPromiseError(Exception):
    """A promise does not hold."""


@dataclass(frozen=True)
class Truth:
    """What the server holds, read over gRPC after the last terminal; and what the vendor was asked."""

    events: Mapping[str, Sequence[Event]]
    """The whole log of each session."""
    runs: Mapping[str, Sequence[Run]]
    messages: Mapping[str, Sequence[Message]]
    waiting: Sequence[str]
    """The approvals that wait still."""
    asked: Sequence[str] | None
    """The bodies of all requests to the vendor; None where it is not ours to look at."""

    def of_run(self, run_id: str) -> Iterator[Event]:
        """A run's events, in order."""
        return (event for events in self.events.values() for event in events if event.run_id == run_id)

    @property
    def num_terminals(self) -> int:
        """Terminals in all logs."""
        return sum(event.HasField("run_finished") for events in self.events.values() for event in events)

    def outcomes(self) -> dict[str, Outcome]:
        """The first terminal of each run."""
        found: dict[str, Outcome] = {}
        for event in (event for events in self.events.values() for event in events):
            if event.HasField("run_finished"):
                found.setdefault(event.run_id, event.run_finished.outcome)
        return found


def check_all(record: Record, truth: Truth) -> Iterator[tuple[str, str]]:
    """Check every promise; yields what holds, and what was looked at. Raises BrokenPromiseError."""
    for name, check in PROMISES.items():
        try:
            yield name, check(record, truth)
        except BrokenPromiseError as error:
            raise BrokenPromiseError(f"{name}: {error}") from None


def one_terminal(record: Record, truth: Truth) -> str:
    """Every accepted run has exactly one terminal, which is its last event."""
    for sent in record.submitted:
        events = list(truth.of_run(sent.run_id))
        terminals = [event for event in events if event.HasField("run_finished")]
        _expect(len(terminals) == 1, f"{sent.run_id} has {len(terminals)} terminals")
        _expect(events[-1] is terminals[0], f"{sent.run_id} has events behind its terminal")
    known = {sent.run_id for sent in record.submitted}
    listed = {run.run_id: run for runs in truth.runs.values() for run in runs}
    _expect(listed.keys() == known, f"the server lists {sorted(listed)}, submitted were {sorted(known)}")
    for run_id, outcome in truth.outcomes().items():
        _expect(run_id in known, f"a terminal of {run_id!r}, which nobody submitted")
        run = listed[run_id]
        _expect(run.state == RunState.RUN_STATE_FINISHED, f"{run_id} has a terminal and is not finished")
        _expect(run.outcome == outcome, f"{run_id} is listed with another outcome than its terminal's")
    return f"{len(known)} runs"


def right_outcome(record: Record, truth: Truth) -> str:
    """Every run ended as its caller was right to expect."""
    outcomes = truth.outcomes()
    for sent in record.submitted:
        ended = outcome_name(outcomes[sent.run_id])
        _expect(ended in sent.expected, f"{sent.run_id} ended {ended}, expected {' or '.join(sent.expected)}")
    return ", ".join(f"{list(map(outcome_name, outcomes.values())).count(name)} {name}" for name in _names(outcomes))


def accepted_is_durable(record: Record, truth: Truth) -> str:
    """Every acknowledged run is there with the accept sequence of its receipt, over the kill."""
    accepted = {
        event.run_id: event.run_accepted.accept_sequence
        for events in truth.events.values()
        for event in events
        if event.HasField("run_accepted")
    }
    for sent in record.submitted:
        found = accepted.get(sent.run_id)
        _expect(found == sent.accept_sequence, f"{sent.run_id} was accepted as {sent.accept_sequence}, is {found}")
    return f"{len(accepted)} receipts"


def one_at_a_time(record: Record, truth: Truth) -> str:
    """No run of a session starts before the one before it has its terminal."""
    num_started = 0
    for session_id, events in truth.events.items():
        is_open = ""
        for event in events:
            if event.HasField("run_started"):
                _expect(not is_open, f"{session_id}: {event.run_id} started while {is_open} was open")
                is_open = event.run_id
                num_started += 1
            elif event.HasField("run_finished") and event.run_id == is_open:
                is_open = ""
    return f"{num_started} turns"


def in_order(record: Record, truth: Truth) -> str:
    """Runs of a session start in the order of their accepts."""
    sequences = {sent.run_id: sent.accept_sequence for sent in record.submitted}
    for session_id, events in truth.events.items():
        started = [event.run_id for event in events if event.HasField("run_started")]
        _expect(started == sorted(started, key=lambda run_id: sequences[run_id]), f"{session_id}: started as {started}")
    return f"{len(truth.events)} sessions"


def exact_cancel(record: Record, truth: Truth) -> str:
    """What an acknowledged cancel covered is cancelled, what came after it is not; one that overtook asked no model."""
    outcomes = truth.outcomes()
    for run_id in record.covered:
        ended = outcome_name(outcomes[run_id])
        _expect(ended == "CANCELLED", f"{run_id} was covered by an acknowledged cancel and ended {ended}")
    asked_for = {*record.covered, *record.overtaken}
    for run_id, outcome in outcomes.items():
        is_cancelled = outcome.status == OutcomeStatus.OUTCOME_STATUS_CANCELLED
        _expect(not is_cancelled or run_id in asked_for, f"{run_id} is cancelled and no cancel covered it")
    prompts = {sent.run_id: sent.prompt for sent in record.submitted}
    for run_id in record.overtaken:
        ended = outcome_name(outcomes[run_id])
        _expect(ended == "CANCELLED", f"{run_id} was cancelled before it came and ended {ended}")
        has_step = any(event.HasField("step_started") for event in truth.of_run(run_id))
        _expect(not has_step, f"{run_id} was cancelled before it came and took a step")
        reached = any(prompts[run_id] in body for body in truth.asked or ())
        _expect(not reached, f"the prompt of {run_id}, cancelled before it came, reached the model")
    return f"{len(asked_for)} cancelled, {len(outcomes) - len(asked_for)} not"


def one_result(record: Record, truth: Truth) -> str:
    """Every tool call has exactly one result, in the log, and in the history directly behind it."""
    num_calls = 0
    for session_id, messages in truth.messages.items():
        calls: list[str] = []
        for message in messages:
            results = [part.tool_result.tool_call_id for part in message.parts if part.HasField("tool_result")]
            _expect(results == calls, f"{session_id}: calls {calls} are followed by results {results}")
            calls = [part.tool_call.tool_call_id for part in message.parts if part.HasField("tool_call")]
            num_calls += len(calls)
        _expect(not calls, f"{session_id}: the history ends with calls {calls}")
    requested, closed = [], []
    for event in (event for events in truth.events.values() for event in events):
        name = event.WhichOneof("payload")
        if name == "tool_call_requested":
            requested.append((event.run_id, event.tool_call_requested.tool_call.tool_call_id))
        elif name in ("tool_call_finished", "tool_call_skipped", "tool_call_cancelled"):
            closed.append((event.run_id, getattr(event, name).result.tool_call_id))
    _expect(sorted(requested) == sorted(closed), f"{requested} were called, and there are results of {closed}")
    _expect(num_calls == len(requested), f"{num_calls} calls are in the history, {len(requested)} in the log")
    return f"{num_calls} calls"


def answered_once(record: Record, truth: Truth) -> str:
    """What needs leave waits for it, is answered once, by whoever is first, and runs only if it is allowed."""
    decisions: dict[str, bool] = {}
    for event in (event for events in truth.events.values() for event in events):
        if not event.HasField("approval_requested"):
            continue
        asked = event.approval_requested
        own = list(truth.of_run(event.run_id))
        answers = [
            found
            for found in own
            if found.HasField("approval_resolved") and found.approval_resolved.approval_id == asked.approval_id
        ]
        _expect(len(answers) == 1, f"{asked.approval_id} has {len(answers)} answers")
        is_allowed = decisions[asked.approval_id] = answers[0].approval_resolved.is_allowed
        started = _starts(own, event)
        is_right = all(seq > answers[0].seq for seq in started) and bool(started) == is_allowed
        _expect(is_right, f"{asked.tool_call.name} was {'allowed' if is_allowed else 'refused'}, its starts: {started}")
    for answer in record.answered:
        _expect(answer.is_listed, f"{answer.approval_id} waited, and was not listed")
        found = decisions.get(answer.approval_id)
        _expect(found == answer.is_allowed, f"{answer.approval_id} was answered {answer.is_allowed} and is {found}")
        refused = answer.second == "APPROVAL_ANSWERED"
        _expect(refused, f"a second answer to {answer.approval_id} was {answer.second or 'taken'}")
    _expect(
        len(decisions) == len(record.answered), f"{len(record.answered)} answers were given, {len(decisions)} count"
    )
    _expect(not truth.waiting, f"{', '.join(truth.waiting)} still waits")
    return f"{len(decisions)} answered by another client, and no second time"


def _starts(events: Sequence[Event], asked: Event) -> list[int]:
    """The seqs at which a call that needed leave was started. Ids of calls are unique in their message only."""
    call_id = asked.approval_requested.tool_call.tool_call_id
    starts: list[int] = []
    for event in events:
        if event.HasField("tool_call_requested") and event.tool_call_requested.tool_call.tool_call_id == call_id:
            if event.seq > asked.seq:
                break
            starts.clear()
        elif event.HasField("tool_call_started") and event.tool_call_started.tool_call_id == call_id:
            starts.append(event.seq)
    return starts


def seq_without_gaps(record: Record, truth: Truth) -> str:
    """The log is numbered 1, 2, 3 …, and the caller saw each event once, in order, the same, over both connections."""
    for session_id, events in truth.events.items():
        seqs = [event.seq for event in events]
        _expect(seqs == list(range(1, len(seqs) + 1)), f"{session_id}: the log is numbered {seqs}")
        seen = record.events[session_id]
        for log, live in zip(events, seen, strict=False):
            _expect(log == live, f"{session_id}: event {log.seq} was shown as {live.seq}, or with other content")
        _expect(len(seen) == len(events), f"{session_id}: {len(seen)} events were shown, the log has {len(events)}")
    return f"{sum(map(len, truth.events.values()))} events"


def resumed_text(record: Record, truth: Truth) -> str:
    """What was shown of a message is what is committed of it; an answer cut by the kill was voided and begun again."""
    shown = {(text.message_id, text.attempt): text.text for text in record.shown}
    committed = {
        event.message_committed.message.message_id: event
        for events in truth.events.values()
        for event in events
        if event.HasField("message_committed")
    }
    for event in committed.values():
        message = event.message_committed.message
        text = _text(message)
        live = shown.get((message.message_id, event.attempt), "")
        if message.role != ASSISTANT:
            continue
        if message.run_id in record.cut:
            is_same = live.startswith(text) or text.startswith(live)
            _expect(is_same, f"{message.run_id}: {live!r} was shown, {text!r} is kept of it")
        elif live:
            # A reader that was away while all of an attempt was written gets only the committed message, also of an
            # answer that was begun again.
            _expect(live == text, f"{message.run_id}: {live!r} was shown, {text!r} is committed")
    for session_id, messages in truth.messages.items():
        for message in messages:
            log = committed[message.message_id].message_committed.message
            _expect(_text(message) == _text(log), f"{session_id}: {message.message_id} is listed with another text")
    outcomes = truth.outcomes()
    for run_id, outcome in outcomes.items():
        if outcome.message_id and outcome.text:
            text = _text(committed[outcome.message_id].message_committed.message)
            _expect(text == outcome.text, f"{run_id}: the terminal's text is not the committed message's")
    for run_id in record.resumed:
        void = [event for event in truth.of_run(run_id) if event.HasField("attempt_discarded")]
        _expect(len(void) == 1, f"{run_id} was cut by the kill, and {len(void)} attempts are void")
        final = committed[outcomes[run_id].message_id]
        _expect(final.attempt == void[0].attempt + 1, f"{run_id} ended with attempt {final.attempt}")
    return f"{len(shown)} answers shown, {len(record.resumed)} begun again"


def accounted(record: Record, truth: Truth) -> str:
    """Every terminal carries usage, also a cancelled one's."""
    total = 0
    for run_id, outcome in truth.outcomes().items():
        steps = sum(1 for event in truth.of_run(run_id) if event.HasField("step_finished"))
        _expect(outcome.HasField("usage"), f"{run_id}: its terminal has no usage")
        calls = outcome.usage.own.num_calls
        _expect(calls >= steps, f"{run_id}: {steps} model calls, {calls} counted")
        total += outcome.usage.own.output_tokens
    return f"{total} output tokens"


PROMISES: Mapping[str, Callable[[Record, Truth], str]] = {
    "one terminal per run": one_terminal,
    "every run ended as it should": right_outcome,
    "accepted means durable": accepted_is_durable,
    "one at a time": one_at_a_time,
    "first come, first served": in_order,
    "exact cancel": exact_cancel,
    "one result per call": one_result,
    "approvals are answered once": answered_once,
    "seq without gaps": seq_without_gaps,
    "resumed text is committed text": resumed_text,
    "always accounted": accounted,
}


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BrokenPromiseError(otherwise)


def _names(outcomes: Mapping[str, Outcome]) -> list[str]:
    return sorted({outcome_name(outcome) for outcome in outcomes.values()})


def _text(message: Message) -> str:
    return "".join(part.text.text for part in message.parts if part.HasField("text"))

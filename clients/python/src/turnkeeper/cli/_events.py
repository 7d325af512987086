"""Events in words: the lines that `watch` prints, and what a conversation says beside its texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from turnkeeper.cli import _show
from turnkeeper.v1 import event_pb2
from turnkeeper.v1.event_pb2 import Event

_LOST = "PROCESS_LOST"


def event_line(event: Event) -> str:
    """An event on one line: its seq, time, run, name, and what is worth knowing of it."""
    name = event.WhichOneof("payload") or "unknown"
    line = f"{event.seq:>6}  {_show.when(event.time)[-8:]:8}  {event.run_id or '-':36}  {name}"
    about = _ABOUT[name](getattr(event, name)) if name in _ABOUT else ""
    return f"{line}  {about}" if about else line


def prompt(accepted: event_pb2.RunAccepted) -> str:
    """What a run was asked; what it is for where nobody asked."""
    text = _show.short(" ".join(part.text.text for part in accepted.prompt))
    if text or accepted.kind in (event_pb2.RUN_KIND_UNSPECIFIED, event_pb2.RUN_KIND_PROMPT):
        return text
    return f"({_show.word(event_pb2.RunKind.Name, accepted.kind, 'RUN_KIND_')})"


def discarded(attempt: event_pb2.AttemptDiscarded, what: str) -> str:
    """That what an attempt has shown is void; empty where there is nothing to say that a retry does not."""
    void = f"{what} is void" if what else ""
    if attempt.cause != _LOST:
        return void
    return "; ".join(filter(None, (void, "the server was restarted, and the model is asked again")))


def retry(scheduled: event_pb2.RetryScheduled) -> str:
    """What failed, who is asked next, and when."""
    if scheduled.error.reason == event_pb2.OUTCOME_REASON_CONTEXT_EXHAUSTED:
        return f"{_show.error(scheduled.error)}; {scheduled.model} is asked again with less"
    at = f"again in {_show.seconds(scheduled.delay)}" if scheduled.delay.ToMilliseconds() else "now"
    return f"{_show.error(scheduled.error)}; {scheduled.model} is asked {at}"


def summary_started(summary: event_pb2.SummaryStarted) -> str:
    """Who summarises, and why."""
    why = "the context is full: " if summary.is_automatic else ""
    return f"{why}{summary.model} summarises what was said so far"


def summary_discarded(summary: event_pb2.SummaryDiscarded) -> str:
    """Why there is no summary."""
    return f"the summary is given up: {_show.short(summary.detail)}"


def cancelling(asked: event_pb2.RunCancelRequested) -> str:
    """Who cancels a run, and how."""
    words = "is asked to stop" if asked.mode == event_pb2.CANCEL_MODE_STOP else "is cancelled"
    words += f" by {asked.actor}" if asked.actor else ""
    if asked.reason != event_pb2.OUTCOME_REASON_USER:
        words += f" ({_show.word(event_pb2.OutcomeReason.Name, asked.reason, 'OUTCOME_REASON_')})"
    return words + (f": {_show.short(asked.hint)}" if asked.hint else "")


def _committed(event: event_pb2.MessageCommitted) -> str:
    message = event.message
    return f"{_show.role(message.role)}: {_show.short(' · '.join(_show.message_lines(message)) or '(nothing)', 160)}"


def _step(event: event_pb2.StepFinished) -> str:
    usage = event.usage
    about = "estimated " if usage.is_estimated else ""
    counts = f"{about}{usage.input_tokens} tokens in, {usage.output_tokens} out, {_show.seconds(event.duration)}"
    return f"{event.step}: {counts}"


def _context(event: event_pb2.MessageContextChanged) -> str:
    num = len(event.message_ids)
    how = "sent to models again" if event.in_context else "no longer sent to models"
    return f"{num} message{'s' if num != 1 else ''} {how}"


def _todos(event: event_pb2.TodosChanged) -> str:
    def status(todo: event_pb2.Todo) -> str:
        return _show.word(event_pb2.TodoStatus.Name, todo.status, "TODO_STATUS_").replace("_", " ")

    return _show.short(" · ".join(f"{todo.content} ({status(todo)})" for todo in event.todos) or "none", 160)


def _started(event: event_pb2.ToolCallStarted) -> str:
    return f"{event.tool_call_id} by {event.executor}"


def _parked(event: event_pb2.TurnParked) -> str:
    return f"waits for {event.cause} {event.target_id}".rstrip()


def _result(event: Any) -> str:
    return _show.result(event.result)


# An event that is not here says all by its name.
_ABOUT: Mapping[str, Callable[[Any], str]] = {
    "run_accepted": prompt,
    "run_queued": lambda event: f"{event.position} ahead",
    "run_started": lambda event: event.model,
    "run_awaiting": lambda event: ", ".join(event.labels),
    "run_resumed": lambda event: event.cause,
    "run_finished": lambda event: _show.outcome(event.outcome),
    "run_cancel_requested": cancelling,
    "step_started": lambda event: f"{event.step}: {event.model}",
    "step_finished": _step,
    "attempt_discarded": lambda event: discarded(event, what="the attempt") + f" ({event.cause})",
    "retry_scheduled": retry,
    "summary_started": summary_started,
    "summary_finished": lambda event: f"it stands for everything up to {event.covers_seq}",
    "summary_discarded": summary_discarded,
    "message_committed": _committed,
    "message_context_changed": _context,
    "tool_call_requested": lambda event: _show.call(event.tool_call),
    "tool_call_started": _started,
    "tool_call_finished": _result,
    "tool_call_skipped": _result,
    "tool_call_cancelled": _result,
    "tool_call_late_result": lambda event: f"too late: {_show.result(event.result)}",
    "turn_parked": _parked,
    "turn_woken": lambda event: event.cause,
    "approval_requested": lambda event: f"{event.approval_id} {_show.call(event.tool_call)}",
    "approval_resolved": lambda event: f"{event.approval_id} {_show.resolved(event)}",
    "session_updated": lambda event: ", ".join(event.paths) + (f": {_show.short(event.title)}" if event.title else ""),
    "todos_changed": _todos,
}

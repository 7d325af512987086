"""How things are printed: lines for people, or one JSON object per line for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.text import Text

from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2
from turnkeeper.v1.content_pb2 import Message, ToolCall, ToolResult
from turnkeeper.v1.event_pb2 import Event, Outcome

_SHORT = 72


class Screen:
    """Where a command prints: results on standard output, remarks on standard error unless both are the terminal."""

    def __init__(self, *, is_json: bool) -> None:
        """Look at what standard output is."""
        self.is_json = is_json
        self.is_terminal = sys.stdout.isatty()
        self._out = Console(highlight=False, markup=False, soft_wrap=True)
        self._remarks = self._out if self.is_terminal else Console(stderr=True, highlight=False, soft_wrap=True)
        self._is_mid_line = False

    def json(self, kind: str, message: ProtoMessage) -> None:
        """Print a message as one line of JSON, under the name of its kind."""
        content = MessageToDict(message, preserving_proto_field_name=True)
        self.line(json.dumps({kind: content}, ensure_ascii=False, separators=(",", ":")))

    def line(self, text: str) -> None:
        """Print a line."""
        self.end_line()
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def text(self, text: str) -> None:
        """Go on with a line that is being written."""
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
            self._is_mid_line = not text.endswith("\n")

    def end_line(self) -> None:
        """End a line that is being written."""
        if self._is_mid_line:
            self._is_mid_line = False
            sys.stdout.write("\n")
            sys.stdout.flush()

    def entered(self) -> None:
        """Somebody pressed Enter at the terminal: whatever was being written, its line has ended."""
        self._is_mid_line = False

    def remark(self, text: str) -> None:
        """Print a line beside the results; nothing where they are JSON."""
        if not self.is_json:
            self.end_line()
            self._remarks.print(Text(text, style="dim"))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows in columns."""
        widths = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]
        for number, row in enumerate([header, *rows]):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self._out.print(Text("  ".join(cells).rstrip(), style="bold" if number == 0 else ""))


def fail(message: str, code: int = 1) -> int:
    """Say what went wrong in one line, and return the exit code."""
    sys.stdout.flush()
    sys.stderr.write(f"turnkeeper: {message}\n")
    return code


def when(time: Timestamp) -> str:
    """A time for people, in UTC; `-` where it is not set."""
    if not time.seconds:
        return "-"
    return datetime.fromtimestamp(time.seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def short(text: str, width: int = _SHORT) -> str:
    """A text on one line, cut where it is long."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def state(value: int) -> str:
    """A run's state as a word."""
    return _word(run_service_pb2.RunState.Name, value, "RUN_STATE_")


def disposition(value: int) -> str:
    """What a cancel found, as a word."""
    return _word(run_service_pb2.CancelDisposition.Name, value, "CANCEL_DISPOSITION_")


def role(value: int) -> str:
    """Who speaks, as a word."""
    return _word(content_pb2.Role.Name, value, "ROLE_")


def outcome(ended: Outcome) -> str:
    """How a run ended, in a few words."""
    words = _word(event_pb2.OutcomeStatus.Name, ended.status, "OUTCOME_STATUS_")
    if ended.reason:
        words += "/" + _word(event_pb2.OutcomeReason.Name, ended.reason, "OUTCOME_REASON_")
    if ended.fold.into_run_id:
        words += f" into {ended.fold.into_run_id}"
    if ended.errors and ended.status == event_pb2.OUTCOME_STATUS_FAILED:
        last = ended.errors[-1]
        words += f": {short(last.title or last.detail)}"
    return words


def message_text(message: Message) -> str:
    """The text of a message, without reasoning and tools."""
    return "".join(part.text.text for part in message.parts if part.WhichOneof("part") == "text")


def message_lines(message: Message) -> list[str]:
    """A message for people: its text, its tool calls, and their results."""
    lines = message_text(message).splitlines()
    lines += [f"calls {call(part.tool_call)}" for part in message.parts if part.HasField("tool_call")]
    return lines + [result(part.tool_result) for part in message.parts if part.HasField("tool_result")]


def call(asked: ToolCall) -> str:
    """A tool call on one line."""
    return short(f"{asked.name} {asked.arguments_json or '{}'}")


def result(said: ToolResult) -> str:
    """What a tool answered, on one line."""
    kinds = (part.WhichOneof("part") for part in said.content)
    texts = (part.text.text if kind == "text" else f"({kind})" for part, kind in zip(said.content, kinds, strict=True))
    return f"{said.name} {'failed' if said.is_error else 'said'}: {short(' '.join(texts))}"


def resolved(answer: event_pb2.ApprovalResolved) -> str:
    """How an approval was answered, and by whom."""
    words = ("allowed" if answer.is_allowed else "refused") + (f" by {answer.actor}" if answer.actor else " by default")
    return words + (f": {short(answer.comment)}" if answer.comment else "")


def event_line(event: Event) -> str:
    """An event on one line: its seq, time, run, name, and what is worth knowing of it."""
    name = event.WhichOneof("payload") or "unknown"
    line = f"{event.seq:>6}  {when(event.time)[-8:]:8}  {event.run_id or '-':36}  {name}"
    about = _about(event, name)
    return f"{line}  {about}" if about else line


def _about(event: Event, name: str) -> str:
    match name:
        case "run_accepted":
            return short(" ".join(part.text.text for part in event.run_accepted.prompt))
        case "run_queued":
            return f"{event.run_queued.position} ahead"
        case "run_started":
            return event.run_started.model
        case "run_finished":
            return outcome(event.run_finished.outcome)
        case "run_cancel_requested":
            return _word(event_pb2.OutcomeReason.Name, event.run_cancel_requested.reason, "OUTCOME_REASON_")
        case "step_started":
            return f"{event.step_started.step} {event.step_started.model}"
        case "message_committed":
            message = event.message_committed.message
            return f"{role(message.role)}: {short(' · '.join(message_lines(message)))}"
        case "attempt_discarded":
            return event.attempt_discarded.cause
        case "retry_scheduled":
            return event.retry_scheduled.error.title
        case "tool_call_requested":
            return call(event.tool_call_requested.tool_call)
        case "tool_call_finished" | "tool_call_skipped" | "tool_call_cancelled" | "tool_call_late_result":
            return result(getattr(event, name).result)
        case "approval_requested":
            return f"{event.approval_requested.approval_id} {call(event.approval_requested.tool_call)}"
        case "approval_resolved":
            return f"{event.approval_resolved.approval_id} {resolved(event.approval_resolved)}"
    return ""


def _word(name_of: object, value: int, prefix: str) -> str:
    """An enum's value as a word; one that this version does not know as its number."""
    assert callable(name_of)
    try:
        return str(name_of(value)).removeprefix(prefix).lower()
    except ValueError:
        return str(value)

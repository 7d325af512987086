"""Things of the contract in words, for people."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2
from turnkeeper.v1.content_pb2 import ErrorText, Message, ToolCall, ToolResult
from turnkeeper.v1.event_pb2 import Outcome, RunError
from turnkeeper.v1.run_service_pb2 import Hold

_SHORT = 72
_ERROR = 200


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
    return word(run_service_pb2.RunState.Name, value, "RUN_STATE_")


def disposition(value: int) -> str:
    """What a cancel found, in a word or a few."""
    if value == run_service_pb2.CANCEL_DISPOSITION_TOMBSTONED:
        return "not seen so far: it is cancelled when it comes"
    return word(run_service_pb2.CancelDisposition.Name, value, "CANCEL_DISPOSITION_")


def role(value: int) -> str:
    """Who speaks, as a word."""
    return word(content_pb2.Role.Name, value, "ROLE_")


def outcome(ended: Outcome) -> str:
    """How a run ended, in a few words."""
    words = word(event_pb2.OutcomeStatus.Name, ended.status, "OUTCOME_STATUS_")
    if ended.reason:
        words += "/" + word(event_pb2.OutcomeReason.Name, ended.reason, "OUTCOME_REASON_")
    if ended.fold.into_run_id:
        words += f" into {ended.fold.into_run_id}"
    if ended.errors and ended.status == event_pb2.OUTCOME_STATUS_FAILED:
        words += f": {error(ended.errors[-1])}"
    return words


def error(met: RunError | ErrorText) -> str:
    """An error on one line: its title, and what exactly happened."""
    return short(": ".join(filter(None, (met.title, met.detail))).rstrip("."), _ERROR)


def hold(held: Hold) -> str:
    """What holds a run, and since when."""
    return f"{held.label} {seconds(held.age)}"


def seconds(time: Duration) -> str:
    """A time in seconds, to a tenth where it is short."""
    number = time.ToTimedelta().total_seconds()
    return f"{number:.0f} s" if number >= 9.95 else f"{number:.1f} s".replace(".0 ", " ")


def word(name_of: Callable[[Any], str], value: int, prefix: str) -> str:
    """An enum's value as a word; one that this version does not know as its number."""
    try:
        return name_of(value).removeprefix(prefix).lower()
    except ValueError:
        return str(value)


def message_text(message: Message) -> str:
    """The text of a message, without reasoning and tools."""
    return "".join(part.text.text for part in message.parts if part.WhichOneof("part") == "text")


def message_lines(message: Message) -> list[str]:
    """A message for people: its text, its tool calls, and their results; a summary, and what cut the message."""
    lines = message_text(message).splitlines()
    for part in message.parts:
        if part.HasField("summary"):
            lines += ["summary of what came before:", *part.summary.text.splitlines()]
    lines += [f"calls {call(part.tool_call)}" for part in message.parts if part.HasField("tool_call")]
    lines += [result(part.tool_result) for part in message.parts if part.HasField("tool_result")]
    if message.status in (content_pb2.MESSAGE_STATUS_CANCELLED, content_pb2.MESSAGE_STATUS_FAILED):
        status = word(content_pb2.MessageStatus.Name, message.status, "MESSAGE_STATUS_")
        lines.append(f"({status}: {error(message.error)})" if message.HasField("error") else f"({status})")
    return lines


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

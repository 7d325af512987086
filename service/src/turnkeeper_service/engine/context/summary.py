"""Summaries of a context (U-29): when one is due, what a model is asked for, and what stands for what afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.models import Model
from turnkeeper_service.engine.pairing import paired
from turnkeeper_service.engine.plan import TurnPlan
from turnkeeper_service.engine.usage import estimate
from turnkeeper_service.providers.base import ModelRequest
from turnkeeper_service.tools.base import OfferedTool

LARGE_WINDOW = 200_000
LARGE_RESERVE = 20_000
RESERVED_SHARE = 0.2
NUM_LENGTHS = 3
"""A request for a summary that is too long itself is made shorter so often: whole, cut short, the later half."""
SHORT_CHARACTERS = 2_000
BEGINNING_LEFT_OUT = "[The beginning of the conversation is left out.]"

MAX_KEPT_BYTES = 8 << 20
"""A prompt and what was steered in behind it may be longer together than a message that can be sent."""
LEFT_OUT = "[a part of what the user said was left out here; the summary speaks of it]"

_SYSTEM = (
    "You summarise a conversation between a user and an assistant so that the assistant can go on with it from your "
    "summary alone. It will not see the conversation again."
)
_ASK = """\
Write a summary of everything above. It takes the place of the conversation, so keep what is needed to go on:

- what the user wants, with every requirement, limit and preference that was named;
- what was done so far and what came of it, with the exact names, paths, identifiers, numbers and commands that matter;
- what tools have returned that is still needed;
- what was decided and why, and what was tried and did not work;
- what is being done right now, what is left, and what the next step is.

Write plain text under short headings. Do not call tools, do not answer the user, and do not speak of this request."""
_STATUS = {
    event_pb2.TODO_STATUS_PENDING: "pending",
    event_pb2.TODO_STATUS_IN_PROGRESS: "in progress",
    event_pb2.TODO_STATUS_COMPLETED: "completed",
}


def is_nearly_full(window: int | None, tokens: int) -> bool:
    """Whether so little of a context window is left that a summary is due (C-91). An unknown window never fills."""
    if not window:
        return False
    reserve = LARGE_RESERVE if window > LARGE_WINDOW else int(RESERVED_SHARE * window)
    return window - tokens <= reserve


def num_tokens(messages: Sequence[content_pb2.Message]) -> int:
    """The messages' tokens, estimated."""
    return estimate(messages, "", 0).input_tokens


def summary_request(
    plan: TurnPlan,
    model: Model,
    history: Sequence[content_pb2.Message],
    todos: Sequence[event_pb2.Todo],
) -> ModelRequest:
    """The request for a summary: the conversation and what to write of it. No tools are offered (C-110)."""
    ask = content_pb2.Message(role=content_pb2.ROLE_USER)
    ask.parts.add().text.text = _ASK + _todos(todos)
    return ModelRequest(
        model=model.own_name,
        messages=[*paired(history), ask],
        system=_SYSTEM,
        session_hash=plan.session_hash,
        capabilities=model.capabilities,
    )


def _todos(todos: Sequence[event_pb2.Todo]) -> str:
    if not todos:
        return ""
    lines = "\n".join(f"- [{_STATUS.get(todo.status, 'pending')}] {todo.content}" for todo in todos)
    return (
        f"\n\nThese are the todos of the conversation:\n\n{lines}\n\n"
        "Name them with their status, and say that the todos tool is to be used to go on keeping them."
    )


def shortened(history: Sequence[content_pb2.Message], level: int) -> Sequence[content_pb2.Message]:
    """The conversation for a request that may not be longer: 0 whole, 1 long texts cut, 2 the later half of that."""
    if level == 0:
        return history
    if level == 1:
        return [_short(message) for message in history]
    half = len(history) // 2
    users = (place for place in range(half, len(history)) if history[place].role == content_pb2.ROLE_USER)
    # Results whose calls are left out would be of no use.
    others = (place for place in range(half, len(history)) if history[place].role != content_pb2.ROLE_TOOL)
    start = next(users, next(others, len(history)))
    later = [_short(message) for message in history[start:]]
    if not later or later[0].role != content_pb2.ROLE_USER:
        # A conversation begins with the user.
        first = content_pb2.Message(role=content_pb2.ROLE_USER)
        first.parts.add().text.text = BEGINNING_LEFT_OUT
        later.insert(0, first)
    return later


def _short(message: content_pb2.Message) -> content_pb2.Message:
    short = content_pb2.Message()
    short.CopyFrom(message)
    for part in short.parts:
        _cut(part)
        for inner in part.tool_result.content if part.HasField("tool_result") else ():
            _cut(inner)
    return short


def _cut(part: content_pb2.Part) -> None:
    if part.HasField("text") and len(part.text.text) > SHORT_CHARACTERS:
        half = SHORT_CHARACTERS // 2
        left_out = len(part.text.text) - 2 * half
        part.text.text = f"{part.text.text[:half]}\n[{left_out} characters left out]\n{part.text.text[-half:]}"
    elif part.HasField("media"):
        name = part.media.name or part.media.mime_type
        part.text.text = f"[{name}]"


def kept_parts(history: Sequence[content_pb2.Message], turn_id: str) -> list[content_pb2.Part]:
    """What users said in a turn that goes on behind its summary: it is kept word for word, as far as it fits."""
    kept: list[content_pb2.Part] = []
    left = MAX_KEPT_BYTES
    for message in history:
        if message.turn_id != turn_id or message.role != content_pb2.ROLE_USER:
            continue
        for part in message.parts:
            if part.HasField("summary"):
                continue
            size = part.ByteSize()
            fits = size <= left
            left -= size if fits else 0
            kept.append(part if fits else content_pb2.Part(text=content_pb2.Text(text=LEFT_OUT)))
    return kept


def sizes(plan: TurnPlan, history: Sequence[content_pb2.Message], tools: Mapping[str, OfferedTool]) -> str:
    """What fills a context, for people: tokens, estimated."""
    system = estimate((), plan.system_prompt, 0).input_tokens
    offered = sum(
        len(f"{one.tool.name}{one.tool.description}{one.tool.input_schema_json}".encode()) for one in tools.values()
    )
    return (
        f"estimated tokens: system prompt {system}, tools {-(-offered // 4)}, "
        f"history {num_tokens(history)} in {len(history)} messages"
    )


class ContextExhaustedError(Exception):
    """The context does not fit, and a summary does not help. The message says what fills it."""

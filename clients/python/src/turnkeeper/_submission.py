"""Prompts as callers write them, and the messages that they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict, Unpack

from turnkeeper import _options
from turnkeeper._ids import new_id
from turnkeeper._options import Seconds
from turnkeeper.v1 import event_pb2
from turnkeeper.v1.content_pb2 import ModelParameters, Part, Text
from turnkeeper.v1.run_service_pb2 import CancelRunsRequest, CancelScope, SequenceScope, Submission, TenantScope

Prompt: TypeAlias = str | Part | Sequence[str | Part]
DeliveryName: TypeAlias = Literal["queue", "steer", "reject", "replace"]
CancelModeName: TypeAlias = Literal["abort", "stop"]

_DELIVERIES: Mapping[DeliveryName, event_pb2.Delivery.ValueType] = {
    "queue": event_pb2.DELIVERY_QUEUE,
    "steer": event_pb2.DELIVERY_STEER,
    "reject": event_pb2.DELIVERY_REJECT,
    "replace": event_pb2.DELIVERY_REPLACE,
}
_MODES: Mapping[CancelModeName, event_pb2.CancelMode.ValueType] = {
    "abort": event_pb2.CANCEL_MODE_ABORT,
    "stop": event_pb2.CANCEL_MODE_STOP,
}


class SubmitOptions(TypedDict, total=False):
    """What a prompt may say beside its text. Everything may be left out, or be None, which is the same."""

    run_id: str | None
    """The run's id, and the key that makes a repeated submission the same one; minted here where it is not given."""
    delivery: DeliveryName | None
    """How it meets a busy session; the session's default where it is not given."""
    require_idle: bool | None
    """Refuse it, SESSION_BUSY, unless the session is idle."""
    expected_open_run_id: str | None
    """Refuse it, OPEN_RUN_MISMATCH, unless this run is open."""
    for_agent_id: str | None
    """End it FAILED / FLOOR_CHANGED unless this agent has the floor when it starts."""
    model: str | None
    """The model of this run as `provider/model`; the session's where it is not given."""
    parameters: ModelParameters | None
    """Parameters of this run's model calls; fields that are unset inherit."""
    tool_choice: str | None
    """`auto`, `none`, `required` or a tool's name."""
    output_schema: Mapping[str, Any] | str | None
    """A JSON Schema that the output must match."""
    max_output_reprompts: int | None
    """How often an answer that does not match is asked for again."""
    output_reprompt: str | None
    """What the model is then told, before what does not match."""
    max_steps: int | None
    """Most model steps of a turn."""
    start_timeout: Seconds | None
    """How long it may stand in line before it ends EXPIRED, in seconds."""
    run_timeout: Seconds | None
    """How long it may take from its start, in seconds."""
    cancel_on_disconnect: Seconds | None
    """Cancel it so many seconds after its submitting stream was lost."""
    pre_approved_tools: Sequence[str] | None
    """Names of tools that need no approval in this run."""


def submission(session_id: str, prompt: Prompt, **options: Unpack[SubmitOptions]) -> Submission:
    """Write down a submission. It always has a run_id, so that sending it again is safe.

    Raises:
        ValueError: An option's value, which is named, is none.
    """
    message = Submission(session_id=_options.text("session_id", session_id), prompt=parts(prompt))
    for option, value in options.items():
        if value is not None:
            _WRITE[option](message, option, value)
    if message.run_id == "":
        message.run_id = new_id()
    return message


def _write_text(message: Submission, option: str, value: object) -> None:
    setattr(message, option, _options.text(option, value))


def _write_count(message: Submission, option: str, value: object) -> None:
    setattr(message, option, _options.count(option, value))


def _write_span(message: Submission, option: str, value: object) -> None:
    getattr(message, option).FromTimedelta(_options.span(option, value))


def _write_delivery(message: Submission, option: str, value: object) -> None:
    message.delivery = _options.choice(option, value, _DELIVERIES)


def _write_require_idle(message: Submission, option: str, value: object) -> None:
    if _options.flag(option, value):
        message.preconditions.require_idle = True


def _write_precondition(message: Submission, option: str, value: object) -> None:
    if condition := _options.text(option, value):
        setattr(message.preconditions, option, condition)


def _write_parameters(message: Submission, option: str, value: object) -> None:
    message.parameters.CopyFrom(_options.instance(option, value, ModelParameters))


def _write_output_schema(message: Submission, option: str, value: object) -> None:
    message.output_schema_json = _options.json_schema(option, value)


def _write_cancel_on_disconnect(message: Submission, option: str, value: object) -> None:
    message.on_disconnect.cancel_after.FromTimedelta(_options.span(option, value))


def _write_pre_approved_tools(message: Submission, option: str, value: object) -> None:
    message.pre_approved_tools.extend(_options.texts(option, value))


_WRITE: Mapping[str, Callable[[Submission, str, object], None]] = {
    "run_id": _write_text,
    "delivery": _write_delivery,
    "require_idle": _write_require_idle,
    "expected_open_run_id": _write_precondition,
    "for_agent_id": _write_precondition,
    "model": _write_text,
    "parameters": _write_parameters,
    "tool_choice": _write_text,
    "output_schema": _write_output_schema,
    "max_output_reprompts": _write_count,
    "output_reprompt": _write_text,
    "max_steps": _write_count,
    "start_timeout": _write_span,
    "run_timeout": _write_span,
    "cancel_on_disconnect": _write_cancel_on_disconnect,
    "pre_approved_tools": _write_pre_approved_tools,
}


def parts(prompt: Prompt) -> list[Part]:
    """A prompt as the parts of a message."""
    listed: Any = [prompt] if isinstance(prompt, str | Part) else prompt
    if not isinstance(listed, Sequence) or not all(isinstance(part, str | Part) for part in listed):
        raise ValueError(f"prompt must be a string, a Part, or a list of both, not {type(prompt).__name__}")
    return [part if isinstance(part, Part) else Part(text=Text(text=part)) for part in listed]


def cancel_request(
    *,
    session_id: str | None = None,
    run_id: str | None = None,
    up_to: int | None = None,
    all_sessions: bool = False,
    mode: CancelModeName = "abort",
    turn_id: str = "",
    rollback: bool = False,
    unwind: bool = False,
    wait: bool = False,
    hint: str = "",
) -> CancelRunsRequest:
    """Write down a cancel.

    Raises:
        ValueError: The scope is not exactly one of a session, a run, or all sessions; the mode is none.
    """
    request = CancelRunsRequest(
        mode=_options.choice("mode", mode, _MODES),
        turn_id=turn_id,
        rollback=rollback,
        unwind=unwind,
        wait=wait,
        hint=hint,
    )
    if all_sessions and session_id is None and run_id is None and up_to is None:
        request.scope.CopyFrom(CancelScope(tenant=TenantScope()))
    elif run_id is not None and not all_sessions and up_to is None:
        request.scope.run_id = run_id
        request.session_id = session_id or ""
    elif session_id is not None and not all_sessions and up_to is not None:
        request.scope.up_to.CopyFrom(SequenceScope(session_id=session_id, accept_sequence=up_to))
    elif session_id is not None and not all_sessions:
        request.scope.session_id = session_id
    else:
        raise ValueError("a cancel is for a session (or up to a sequence of it), for a run, or for all sessions")
    return request

"""Prompts as callers write them, and the messages that they become."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeAlias, TypedDict, Unpack

from turnkeeper._ids import new_id
from turnkeeper.v1 import event_pb2
from turnkeeper.v1.content_pb2 import ModelParameters, Part, Text
from turnkeeper.v1.run_service_pb2 import CancelRunsRequest, CancelScope, SequenceScope, Submission, TenantScope

Prompt: TypeAlias = str | Part | Sequence[str | Part]
DeliveryName: TypeAlias = Literal["queue", "steer", "reject", "replace"]
CancelModeName: TypeAlias = Literal["abort", "stop"]
Seconds: TypeAlias = float | timedelta

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
    """What a prompt may say beside its text. Everything may be left out."""

    run_id: str
    """The run's id, and the key that makes a repeated submission the same one; minted here where it is not given."""
    delivery: DeliveryName
    """How it meets a busy session; the session's default where it is not given."""
    require_idle: bool
    """Refuse it, SESSION_BUSY, unless the session is idle."""
    expected_open_run_id: str
    """Refuse it, OPEN_RUN_MISMATCH, unless this run is open."""
    for_agent_id: str
    """End it FAILED / FLOOR_CHANGED unless this agent has the floor when it starts."""
    model: str
    """The model of this run as `provider/model`; the session's where it is not given."""
    parameters: ModelParameters
    """Parameters of this run's model calls; fields that are unset inherit."""
    tool_choice: str
    """`auto`, `none`, `required` or a tool's name."""
    output_schema: Mapping[str, Any] | str
    """A JSON Schema that the output must match."""
    max_output_reprompts: int
    """How often an answer that does not match is asked for again."""
    output_reprompt: str
    """What the model is then told, before what does not match."""
    max_steps: int
    """Most model steps of a turn."""
    start_timeout: Seconds
    """How long it may stand in line before it ends EXPIRED."""
    run_timeout: Seconds
    """How long it may take from its start."""
    cancel_on_disconnect: Seconds
    """Cancel it so long after its submitting stream was lost."""
    pre_approved_tools: Sequence[str]
    """Names of tools that need no approval in this run."""


def submission(session_id: str, prompt: Prompt, **options: Unpack[SubmitOptions]) -> Submission:
    """Write down a submission. It always has a run_id, so that sending it again is safe."""
    message = Submission(session_id=session_id, run_id=options.get("run_id") or new_id(), prompt=parts(prompt))
    if "delivery" in options:
        message.delivery = _DELIVERIES[options["delivery"]]
    conditions = message.preconditions
    if options.get("require_idle"):
        conditions.require_idle = True
    if options.get("expected_open_run_id"):
        conditions.expected_open_run_id = options["expected_open_run_id"]
    if options.get("for_agent_id"):
        conditions.for_agent_id = options["for_agent_id"]
    message.model = options.get("model", "")
    message.tool_choice = options.get("tool_choice", "")
    if "parameters" in options:
        message.parameters.CopyFrom(options["parameters"])
    if "output_schema" in options:
        schema = options["output_schema"]
        message.output_schema_json = schema if isinstance(schema, str) else json.dumps(schema, sort_keys=True)
    if "max_output_reprompts" in options:
        message.max_output_reprompts = options["max_output_reprompts"]
    message.output_reprompt = options.get("output_reprompt", "")
    if "max_steps" in options:
        message.max_steps = options["max_steps"]
    if "start_timeout" in options:
        message.start_timeout.FromTimedelta(as_timedelta(options["start_timeout"]))
    if "run_timeout" in options:
        message.run_timeout.FromTimedelta(as_timedelta(options["run_timeout"]))
    if "cancel_on_disconnect" in options:
        message.on_disconnect.cancel_after.FromTimedelta(as_timedelta(options["cancel_on_disconnect"]))
    message.pre_approved_tools.extend(options.get("pre_approved_tools", ()))
    return message


def parts(prompt: Prompt) -> list[Part]:
    """A prompt as the parts of a message."""
    listed = [prompt] if isinstance(prompt, str | Part) else prompt
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
        ValueError: The scope is not exactly one of a session, a run, or all sessions.
    """
    request = CancelRunsRequest(
        mode=_MODES[mode], turn_id=turn_id, rollback=rollback, unwind=unwind, wait=wait, hint=hint
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


def as_timedelta(value: Seconds) -> timedelta:
    """A span of time that was given in seconds, or as it is."""
    return value if isinstance(value, timedelta) else timedelta(seconds=value)

"""The shape of requests: one table of checks per message, all violations of a request in one answer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from turnkeeper.v1 import content_pb2, error_pb2, event_pb2, run_service_pb2, session_service_pb2, tool_service_pb2
from turnkeeper_service.errors import Reason, Refused, Violation
from turnkeeper_service.ids import is_id
from turnkeeper_service.providers.facts.media import MEDIA_TYPE
from turnkeeper_service.runs.accept.accept import fixed_by_target
from turnkeeper_service.tools.json_schema import BadSchemaError, validator

T = TypeVar("T")
Submission = run_service_pb2.Submission
MAX_LABELS = 64
MAX_TITLE = 200
MAX_STOPS = 16
MAX_REPROMPTS, MAX_REPROMPT_BYTES = 10, 10_000
MAX_SECONDS = 366 * 86_400
MAX_MEDIA_NAME, MAX_URI = 255, 8192


@dataclass(slots=True)
class Findings:
    """What is wrong with a request."""

    path: str = ""
    """Where the fields are, for example ``submission.``."""
    violations: list[Violation] = field(default_factory=list)
    reason: error_pb2.ErrorReason.ValueType = Reason.ERROR_REASON_UNSPECIFIED

    def add(
        self,
        path: str,
        description: str,
        reason: error_pb2.ErrorReason.ValueType = Reason.ERROR_REASON_INVALID_FIELD,
    ) -> None:
        """Note one violation; the first one names the reason."""
        self.violations.append(Violation(self.path + path, description))
        if not self.reason:
            self.reason = reason

    def attempt(self, check: Callable[[], T], otherwise: T) -> T:
        """What a check returns; where it refuses, that is noted like any other violation."""
        try:
            return check()
        except Refused as refused:
            self.violations.extend(refused.violations)
            self.reason = self.reason or refused.reason
            return otherwise

    def refuse(self) -> None:
        """Raise Refused if anything was found."""
        if self.violations:
            text = "; ".join(f"{one.field}: {one.description}" for one in self.violations)
            raise Refused(self.reason, text, violations=self.violations)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Numbers that requests are held to."""

    max_prompt_bytes: int = 4 << 20
    max_prompt_parts: int = 256
    max_system_prompt_bytes: int = 1 << 20
    max_output_schema_bytes: int = 32 << 10


WhyNoModel = Callable[[str], str]
"""Why there is no such model; empty where there is."""


class Validator:
    """Checks requests against the bounds and the models of this server."""

    def __init__(self, bounds: Bounds, why_no_model: WhyNoModel) -> None:
        self._bounds = bounds
        self._why_no_model = why_no_model

    def submission(self, message: Submission, path: str = "submission.") -> None:
        """Check a prompt; ``path`` is where the request holds it. Raises Refused."""
        found = Findings(path)
        check_text(found, message)
        check_id(found, "session_id", message.session_id)
        if message.run_id:
            check_id(found, "run_id", message.run_id)
        self._prompt(found, message)
        if message.delivery == event_pb2.DELIVERY_STEER:
            for name in fixed_by_target(message):
                found.add(name, "is not allowed with delivery STEER")
        if message.model:
            self._model(found, "model", message.model)
        check_parameters(found, "parameters.", message.parameters)
        if message.HasField("max_steps") and message.max_steps < 0:
            found.add("max_steps", "is negative")
        self._output(found, message)
        for name in ("start_timeout", "run_timeout"):
            if message.HasField(name):  # type: ignore[arg-type]
                check_duration(found, name, getattr(message, name))
        if message.on_disconnect.HasField("cancel_after"):
            check_duration(found, "on_disconnect.cancel_after", message.on_disconnect.cancel_after)
        preconditions = message.preconditions
        if preconditions.expected_open_run_id:
            check_id(found, "preconditions.expected_open_run_id", preconditions.expected_open_run_id)
        if preconditions.for_agent_id:
            check_id(found, "preconditions.for_agent_id", preconditions.for_agent_id)
        if preconditions.require_idle and preconditions.expected_open_run_id:
            found.add("preconditions.expected_open_run_id", "contradicts require_idle")
        found.refuse()

    def _prompt(self, found: Findings, message: Submission) -> None:
        size = 0
        is_empty = True
        for index, part in enumerate(message.prompt):
            kind = part.WhichOneof("part")
            size += part.ByteSize()
            if kind == "text":
                is_empty = is_empty and not part.text.text.strip()
            elif kind == "media":
                is_empty = False
                check_media(found, f"prompt[{index}].media", part.media)
            else:
                found.add(f"prompt[{index}]", "is neither text nor media")
        if is_empty and not found.violations:
            found.add("prompt", "has neither text nor media", Reason.ERROR_REASON_EMPTY_PROMPT)
        if len(message.prompt) > self._bounds.max_prompt_parts:
            found.add(
                "prompt",
                f"has {len(message.prompt)} parts; the most is {self._bounds.max_prompt_parts}",
                Reason.ERROR_REASON_PROMPT_TOO_LARGE,
            )
        if size > self._bounds.max_prompt_bytes:
            found.add(
                "prompt",
                f"has {size} bytes; the most is {self._bounds.max_prompt_bytes}",
                Reason.ERROR_REASON_PROMPT_TOO_LARGE,
            )

    def _output(self, found: Findings, message: Submission) -> None:
        schema, most = message.output_schema_json, self._bounds.max_output_schema_bytes
        if len(schema.encode()) > most:
            found.add("output_schema_json", f"is longer than {most} bytes")
        elif schema:
            try:
                validator(schema)
            except BadSchemaError as error:
                found.add("output_schema_json", str(error))
        for name in ("max_output_reprompts", "output_reprompt"):
            if getattr(message, name) and not schema:
                found.add(name, "goes with an output schema only")
        if not 0 <= message.max_output_reprompts <= MAX_REPROMPTS:
            found.add("max_output_reprompts", f"is not between 0 and {MAX_REPROMPTS}")
        if len(message.output_reprompt.encode()) > MAX_REPROMPT_BYTES:
            found.add("output_reprompt", f"is longer than {MAX_REPROMPT_BYTES} bytes")

    def settings(
        self, message: session_service_pb2.SessionSettings, path: str = "settings.", found: Findings | None = None
    ) -> None:
        """Check a session's settings, together with what was found before. Raises Refused."""
        found = found or Findings()
        check_text(found, message, path)
        if len(message.title) > MAX_TITLE:
            found.add(f"{path}title", f"is longer than {MAX_TITLE} characters")
        if len(message.system_prompt.encode()) > self._bounds.max_system_prompt_bytes:
            found.add(f"{path}system_prompt", f"is longer than {self._bounds.max_system_prompt_bytes} bytes")
        for name in ("model", "small_model"):
            model = getattr(message, name)
            if model:
                self._model(found, f"{path}{name}", model)
        check_parameters(found, f"{path}parameters.", message.parameters)
        if message.agent_id:
            check_id(found, f"{path}agent_id", message.agent_id)
        if message.HasField("max_steps") and message.max_steps < 0:
            found.add(f"{path}max_steps", "is negative")
        if message.HasField("run_timeout"):
            check_duration(found, f"{path}run_timeout", message.run_timeout)
        if len(message.labels) > MAX_LABELS:
            found.add(f"{path}labels", f"has more than {MAX_LABELS} entries")
        for key, value in message.labels.items():
            if not is_id(key):
                found.add(f"{path}labels", f"the key {key[:40]!r} is not an id")
            if len(value.encode()) > 1024:
                found.add(f"{path}labels[{key}]", "is longer than 1024 bytes")
        found.refuse()

    def _model(self, found: Findings, path: str, model: str) -> None:
        if why := self._why_no_model(model):
            found.add(path, why, Reason.ERROR_REASON_UNKNOWN_MODEL)


def check_id(found: Findings, path: str, value: str) -> None:
    """An id has to match the one shape of ids."""
    if not is_id(value):
        shown = "is missing" if not value else "is not 1 to 128 of the characters A-Z a-z 0-9 . _ : -"
        found.add(path, shown, Reason.ERROR_REASON_INVALID_ID)


def require_id(path: str, value: str) -> str:
    """The id. Raises Refused INVALID_ID."""
    found = Findings()
    check_id(found, path, value)
    found.refuse()
    return value


def check_media(found: Findings, path: str, media: content_pb2.Media) -> None:
    """Media has a type that can be sent on, and either its bytes or an address that a vendor can fetch."""
    if not media.mime_type:
        found.add(f"{path}.mime_type", "is missing")
    elif MEDIA_TYPE.fullmatch(media.mime_type) is None:
        found.add(f"{path}.mime_type", "is not a media type such as image/png")
    if len(media.name) > MAX_MEDIA_NAME:
        found.add(f"{path}.name", f"is longer than {MAX_MEDIA_NAME} characters")
    if bool(media.data) == bool(media.uri):
        found.add(path, "has to have either data or a uri")
    if media.uri and not media.uri.startswith("https://"):
        found.add(f"{path}.uri", "is not https")
    elif len(media.uri) > MAX_URI:
        found.add(f"{path}.uri", f"is longer than {MAX_URI} characters")


def check_duration(found: Findings, path: str, value: Duration) -> None:
    """A duration has to be well formed, not negative, and not longer than a year."""
    if value.seconds < 0 or not 0 <= value.nanos < 1_000_000_000 or value.seconds > MAX_SECONDS:
        found.add(path, "is not a duration between 0 and a year")


_RANGES: dict[str, tuple[float, float]] = {
    "max_output_tokens": (1, 2**31 - 1),
    "temperature": (0, 2),
    "top_p": (1e-9, 1),
    "top_k": (1, 2**31 - 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
}


def check_parameters(found: Findings, path: str, parameters: content_pb2.ModelParameters) -> None:
    """Parameters of model calls have to be in their ranges."""
    for name, (least, most) in _RANGES.items():
        if parameters.HasField(name):  # type: ignore[arg-type]
            value = getattr(parameters, name)
            if math.isnan(value) or not least <= value <= most:
                found.add(f"{path}{name}", f"is not between {least:g} and {most:g}")
    if len(parameters.stop) > MAX_STOPS:
        found.add(f"{path}stop", f"has more than {MAX_STOPS} entries")
    if any(not stop for stop in parameters.stop):
        found.add(f"{path}stop", "has an empty entry")


TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_tool(found: Findings, path: str, tool: tool_service_pb2.Tool) -> None:
    """An offered tool has a name that models take and a schema that is one."""
    if TOOL_NAME.fullmatch(tool.name) is None:
        found.add(f"{path}name", "is not 1 to 64 of the characters A-Z a-z 0-9 _ -")
    if tool.input_schema_json:
        try:
            schema = json.loads(tool.input_schema_json)
        except (ValueError, RecursionError):
            schema = None
        if not isinstance(schema, dict) or schema.get("type", "object") != "object":
            found.add(f"{path}input_schema_json", "is not a JSON Schema of an object")
    if tool.HasField("timeout"):
        check_duration(found, f"{path}timeout", tool.timeout)


def check_text(found: Findings, message: Message, path: str = "") -> None:
    """No text holds NUL, and no enum has a value that this server does not know, at any depth."""
    for descriptor, value in message.ListFields():
        name = f"{path}{descriptor.name}"
        if descriptor.type == FieldDescriptor.TYPE_STRING:
            texts = value if descriptor.is_repeated else [value]
            if any("\0" in text for text in texts):
                found.add(name, "holds a NUL character")
        elif descriptor.type == FieldDescriptor.TYPE_ENUM and not descriptor.is_repeated:
            if descriptor.enum_type is not None and value not in descriptor.enum_type.values_by_number:
                found.add(name, f"the value {value} is not known")
        elif descriptor.type == FieldDescriptor.TYPE_MESSAGE:
            if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
                if any("\0" in str(key) or "\0" in str(item) for key, item in value.items()):
                    found.add(name, "holds a NUL character")
                for key, item in value.items():
                    if isinstance(item, Message):
                        check_text(found, item, f"{name}[{str(key)[:40]}].")
            elif descriptor.is_repeated:
                for index, item in enumerate(value):
                    check_text(found, item, f"{name}[{index}].")
            else:
                check_text(found, value, f"{name}.")

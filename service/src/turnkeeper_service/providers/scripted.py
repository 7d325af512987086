"""A deterministic provider for demos, tests and load; it opens no connection.

Models:

- ``echo`` answers with the text of the last user message, word by word.
- ``lorem`` answers with 64 words, or with as many as ``lorem-N`` names.
- ``file:PATH`` answers from a JSON script under `ProviderOptions.script_root`: ``{"replies": [REPLY, ...]}``. Which
  reply is taken depends on the request alone: as many as the conversation holds assistant messages are passed over,
  the last one repeats.

A last user message of ``echo`` or ``lorem`` that is one JSON object (and nothing else) is a directive: a REPLY itself.
A directive with ``"replies"`` is a script of its own, its replies taken for the steps after that user message.

REPLY, every field optional:

- ``text``, ``reasoning``: a string (split into words) or a list of tokens; reasoning comes first.
- ``tokens``: so many numbered words, where ``text`` is not given.
- ``tool_calls``: list of ``{"name", "arguments" (an object, or a string sent as it is), "id"}``.
- ``pace_ms``: pause before each token, on the provider's clock.
- ``gate``: a gate to wait at before the first token; ``gate_after``: before the token with this number instead.
- ``fail``: a `FailureReason` to fail with; ``fail_after``: after so many tokens, 0 if not given.
- ``retry_after``, ``status``, ``retryable``, ``overflow`` (the context is too long): what the failure says;
  ``fail_usage``: the counts that it reports, like ``usage``.
- ``attempts``: list of REPLYs for the first calls of the step, before this one is given. They are counted per session,
  model and step.
- ``by_model``: object of REPLYs that are given instead of this one for calls to the models that it names.
- ``hang``: if true, never end: silence after the tokens.
- ``finish``: ``end_turn``, ``tool_use``, ``max_tokens``, ``content_filter`` or ``other``.
- ``usage``: ``{"input_tokens": ..., "output_tokens": ...}`` and the other names of the Usage message; without it, words
  are counted. ``null`` sends none.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import (
    Clock,
    FailureReason,
    ModelEvent,
    ModelFinished,
    ModelRequest,
    PartKind,
    ProviderError,
)
from turnkeeper_service.providers.formats.assembly import OpenPart, PartAssembler
from turnkeeper_service.providers.gates import Gates

from .counts import MAX_COUNT

DEFAULT_TOKENS = 64
MAX_COUNTED = 1_000
"""Steps whose calls are counted; of more, the one that was called first is forgotten."""


class ToolCallScript(msgspec.Struct, forbid_unknown_fields=True):
    """A call that a reply makes."""

    name: str
    arguments: dict[str, Any] | str = msgspec.field(default_factory=dict)
    id: str = ""


Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)] | None


class UsageScript(msgspec.Struct, forbid_unknown_fields=True):
    """Counts that a reply claims."""

    input_tokens: Count = None
    output_tokens: Count = None
    cache_read_tokens: Count = None
    cache_write_tokens: Count = None
    reasoning_tokens: Count = None

    def counted(self) -> content_pb2.Usage:
        """As a provider reports it."""
        usage = content_pb2.Usage(num_calls=1)
        for name, value in msgspec.structs.asdict(self).items():
            if value is not None:
                setattr(usage, name, value)
        return usage


class Reply(msgspec.Struct, forbid_unknown_fields=True):
    """One answer; see the module."""

    text: str | list[str] | None = None
    reasoning: str | list[str] = ""
    tokens: int | None = None
    tool_calls: list[ToolCallScript] = []
    pace_ms: float = 0
    gate: str = ""
    gate_after: int = 0
    fail: FailureReason | None = None
    fail_after: int = 0
    status: int | None = None
    retryable: bool = False
    retry_after: float | None = None
    overflow: bool = False
    fail_usage: UsageScript | None = None
    hang: bool = False
    finish: str = ""
    usage: UsageScript | msgspec.UnsetType | None = msgspec.UNSET
    attempts: list[Reply] = []
    by_model: dict[str, Reply] = {}


class Script(msgspec.Struct, forbid_unknown_fields=True):
    """Replies in the order of the steps."""

    replies: list[Reply]

    def at(self, step: int) -> Reply:
        """The reply of a step; the last one repeats."""
        return self.replies[min(step, len(self.replies) - 1)] if self.replies else Reply(text="")


class ScriptedProvider:
    """See the module. Counts what is open, for tests that look at it from outside."""

    def __init__(self, clock: Clock, gates: Gates | None = None, script_root: Path | None = None) -> None:
        self.gates = gates if gates is not None else Gates()
        self.num_open = 0
        """Calls that are open now."""
        self.max_open = 0
        """The most that were ever open at once."""
        self.num_calls = 0
        """Calls so far."""
        self._clock = clock
        self._script_root = (script_root or Path()).resolve()
        self._scripts: dict[str, Script] = {}
        self._attempts: OrderedDict[tuple[str, str, bytes, int], int] = OrderedDict()

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Open the call; see `turnkeeper_service.providers.base.Provider`."""
        self.num_calls += 1
        self.num_open += 1
        self.max_open = max(self.max_open, self.num_open)
        try:
            reply = await self._reply(request)
            async with aclosing(self._play(reply, request)) as events:
                yield events
        finally:
            self.num_open -= 1

    async def close(self) -> None:
        """Release connections. Idempotent."""

    async def _reply(self, request: ModelRequest) -> Reply:
        if request.model.startswith("file:"):
            script, step = await self._load(request.model.removeprefix("file:")), _num_answers(request)
            return self._attempt(script.at(step), request, "", step)
        prompt, num_since = _conversation(request)
        if prompt.startswith("{") and prompt.endswith("}"):
            directive = _directive(prompt)
            if directive is not None:
                return self._attempt(directive.at(num_since), request, prompt, num_since)
        name, _, count = request.model.partition("-")
        if name == "echo" and not count:
            return Reply(text=prompt)
        if name == "lorem" and (not count or count.isdigit()):
            return Reply(tokens=int(count or DEFAULT_TOKENS))
        raise ProviderError(
            FailureReason.PROVIDER_REFUSED,
            "Unknown model",
            f"No scripted model is called {request.model!r}.",
            status=404,
        )

    def _attempt(self, reply: Reply, request: ModelRequest, prompt: str, step: int) -> Reply:
        """The reply to this call of a step: only those that say so depend on the calls before."""
        reply = reply.by_model.get(request.model, reply)
        if not reply.attempts:
            return reply
        key = (request.session_hash, request.model, hashlib.sha256(prompt.encode()).digest(), step)
        count = self._attempts.get(key, 0)
        self._attempts[key] = count + 1
        if len(self._attempts) > MAX_COUNTED:
            self._attempts.popitem(last=False)
        return reply.attempts[count] if count < len(reply.attempts) else reply

    async def _load(self, name: str) -> Script:
        script = self._scripts.get(name)
        if script is None:
            path = (self._script_root / name).resolve()
            try:
                if not path.is_relative_to(self._script_root):
                    raise OSError("outside the folder of scripts")
                content = await asyncio.to_thread(path.read_bytes)
                script = msgspec.json.decode(content, type=Script)
            except (OSError, msgspec.MsgspecError, ValueError) as error:
                reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
                raise ProviderError(
                    FailureReason.PROVIDER_REFUSED, "Script not usable", f"{name}: {reason}", status=404
                ) from None
            self._scripts[name] = script
        return script

    async def _play(self, reply: Reply, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        parts = PartAssembler()
        num_tokens = 0
        reasoning = [(PartKind.REASONING, token) for token in _tokens(reply.reasoning)]
        words = [(PartKind.TEXT, token) for token in _text(reply)]
        for kind, token in [*reasoning, *words]:
            await self._before(reply, num_tokens)
            parts.text(kind, token)
            num_tokens += 1
            for event in parts.take():
                yield event
        await self._before(reply, num_tokens, is_end=True)
        for call in reply.tool_calls:
            part = parts.open(OpenPart(PartKind.TOOL_CALL, call.name, call.id))
            arguments = call.arguments
            parts.append(part, arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode())
            parts.close(part)
        for event in parts.take():
            yield event
        if reply.hang:
            await asyncio.get_running_loop().create_future()
        parts.finish()
        for event in parts.take():
            yield event
        yield ModelFinished(
            _finish_reason(reply), reply.finish or "stop", _usage(reply, request, num_tokens, len(reasoning))
        )

    async def _before(self, reply: Reply, num_tokens: int, *, is_end: bool = False) -> None:
        """Everything that may happen before a token, or before the end."""
        if reply.gate and (num_tokens == reply.gate_after or (is_end and num_tokens < reply.gate_after)):
            await self.gates.wait(reply.gate)
        if reply.fail and (num_tokens == reply.fail_after or (is_end and num_tokens < reply.fail_after)):
            raise ProviderError(
                reply.fail,
                "Scripted failure",
                f"The script fails after {num_tokens} tokens.",
                status=reply.status,
                is_retryable=reply.retryable,
                retry_after=reply.retry_after,
                usage=reply.fail_usage.counted() if reply.fail_usage is not None else None,
                is_context_overflow=reply.overflow,
            )
        if reply.pace_ms > 0 and not is_end:
            await self._clock.sleep(reply.pace_ms / 1000)


def _num_answers(request: ModelRequest) -> int:
    return sum(message.role == content_pb2.ROLE_ASSISTANT for message in request.messages)


def _conversation(request: ModelRequest) -> tuple[str, int]:
    """The last user text, and how many answers there are since. Looks no further back, however long the history is.

    What the server says of an answer is not the user's: a script goes on with its next reply.
    """
    num_since = 0
    for message in reversed(request.messages):
        if message.role == content_pb2.ROLE_ASSISTANT:
            num_since += 1
        elif message.role == content_pb2.ROLE_USER and message.origin != content_pb2.MESSAGE_ORIGIN_OUTPUT_INVALID:
            return "".join(part.text.text for part in message.parts).strip(), num_since
    return "", num_since


def _directive(prompt: str) -> Script | None:
    try:
        if '"replies"' in prompt:
            return msgspec.json.decode(prompt, type=Script)
        return Script([msgspec.json.decode(prompt, type=Reply)])
    except msgspec.MsgspecError:
        # Any other JSON is just what the user said.
        return None


def _text(reply: Reply) -> list[str]:
    if reply.text is not None:
        return _tokens(reply.text)
    if reply.tokens is not None:
        return [f"w{number} " for number in range(reply.tokens)]
    return []


def _tokens(text: str | list[str]) -> list[str]:
    """Words with the spaces behind them, so that joining gives the text again."""
    if isinstance(text, list):
        return text
    words = text.split(" ")
    return [word + " " for word in words[:-1]] + ([words[-1]] if words[-1] else [])


def _finish_reason(reply: Reply) -> content_pb2.FinishReason.ValueType:
    name = reply.finish or ("tool_use" if reply.tool_calls else "end_turn")
    try:
        return content_pb2.FinishReason.Value("FINISH_REASON_" + name.upper())
    except ValueError:
        return content_pb2.FINISH_REASON_OTHER


def _usage(reply: Reply, request: ModelRequest, num_tokens: int, num_reasoning: int) -> content_pb2.Usage:
    usage = content_pb2.Usage(num_calls=1)
    if reply.usage is None:
        return usage
    if isinstance(reply.usage, UsageScript):
        return reply.usage.counted()
    usage.input_tokens = sum(
        len(part.text.text.split()) for message in request.messages for part in message.parts if part.HasField("text")
    )
    usage.output_tokens = num_tokens
    if num_reasoning:
        usage.reasoning_tokens = num_reasoning
    return usage

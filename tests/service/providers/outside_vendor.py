"""Vendors that say what their documents do not: streams made by hand, and a server between them and a client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.upstream import Answer, Upstream
from tests.service.harness import Harness, load_settings, serving
from tests.service.providers.test_splits import WIRE_FORMATS
from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.tools.functions import FunctionTool

CHAT, RESPONSES, MESSAGES, GEMINI = "openai-chat", "openai-responses", "anthropic-messages", "gemini"
COMPLETED, FAILED = event_pb2.OUTCOME_STATUS_COMPLETED, event_pb2.OUTCOME_STATUS_FAILED
DONE = "data: [DONE]\n\n"
assert sorted(WIRE_FORMATS) == sorted([CHAT, RESPONSES, MESSAGES, GEMINI])


def sse(*chunks: object) -> str:
    """Events with these data; what is no string is JSON."""
    return "".join(f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n" for one in chunks)


def chat(*deltas: Mapping[str, Any], reason: object = "stop", **last: Any) -> str:
    """Chunks with these deltas; the last one ends the answer, and carries more fields."""
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], **last}
    return sse(*chunks, end) + DONE


def messages(*blocks: Sequence[Mapping[str, Any]], reason: str = "end_turn", usage: object = None) -> str:
    """Blocks, each as its start and its deltas, numbered from 0."""
    found: list[dict[str, Any]] = [{"type": "message_start", "message": {"id": "msg-1", "content": []}}]
    for index, (start, *deltas) in enumerate(blocks):
        found.append({"type": "content_block_start", "index": index, "content_block": start})
        found += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        found.append({"type": "content_block_stop", "index": index})
    found.append({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage})
    found.append({"type": "message_stop"})
    return sse(*found)


def block(text: str) -> list[dict[str, Any]]:
    """A text, as a start and a delta."""
    return [{"type": "text", "text": ""}, {"type": "text_delta", "text": text}]


def responses(*items: Mapping[str, Any], status: str = "completed", **more: Any) -> str:
    """Items, each whole, and the end."""
    done = [
        {"type": "response.output_item.done", "output_index": index, "item": item} for index, item in enumerate(items)
    ]
    end = {"type": f"response.{status}", "response": {"id": "resp-1", "status": status, "output": items, **more}}
    return sse(*done, end)


def item(text: str) -> dict[str, Any]:
    """A message of one text."""
    return {"type": "message", "id": "m", "content": [{"type": "output_text", "text": text}]}


def gemini(*parts: Mapping[str, Any], reason: str | None = "STOP", **more: Any) -> str:
    """One chunk for each part; the last one ends the answer."""
    chunks: list[dict[str, Any]] = [{"candidates": [{"content": {"parts": [part]}}]} for part in parts]
    return sse(*chunks, {"candidates": [{"finishReason": reason}], **more})


PLAIN: dict[str, str] = {
    CHAT: chat({"content": "real"}),
    RESPONSES: responses(item("real")),
    MESSAGES: messages(block("real")),
    GEMINI: gemini({"text": "real"}),
}
"""A good answer in each format: the text ``real``."""


@dataclass(frozen=True)
class Seen:
    """What became of a run."""

    outcome: event_pb2.Outcome
    messages: Sequence[content_pb2.Message]
    """Those of the run."""
    noted: Sequence[str]
    """What the tool ``note`` was called with."""
    num_asked: int
    """Requests that the vendor got."""
    waits: Sequence[float]
    """Seconds before each request that was made again."""

    @property
    def error(self) -> event_pb2.RunError:
        """The last error."""
        return self.outcome.errors[-1]

    @property
    def reasoning(self) -> str:
        """All reasoning."""
        return "".join(part.reasoning.text for one in self.messages for part in one.parts)

    @property
    def results(self) -> list[str]:
        """What the calls of tools came to."""
        found = [part.tool_result for one in self.messages for part in one.parts if part.HasField("tool_result")]
        return ["".join(inner.text.text for inner in result.content) for result in found]


@dataclass(frozen=True)
class Case:
    """What a vendor answers, and what is right then: the text ``real``, unless another is said."""

    answers: Sequence[Answer | str]
    """One for each request; a string is a body."""
    text: str = "real"
    reason: str = "ANSWERED"
    says: str = ""
    """The vendor's words, somewhere in the error's detail."""
    noted: Sequence[str] = ()
    num_asked: int | None = None
    """Requests; None: as many as answers."""
    check: Callable[[Seen], bool] = field(default=lambda _: True)
    retries: int = 0
    has_past: bool = False
    """Whether the session has a long history."""
    session: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the session."""

    def faults(self, seen: Seen) -> list[str]:
        """What is not right."""
        outcome = seen.outcome
        reason = event_pb2.OutcomeReason.Name(outcome.reason).removeprefix("OUTCOME_REASON_")
        detail = outcome.errors[-1].detail if outcome.errors else ""
        found = {
            "reason": (reason, self.reason),
            "text": (outcome.text, self.text),
            "noted": (list(seen.noted), list(self.noted)),
            "asked": (seen.num_asked, len(self.answers) if self.num_asked is None else self.num_asked),
        }
        faults = [f"{name}: {got!r} is not {want!r} ({detail})" for name, (got, want) in found.items() if got != want]
        if self.says not in detail:
            faults.append(f"the detail lacks {self.says!r}: {detail!r}")
        if not self.check(seen):
            faults.append(f"check: {outcome} {seen.messages} {seen.noted}")
        return faults


def ok(body: Answer | str, **more: Any) -> Case:
    """One answer."""
    return Case([body], **more)


def failed(body: Answer | str, reason: str, says: str = "", **more: Any) -> Case:
    """One answer that is a failure."""
    return Case([body], text=more.pop("text", ""), reason=reason, says=says, **more)


class OutsideServer:
    """A server with one provider per wire format, all of them at one vendor."""

    def __init__(self, server: Harness, vendor: Upstream, noted: list[str]) -> None:
        self.server = server
        self.vendor = vendor
        self._noted = noted
        self._number = 0
        self.session_id = ""
        """The session of the last run."""

    async def run(
        self,
        wire_format: str,
        answers: Sequence[Answer | str],
        text: str = "hello",
        *,
        is_new: bool = True,
        schema: str = "",
        **settings: Any,
    ) -> Seen:
        """Submit a prompt to a new session of this format's model, or to the one before."""
        self._number += 1
        run_id = f"r{self._number}"
        before, noted = len(self.vendor.requests), len(self._noted)
        self.vendor.plan(*(Answer.of(one) if isinstance(one, str) else one for one in answers))
        if is_new:
            self.session_id = f"s{self._number}"
            await self.server.session(self.session_id, model=f"{wire_format}/m", **settings)
        session_id = self.session_id
        await self.server.submit(session_id, text, run_id, output_schema_json=schema)
        outcome = (await self.server.terminals(session_id, [run_id]))[run_id]
        said = [one for one in await self.server.messages(session_id) if one.run_id == run_id]
        scheduled = [
            event.retry_scheduled.delay.ToNanoseconds() / 1e9
            for event in await self.server.history(session_id)
            if event.run_id == run_id and event.HasField("retry_scheduled")
        ]
        return Seen(outcome, said, self._noted[noted:], len(self.vendor.requests) - before, scheduled)


@asynccontextmanager
async def outside_server(data_dir: Path, **overrides: str) -> AsyncIterator[OutsideServer]:
    """The server, with the tool ``note``."""
    noted: list[str] = []

    async def note(text: str = "") -> str:
        noted.append(text)
        return "noted"

    tool = FunctionTool(note, name="note").offered()
    async with Upstream() as vendor:
        settings = {"retries.first_delay_seconds": "0.001", "retries.jitter": "0", **overrides}
        for name in WIRE_FORMATS:
            settings |= {f"providers.{name}.format": name, f"providers.{name}.base_url": vendor.base_url}
        async with serving(data_dir, settings=load_settings(data_dir, **settings), tools={"note": tool}) as server:
            yield OutsideServer(server, vendor, noted)

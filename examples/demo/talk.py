"""One session of the caller: a `Converse` stream over as many connections as it takes, noted and told as it comes."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from collections.abc import Callable
from types import TracebackType
from typing import Self

from turnkeeper import (
    Backoff,
    Client,
    Delta,
    Event,
    Outcome,
    OutcomeReason,
    OutcomeStatus,
    RunReceipt,
    SessionSettings,
    Snapshot,
)

from .record import Record, Shown, Submitted

LINE = 76
# A killed server is looked for often: the demo shows how a conversation goes on, not how patient a client is.
BACKOFF = Backoff(initial=0.1, maximum=0.4)


def tell(session: str, run: str, what: str, text: str = "") -> None:
    """A line of the timeline, for the director."""
    sys.stdout.write(json.dumps({"who": session, "run": run, "what": what, "text": text}) + "\n")
    sys.stdout.flush()


def cue(name: str) -> None:
    """Ask the director to do something to the server."""
    sys.stdout.write(json.dumps({"cue": name}) + "\n")
    sys.stdout.flush()


def outcome_name(outcome: Outcome) -> str:
    """A status as a word: COMPLETED, CANCELLED, FAILED, FOLDED or EXPIRED."""
    return OutcomeStatus.Name(outcome.status).removeprefix("OUTCOME_STATUS_")


class Talk:
    """A conversation. Use it as `async with`."""

    def __init__(self, client: Client, session_id: str, settings: SessionSettings, record: Record) -> None:
        self.session_id = session_id
        self.outcomes: dict[str, Outcome] = {}
        """How runs ended, as their terminals arrived."""
        self.length: dict[str, int] = {}
        """How many characters of a run's answer have been shown, all attempts together."""
        self.asked: set[str] = set()
        """Runs that waited, or wait, for somebody's leave."""
        self.conversation = client.converse(session_id, after_seq=0, create_with=settings)
        self._record = record
        self._events: list[Event] = record.events.setdefault(session_id, [])
        self._texts: dict[tuple[str, int], dict[int, str]] = {}
        self._untold: dict[str, str] = {}
        self._executors: dict[str, str] = {}
        self._called: set[str] = set()
        self._changed = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.conversation.__aenter__()
        self._reading = asyncio.create_task(self._read(), name=f"reader of {self.session_id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._reading is not None
        if kind is None:
            # Nothing more to say: the stream ends by itself when all runs have their terminals.
            self.conversation.finish()
            await self._reading
        self._reading.cancel()
        await asyncio.wait([self._reading])
        await self.conversation.close()
        for (message_id, attempt), parts in self._texts.items():
            text = "".join(part for _, part in sorted(parts.items()))
            self._record.shown.append(Shown(message_id, attempt, text))

    async def prompt(self, run_id: str, text: str, *, steer: bool = False, expected: str = "COMPLETED") -> RunReceipt:
        """Submit a prompt and note what is expected of it; `expected` lists outcomes by `|`."""
        receipt = await self.conversation.submit(text, run_id=run_id, delivery="steer" if steer else "queue")
        self._record.submitted.append(
            Submitted(run_id, self.session_id, text, receipt.accept_sequence, expected.split("|"))
        )
        return receipt

    async def ended(self, *run_ids: str) -> None:
        """Wait for the terminals of runs."""
        await self.until(lambda: all(run_id in self.outcomes for run_id in run_ids))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something about what was shown is so. Raises what ended the conversation before."""
        assert self._reading is not None
        while not condition():
            if self._reading.done():
                self._reading.result()
                raise RuntimeError(f"the conversation of {self.session_id} is over")
            self._changed.clear()
            await self._changed.wait()

    async def _read(self) -> None:
        try:
            async for item in self.conversation.items():
                if isinstance(item, Event):
                    self._note_event(item)
                elif isinstance(item, Delta):
                    self._note_delta(item)
                else:
                    self._note_snapshot(item)
                self._changed.set()
        finally:
            self._changed.set()

    def _note_delta(self, delta: Delta) -> None:
        if delta.tool_input:
            return
        if delta.text:
            parts = self._texts.setdefault((delta.message_id, delta.attempt), {})
            parts[delta.part] = parts.get(delta.part, "") + delta.text
            self.length[delta.run_id] = self.length.get(delta.run_id, 0) + len(delta.text)
        what, other = ("says", "thinks") if delta.text else ("thinks", "says")
        self._flush(delta.run_id, other)
        self._tell_text(delta.run_id, what, delta.text or delta.reasoning)

    def _note_snapshot(self, snapshot: Snapshot) -> None:
        texts = {part.part: part.text for part in snapshot.parts if part.text}
        self._texts[(snapshot.message_id, snapshot.attempt)] = texts
        self.length[snapshot.run_id] = sum(map(len, texts.values()))

    def _tell_text(self, run_id: str, what: str, more: str) -> None:
        """Tell an answer line by line, as it grows."""
        text = self._untold.pop(f"{run_id} {what}", "") + more
        *whole, rest = text.split("\n")
        lines = [line for paragraph in whole for line in textwrap.wrap(paragraph, LINE)]
        if len(rest) > LINE:
            *more_lines, rest = textwrap.wrap(rest, LINE, drop_whitespace=False)
            lines += more_lines
        for line in lines:
            tell(self.session_id, run_id, what, line.strip())
        if rest:
            self._untold[f"{run_id} {what}"] = rest

    def _flush(self, run_id: str, *kinds: str) -> None:
        for what in kinds or ("thinks", "says"):
            if rest := self._untold.pop(f"{run_id} {what}", "").strip():
                tell(self.session_id, run_id, what, rest)

    def _note_event(self, event: Event) -> None:
        self._events.append(event)
        run = event.run_id
        match event.WhichOneof("payload"):
            case "run_accepted":
                tell(self.session_id, run, "accepted", event.run_accepted.prompt[0].text.text)
            case "run_queued":
                tell(self.session_id, run, "queued", f"{event.run_queued.position} ahead")
            case "run_started":
                tell(self.session_id, run, "started", event.run_started.model)
            case "step_started" if event.step_started.step > 1:
                why = "the model gets the results" if run in self._called else "the answer stays, and goes on"
                tell(self.session_id, run, f"step {event.step_started.step}", why)
            case "tool_call_requested":
                call = event.tool_call_requested.tool_call
                self._called.add(run)
                # Ids of calls are unique in their message only.
                self._executors.pop(call.tool_call_id, None)
                tell(self.session_id, run, "calls", f"{call.name} {call.arguments_json}")
            case "tool_call_started":
                started = event.tool_call_started
                self._executors[started.tool_call_id] = f"in the {'server' if started.lease_id == '' else 'caller'}"
            case "tool_call_finished" | "tool_call_skipped" | "tool_call_cancelled" as name:
                result = getattr(event, name).result
                where = self._executors.get(result.tool_call_id, "not run")
                said = " ".join(part.text.text for part in result.content)
                tell(self.session_id, run, "result", f"{result.name}, {where}: {textwrap.shorten(said, LINE)}")
            case "approval_requested":
                self.asked.add(run)
                tell(self.session_id, run, "asks", f"may it {event.approval_requested.tool_call.name}? It waits.")
            case "approval_resolved":
                resolved = event.approval_resolved
                tell(self.session_id, run, "answered", "yes" if resolved.is_allowed else f"no, {resolved.comment}")
            case "attempt_discarded":
                void = event.attempt_discarded
                self._untold.clear()
                tell(self.session_id, run, "void", f"attempt {void.attempt}, {void.cause}: the answer begins again")
            case "message_committed":
                self._flush(run)
            case "run_cancel_requested":
                tell(self.session_id, run, "cancel", "covers it")
            case "run_finished":
                self._flush(run)
                outcome = event.run_finished.outcome
                self.outcomes[run] = outcome
                tell(self.session_id, run, outcome_name(outcome), _about(outcome))


def _about(outcome: Outcome) -> str:
    if outcome.fold.into_run_id:
        return f"into {outcome.fold.into_run_id}, step {outcome.fold.step}"
    errors = "".join(f": {error.title}, {error.detail}" for error in outcome.errors[-1:])
    return OutcomeReason.Name(outcome.reason).removeprefix("OUTCOME_REASON_").lower() + errors

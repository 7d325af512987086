"""Approvals: asked for durably, seen by every client of the session, answered once, with a default in the end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from turnkeeper.v1 import content_pb2, event_pb2, session_service_pb2
from turnkeeper_service.engine.approval import AskedBefore, Decision, Waiting
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.errors import Reason, Refused
from turnkeeper_service.ids import in_slot, short_id
from turnkeeper_service.process.clock import microseconds
from turnkeeper_service.runs.parts import Parts
from turnkeeper_service.runs.session.durable import durable
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.store.reading import reading

MINTED = re.compile(r"(?:s[0-9a-f]{3}\.)?approval-([0-9]{1,18})-[0-9a-f]+")
"""The id of an approval says where in its session's log it was asked for; older ones have no slot."""


@dataclass(eq=False, slots=True)
class Asked:
    """An approval that waits. ``deadline_us`` is wall clock."""

    approval_id: str
    run: Run
    call: content_pb2.ToolCall
    created_us: int
    deadline_us: int
    is_allowed_by_default: bool
    decided: asyncio.Future[Decision] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    is_answered: bool = False
    waiting: Waiting | None = None
    """Set while its turn waits for it."""
    is_due: asyncio.Future[None] | None = None
    """Resolves at its deadline, once its turn waits for it."""

    @property
    def waits(self) -> bool:
        """Whether it can be answered: it has not been, and its run goes on."""
        return not self.is_answered and not self.run.is_ending

    def decide(self, decision: Decision) -> None:
        """The decision is durable."""
        if not self.decided.done():
            self.decided.set_result(decision)

    def view(self) -> session_service_pb2.Approval:
        """As callers see it."""
        view = session_service_pb2.Approval(
            approval_id=self.approval_id,
            session_id=self.run.session.session_id,
            run_id=self.run.run_id,
            tool_call=self.call,
            is_allowed_by_default=self.is_allowed_by_default,
        )
        view.create_time.FromMicroseconds(self.created_us)
        view.deadline.FromMicroseconds(self.deadline_us)
        return view


class ApprovalDesk:
    """All approvals that wait."""

    def __init__(self, parts: Parts, *, timeout: float, is_allowed_by_default: bool) -> None:
        self._parts = parts
        self._timeout = timeout
        self._default = is_allowed_by_default
        self._asked: dict[tuple[str, str], dict[str, Asked]] = {}
        """By session and id."""

    def of(self, tenant: str, session_id: str, after_seq: int) -> Iterator[tuple[int, session_service_pb2.Approval]]:
        """The approvals of a session that wait, asked for after a seq, in their order, each with its seq."""
        of_session = self._asked.get((tenant, session_id), {}).values()
        waiting = [(_seq_of(asked.approval_id), asked) for asked in of_session if asked.waits]
        for seq, asked in sorted(waiting, key=lambda one: one[0]):
            if seq > after_seq:
                yield seq, asked.view()

    async def ask(
        self, run: Run, turn_id: str, call: content_pb2.ToolCall, recovered: AskedBefore | None, waiting: Waiting
    ) -> Decision:
        """Ask for leave, or go on asking after a restart."""
        if recovered is not None and recovered.decision is not None:
            return recovered.decision
        if recovered is not None:
            asked = self.restore(run, call, recovered)
            if not asked.is_answered:
                self._wait(asked, waiting, None)
        else:
            asked = await self._request(run, turn_id, call, waiting)
        try:
            if asked.is_due is not None:
                either: set[asyncio.Future[Any]] = {asked.decided, asked.is_due}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                self._expire(asked, turn_id)
            return await asked.decided
        finally:
            asked.waiting = None
            self._remove(asked)

    async def _request(self, run: Run, turn_id: str, call: content_pb2.ToolCall, waiting: Waiting) -> Asked:
        """Ask; anybody can answer as soon as it is durable."""
        now = microseconds(self._parts.clock.time())
        approval_id = in_slot(run.session.slot, short_id(f"approval-{run.session.last_seq + 1}"))
        asked = Asked(approval_id, run, call, now, now + microseconds(self._timeout), self._default)
        draft = run.session.draft()
        event = event_pb2.Event(run_id=run.run_id, turn_id=turn_id, context_id=run.session.context.context_id)
        event.approval_requested.approval_id = asked.approval_id
        event.approval_requested.tool_call.CopyFrom(call)
        event.approval_requested.deadline.FromMicroseconds(asked.deadline_us)
        event.approval_requested.is_allowed_by_default = self._default
        draft.event(event)
        self._wait(asked, waiting, draft)
        draft.on_durable.append(lambda: self._add(asked))
        await run.session.submit(draft)
        return asked

    def _wait(self, asked: Asked, waiting: Waiting, draft: Draft | None) -> None:
        """Let its turn wait for it, until its deadline."""
        asked.waiting = waiting
        asked.is_due = waiting.begin(draft, max(0.0, asked.deadline_us / 1e6 - self._parts.clock.time()))

    def restore(self, run: Run, call: content_pb2.ToolCall, recovered: AskedBefore) -> Asked:
        """Let what a lost process had asked be answered, also before its turn goes on."""
        asked = Asked(
            recovered.approval_id,
            run,
            call,
            recovered.created_us,
            recovered.deadline_us,
            recovered.is_allowed_by_default,
        )
        known = self._asked.get(run.session.key, {}).get(recovered.approval_id)
        if known is None:
            self._add(asked)
        return known or asked

    def _add(self, asked: Asked) -> None:
        if asked.run.is_ending:
            # Its turn was cut before the question was durable.
            return
        self._asked.setdefault(asked.run.session.key, {})[asked.approval_id] = asked
        # Its turn may be cut before it waits.
        asked.run.finished.add_done_callback(lambda _: self._remove(asked))

    def _remove(self, asked: Asked) -> None:
        key = asked.run.session.key
        of_session = self._asked.get(key, {})
        of_session.pop(asked.approval_id, None)
        if not of_session:
            self._asked.pop(key, None)

    def _expire(self, asked: Asked, turn_id: str) -> None:
        if asked.waits and not self._parts.is_cut:
            self._resolve(asked, turn_id, Decision(asked.is_allowed_by_default))

    def _resolve(self, asked: Asked, turn_id: str, decision: Decision) -> asyncio.Future[None]:
        asked.is_answered = True
        draft = asked.run.session.draft()
        event = event_pb2.Event(
            run_id=asked.run.run_id, turn_id=turn_id, context_id=asked.run.session.context.context_id
        )
        resolved = event.approval_resolved
        resolved.approval_id, resolved.is_allowed = asked.approval_id, decision.is_allowed
        resolved.actor, resolved.comment = decision.actor, decision.comment
        draft.event(event)
        if asked.waiting is not None:
            asked.waiting.end(draft)
        draft.on_durable.append(lambda: asked.decide(decision))
        return asked.run.session.submit(draft)

    async def answer(
        self, tenant: str, actor: str, request: session_service_pb2.AnswerApprovalRequest
    ) -> session_service_pb2.Approval:
        """Answer an approval, once. Raises Refused APPROVAL_NOT_FOUND, APPROVAL_ANSWERED."""
        asked = self._asked.get((tenant, request.session_id), {}).get(request.approval_id)
        if self._parts.is_cut:
            # What waits here waits for the next process.
            raise self._parts.going_away()
        if asked is None or not asked.waits:
            if asked is None and not await self._was_asked(tenant, request):
                raise Refused(
                    Reason.ERROR_REASON_APPROVAL_NOT_FOUND,
                    f"no approval {request.approval_id!r}",
                    resource=("turnkeeper.dev/Approval", request.approval_id),
                )
            was = "has been answered" if asked is not None and asked.is_answered else "waits for no answer any more"
            raise Refused(Reason.ERROR_REASON_APPROVAL_ANSWERED, f"approval {request.approval_id!r} {was}")
        turn_id = asked.run.driven.turn_id if asked.run.driven is not None else ""
        decision = Decision(request.is_allowed, request.comment, actor)
        await durable(self._resolve(asked, turn_id, decision), self._parts.store)
        return asked.view()

    async def _was_asked(self, tenant: str, request: session_service_pb2.AnswerApprovalRequest) -> bool:
        """Whether the log has an approval that waits no more, whichever process asked for it."""
        seq = _seq_of(request.approval_id)
        if not seq:
            return False
        rows = await self._parts.store.read_events(tenant, request.session_id, after_seq=seq - 1, limit=1)
        with reading(f"the log of session {request.session_id}"):
            events = [event_pb2.Event.FromString(row.payload) for row in rows]
        return any(event.approval_requested.approval_id == request.approval_id for event in events)


def _seq_of(approval_id: str) -> int:
    """The seq of the event that asked for it, 0 if the id is none of ours."""
    minted = MINTED.fullmatch(approval_id)
    return int(minted[1]) if minted is not None else 0


class RunApprovals:
    """The engine's view of the desk, for one run."""

    def __init__(self, desk: ApprovalDesk, run: Run, turn_id: str) -> None:
        self._desk = desk
        self._run = run
        self._turn_id = turn_id

    async def ask(self, call: content_pb2.ToolCall, asked: AskedBefore | None, waiting: Waiting) -> Decision:
        """Wait for the decision."""
        return await self._desk.ask(self._run, self._turn_id, call, asked, waiting)

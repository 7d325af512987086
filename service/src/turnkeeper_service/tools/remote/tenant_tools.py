"""The calls of one tenant that run elsewhere: in a client, over its Converse stream, or in a worker, over ServeTools.

A call is handed out under a lease: one holder at a time, a deadline, one result. A holder whose stream is lost keeps
its leases for a grace time; if it comes back under its name it gets what it has not answered again, with the next
attempt. If it does not, a call that may be run again goes to another holder that offers the tool, else the call ends as
lost. A result without a live lease is late: it is reported and never applied.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from turnkeeper.v1 import content_pb2, tool_service_pb2
from turnkeeper_service.process.clock import Clock
from turnkeeper_service.tools.base import Invocation, Tool, ToolAnswer, synthetic_result

from .holders import Holders
from .leases import DEFAULT_GRACE, ClosedLeases, Holder, HolderKey, Lease, Link, Taken

MAX_AWAY = 1_000
"""Holders whose streams are lost and who are waited for; of more, the one that was lost first is given up."""
SAFE = tool_service_pb2.REPLAY_CLASS_SAFE


class TenantTools:
    """The holders and leases of one tenant. Nothing in it meets another's."""

    def __init__(self, clock: Clock) -> None:
        self.holders = Holders(clock)
        self._clock = clock
        self._leases: dict[str, Lease] = {}
        self._unheld: dict[tuple[str, str], dict[str, Lease]] = {}
        """Calls whose holders are all lost and waited for, by session and tool."""
        self._unheld_sessions: dict[str, set[str]] = {}
        """The sessions that have such calls, by tool."""
        self._closed = ClosedLeases()
        self._away: OrderedDict[HolderKey, Holder] = OrderedDict()
        self._is_closed = False

    # ---- holders

    def connect(
        self,
        holder: Holder,
        link: Link,
        tools: Sequence[Tool],
        *,
        grace: float | None,
        max_concurrent: int,
    ) -> None:
        """A stream offers tools. One that comes back under its name within its grace gets its open calls again."""
        self._is_back(holder)
        self.holders.add(holder)
        holder.link = link
        holder.grace = DEFAULT_GRACE if grace is None else grace
        holder.max_concurrent = max_concurrent or 16
        self.holders.offer(holder, tools)
        for lease in list(holder.leases.values()):
            self._hand_out(holder, lease)
        self._fill(holder)
        for lease in self._unheld_for(holder):
            self._is_held(lease)
            self._give(holder, lease)

    def disconnect(self, holder: Holder, link: Link) -> None:
        """A stream is lost. Harmless if the holder has a newer one."""
        if holder.link is not link:
            return
        holder.link = None
        if self._is_closed:
            return
        holder.timer = self._clock.call_later(holder.grace, lambda: self._lost(holder))
        self._away[holder.key] = holder
        if len(self._away) > MAX_AWAY:
            self._lost(next(iter(self._away.values())))

    def _is_back(self, holder: Holder) -> None:
        self._away.pop(holder.key, None)
        if holder.timer is not None:
            holder.timer.cancel()
            holder.timer = None

    def _lost(self, holder: Holder) -> None:
        """A holder did not come back in time."""
        self._is_back(holder)
        self.holders.remove(holder)
        for lease in [*holder.leases.values(), *holder.waiting.values()]:
            was_started = bool(lease.attempt)
            other = self.holders.find(lease.invocation.session_id, lease.tool)
            tool = holder.tools.get(lease.tool)
            if was_started and (tool is None or tool.replay_class != SAFE):
                text = f"the client that ran {lease.tool!r} was lost; whether it took effect is unknown"
                self._settle(lease, ToolAnswer(synthetic_result(lease.invocation.call, text)))
            elif other is not None:
                self._give(other, lease)
            else:
                self._settle(lease, _unserved(lease))
        holder.leases.clear()
        holder.waiting.clear()
        for lease in self._unheld_for(holder):
            if not self.holders.is_offered(lease.invocation.session_id, lease.tool):
                self._settle(lease, _unserved(lease))

    def _unheld_for(self, holder: Holder) -> list[Lease]:
        """The calls that wait for somebody, and that a holder could run."""
        found: list[Lease] = []
        for tool in holder.tools:
            waiting = self._unheld_sessions.get(tool, set())
            for session_id in [holder.session_id] if holder.session_id else list(waiting):
                found += self._unheld.get((session_id, tool), {}).values()
        return found

    def _wait_for_holder(self, lease: Lease) -> None:
        session_id = lease.invocation.session_id
        self._unheld.setdefault((session_id, lease.tool), {})[lease.invocation.lease_id] = lease
        self._unheld_sessions.setdefault(lease.tool, set()).add(session_id)

    def _is_held(self, lease: Lease) -> None:
        """A call waits no more for somebody who runs it."""
        key = (lease.invocation.session_id, lease.tool)
        waiting = self._unheld.get(key)
        if waiting is None:
            return
        waiting.pop(lease.invocation.lease_id, None)
        if waiting:
            return
        del self._unheld[key]
        sessions = self._unheld_sessions[lease.tool]
        sessions.discard(lease.invocation.session_id)
        if not sessions:
            del self._unheld_sessions[lease.tool]

    # ---- calls

    async def call(self, invocation: Invocation) -> ToolAnswer:
        """Hand out a call and wait for its result; cancelled, it is taken back."""
        lease = Lease(
            invocation, asyncio.get_running_loop().create_future(), invocation.call.name, attempt=invocation.attempt - 1
        )
        self._leases[invocation.lease_id] = lease
        session_id = invocation.session_id
        if invocation.holder:
            holder = self.holders.connected(session_id, invocation.holder)
        else:
            holder = self.holders.find(session_id, lease.tool)
        if holder is not None:
            self._give(holder, lease)
        elif not invocation.holder and self.holders.is_offered(session_id, lease.tool):
            self._wait_for_holder(lease)
        else:
            self._settle(lease, _unserved(lease))
        try:
            return await lease.answer
        finally:
            self._close(lease)

    def _give(self, holder: Holder, lease: Lease) -> None:
        lease.holder = holder
        lease.had.add(holder.key)
        if len(holder.leases) >= holder.max_concurrent:
            holder.waiting[lease.invocation.lease_id] = lease
        else:
            holder.leases[lease.invocation.lease_id] = lease
            self._hand_out(holder, lease)

    def _hand_out(self, holder: Holder, lease: Lease) -> None:
        lease.attempt += 1
        given = lease.invocation
        message = tool_service_pb2.ToolInvocation(
            lease_id=given.lease_id,
            session_id=given.session_id,
            run_id=given.run_id,
            turn_id=given.turn_id,
            tool_call=given.call,
            idempotency_key=given.idempotency_key,
            attempt=lease.attempt,
        )
        message.deadline.FromNanoseconds(int(given.deadline * 1e9))
        if holder.link is not None:
            holder.link.invoke(message)

    def _close(self, lease: Lease) -> None:
        """The call is over: its lease is gone, and its holder hears so if it did not answer."""
        lease_id = lease.invocation.lease_id
        self._leases.pop(lease_id, None)
        self._is_held(lease)
        self._closed.add(lease)
        holder = lease.holder
        if holder is None:
            return
        holder.waiting.pop(lease_id, None)
        was_answered = lease.answer.done() and not lease.answer.cancelled()
        if holder.leases.pop(lease_id, None) is not None and not was_answered and holder.link is not None:
            call_id = lease.invocation.call.tool_call_id
            holder.link.take_back(tool_service_pb2.ToolInvocationCancelled(lease_id=lease_id, tool_call_id=call_id))
        self._fill(holder)

    def _fill(self, holder: Holder) -> None:
        """Hand out what waits, as far as the holder takes it."""
        while holder.waiting and len(holder.leases) < holder.max_concurrent:
            _, following = holder.waiting.popitem(last=False)
            self._give(holder, following)

    @staticmethod
    def _settle(lease: Lease, answer: ToolAnswer) -> None:
        if not lease.answer.done():
            lease.answer.set_result(answer)

    def answer(self, holder: Holder, given: tool_service_pb2.ToolInvocationResult) -> Taken | None:
        """A holder sends a result; None if it never had such a lease."""
        lease = self._leases.get(given.lease_id)
        known = lease or self._closed.get(given.lease_id)
        if known is None or holder.key not in known.had:
            return None
        if lease is None or lease.holder is not holder or lease.answer.done():
            was_reported, known.is_reported = known.is_reported, True
            return Taken(known.invocation, is_late=True, is_reported=was_reported)
        result = content_pb2.ToolResult()
        result.CopyFrom(given.result)
        result.tool_call_id = lease.invocation.call.tool_call_id
        result.name = lease.invocation.call.name
        result.is_synthetic = False
        self._settle(lease, ToolAnswer(result, given.is_turn_end))
        return Taken(lease.invocation, is_late=False)

    def close(self, reason: BaseException) -> None:
        """End all streams, stop all timers, and start none any more. Idempotent."""
        self._is_closed = True
        for holder in self.holders:
            if holder.link is not None:
                holder.link.end(reason)
            if holder.timer is not None:
                holder.timer.cancel()
                holder.timer = None


def _unserved(lease: Lease) -> ToolAnswer:
    """The end of a call that nobody runs any more."""
    if lease.invocation.holder:
        text = f"the client that ran {lease.tool!r} was lost; whether it took effect is unknown"
    else:
        text = f"the client that serves {lease.tool!r} was lost"
    return ToolAnswer(synthetic_result(lease.invocation.call, text))

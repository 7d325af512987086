"""Tools that run elsewhere: in a client, over its Converse stream, or in a worker, over ServeTools.

A call is handed out under a lease: one holder at a time, a deadline, one result. A holder whose stream is lost keeps
its leases for a grace time; if it comes back under its name it gets what it has not answered again, with the next
attempt. If it does not, a call that may be run again goes to another holder that offers the tool, else the call ends as
lost. A result without a live lease is late: it is reported and never applied.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

from turnkeeper.v1 import content_pb2, tool_service_pb2
from turnkeeper_service.clock import Clock

from .base import SERVER, Invocation, OfferedTool, Tool, ToolAnswer, synthetic_result
from .leases import DEFAULT_GRACE, ClosedLeases, Holder, HolderKey, Lease, Link, Taken

RETURN_SECONDS = 30.0
"""How long after a restart a tool is waited for, whoever serves it."""
MAX_AWAY = 1_000
"""Holders whose streams are lost and who are waited for; of more, the one that was lost first is given up."""
SAFE = tool_service_pb2.REPLAY_CLASS_SAFE


class RemoteTools:
    """All holders and leases. Only the event loop's thread touches it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._holders: dict[HolderKey, Holder] = {}
        self._leases: dict[str, Lease] = {}
        self._unheld: OrderedDict[str, Lease] = OrderedDict()
        self._closed = ClosedLeases()
        self._away: OrderedDict[HolderKey, Holder] = OrderedDict()
        self._is_closed = False
        self._offers = asyncio.Event()
        self._began = clock.monotonic()

    # ---- holders

    def connect(
        self,
        tenant: str,
        name: str,
        session_id: str,
        link: Link,
        tools: Sequence[Tool],
        *,
        grace: float | None = None,
        max_concurrent: int = 0,
    ) -> Holder:
        """A stream offers tools. One that comes back under its name within its grace gets its open calls again."""
        key = (tenant, name, session_id)
        holder = self._holders.get(key)
        if holder is None:
            holder = self._holders[key] = Holder(tenant, name, session_id, link)
        else:
            self._is_back(holder)
        holder.link = link
        holder.grace = DEFAULT_GRACE if grace is None else grace
        holder.max_concurrent = max_concurrent or 16
        holder.tools = {tool.name: tool for tool in tools}
        self._offers.set()
        for lease in list(holder.leases.values()):
            self._hand_out(holder, lease)
        self._fill(holder)
        for lease in list(self._unheld.values()):
            invocation = lease.invocation
            if lease.tool in holder.tools and holder.serves(invocation.tenant, invocation.session_id):
                del self._unheld[invocation.lease_id]
                self._give(holder, lease)
        return holder

    def offer(self, holder: Holder, tools: Sequence[Tool], grace: float | None = None) -> None:
        """Replace what a holder offers; open calls stay with it."""
        holder.tools = {tool.name: tool for tool in tools}
        self._offers.set()
        if grace is not None:
            holder.grace = grace

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
        self._holders.pop(holder.key, None)
        for lease in [*holder.leases.values(), *holder.waiting.values()]:
            was_started = bool(lease.attempt)
            other = self._find(lease.invocation.tenant, lease.invocation.session_id, lease.tool)
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
        for lease in list(self._unheld.values()):
            if not self._is_offered(lease.invocation.tenant, lease.invocation.session_id, lease.tool):
                self._settle(lease, _unserved(lease))

    def _find(self, tenant: str, session_id: str, tool: str) -> Holder | None:
        """Who should run a call: a client of the session before a worker, the least busy of equals."""
        fitting = [
            holder
            for holder in self._holders.values()
            if holder.link is not None and tool in holder.tools and holder.serves(tenant, session_id)
        ]
        return min(fitting, key=lambda one: (one.session_id == "", len(one.leases) + len(one.waiting)), default=None)

    def offered(self, tenant: str, session_id: str) -> Iterator[tuple[str, Holder, Tool]]:
        """The tools of a session's holders, those of lost holders in their grace too."""
        # A client of the session comes last, so that what it offers is what counts.
        for holder in sorted(self._holders.values(), key=lambda one: one.session_id != ""):
            if holder.serves(tenant, session_id):
                for name, tool in holder.tools.items():
                    yield name, holder, tool

    def tools(self, tenant: str, session_id: str) -> Mapping[str, OfferedTool]:
        """The tools by name."""
        return {
            # No client may pass for this process.
            name: OfferedTool(tool, self, holder.name if holder.name != SERVER else "client", holder.grace)
            for name, holder, tool in self.offered(tenant, session_id)
        }

    def _is_offered(self, tenant: str, session_id: str, tool: str) -> bool:
        return any(name == tool for name, _, _ in self.offered(tenant, session_id))

    def _held(self, tenant: str, session_id: str, name: str) -> Holder | None:
        """A client of the session by its name, else a worker, where it is connected."""
        held = (self._holders.get((tenant, name, scope)) for scope in (session_id, ""))
        return next((holder for holder in held if holder is not None and holder.link is not None), None)

    # ---- who was there before a restart

    async def tool_returned(self, tenant: str, session_id: str, tool: str) -> None:
        """Wait until a tool is offered to a session, for a bounded time after the start of this process."""
        await self._until(lambda: self._is_offered(tenant, session_id, tool), RETURN_SECONDS)

    async def holder_returned(
        self, tenant: str, session_id: str, name: str, grace: float, tool: str = ""
    ) -> OfferedTool | None:
        """Wait until a client or worker is back and, if one is named, offers a tool; at most its grace."""

        def offered() -> Tool | None:
            holder = self._held(tenant, session_id, name)
            return None if holder is None else holder.tools.get(tool) if tool else Tool()

        await self._until(lambda: offered() is not None, grace)
        found = offered()
        return None if found is None else OfferedTool(found, self, name, grace)

    async def _until(self, is_there: Callable[[], bool], seconds: float) -> None:
        """Wait until something is there, at most so long after the start of this process."""
        remaining = self._began + seconds - self._clock.monotonic()
        is_over = remaining <= 0

        def end() -> None:
            nonlocal is_over
            is_over = True
            self._offers.set()

        timer = self._clock.call_later(remaining, end)
        try:
            while not is_there() and not is_over:
                self._offers.clear()
                await self._offers.wait()
        finally:
            timer.cancel()

    # ---- calls

    async def call(self, invocation: Invocation) -> ToolAnswer:
        """Hand out a call and wait for its result; cancelled, it is taken back."""
        lease = Lease(
            invocation, asyncio.get_running_loop().create_future(), invocation.call.name, attempt=invocation.attempt - 1
        )
        self._leases[invocation.lease_id] = lease
        tenant, session_id = invocation.tenant, invocation.session_id
        if invocation.holder:
            holder = self._held(tenant, session_id, invocation.holder)
        else:
            holder = self._find(tenant, session_id, lease.tool)
        if holder is not None:
            self._give(holder, lease)
        elif not invocation.holder and self._is_offered(tenant, session_id, lease.tool):
            self._unheld[invocation.lease_id] = lease
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
        self._unheld.pop(lease_id, None)
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
        for holder in self._holders.values():
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

"""Tools that run elsewhere, of all tenants. What one tenant's clients and workers do costs no other one anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from turnkeeper.v1 import tool_service_pb2
from turnkeeper_service.process.clock import Clock
from turnkeeper_service.tools.base import SERVER, Invocation, OfferedTool, Tool, ToolAnswer

from .leases import Holder, Link, Taken
from .tenant_tools import TenantTools

RETURN_SECONDS = 30.0
"""How long after a restart a tool is waited for, whoever serves it."""


class RemoteTools:
    """All holders and leases. Only the event loop's thread touches it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tenants: dict[str, TenantTools] = {}
        self._began = clock.monotonic()

    def _of(self, tenant: str) -> TenantTools:
        found = self._tenants.get(tenant)
        if found is None:
            found = self._tenants[tenant] = TenantTools(self._clock)
        return found

    # ---- holders

    def holders(self) -> Iterator[Holder]:
        """All that are there, or lost and waited for."""
        for tenant in self._tenants.values():
            yield from tenant.holders

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
        of_tenant = self._of(tenant)
        holder = of_tenant.holders.get(name, session_id) or Holder(tenant, name, session_id, link)
        of_tenant.connect(holder, link, tools, grace=grace, max_concurrent=max_concurrent)
        return holder

    def offer(self, holder: Holder, tools: Sequence[Tool], grace: float | None = None) -> None:
        """Replace what a holder offers; open calls stay with it."""
        self._of(holder.tenant).holders.offer(holder, tools)
        if grace is not None:
            holder.grace = grace

    def disconnect(self, holder: Holder, link: Link) -> None:
        """A stream is lost. Harmless if the holder has a newer one."""
        self._of(holder.tenant).disconnect(holder, link)

    def tools(self, tenant: str, session_id: str) -> Mapping[str, OfferedTool]:
        """The tools that a session is offered, by name."""
        found = self._tenants.get(tenant)
        if found is None:
            return {}
        return {
            # No client may pass for this process.
            name: OfferedTool(tool, self, holder.name if holder.name != SERVER else "client", holder.grace)
            for name, holder, tool in found.holders.offered(session_id)
        }

    # ---- who was there before a restart

    async def tool_returned(self, tenant: str, session_id: str, tool: str) -> None:
        """Wait until a tool is offered to a session, for a bounded time after the start of this process."""
        await self._of(tenant).holders.until_tool(session_id, tool, self._remaining(RETURN_SECONDS))

    async def holder_returned(
        self, tenant: str, session_id: str, name: str, grace: float, tool: str = ""
    ) -> OfferedTool | None:
        """Wait until a client or worker is back and, if one is named, offers a tool; at most its grace."""
        holders = self._of(tenant).holders

        def offered() -> Tool | None:
            holder = holders.connected(session_id, name)
            return None if holder is None else holder.tools.get(tool) if tool else Tool()

        await holders.until_holder(session_id, name, lambda: offered() is not None, self._remaining(grace))
        found = offered()
        return None if found is None else OfferedTool(found, self, name, grace)

    def _remaining(self, seconds: float) -> float:
        """What is left of a time that began with this process."""
        return self._began + seconds - self._clock.monotonic()

    # ---- calls

    async def call(self, invocation: Invocation) -> ToolAnswer:
        """Hand out a call and wait for its result; cancelled, it is taken back."""
        return await self._of(invocation.tenant).call(invocation)

    def answer(self, holder: Holder, given: tool_service_pb2.ToolInvocationResult) -> Taken | None:
        """A holder sends a result; None if it never had such a lease."""
        return self._of(holder.tenant).answer(holder, given)

    def close(self, reason: BaseException) -> None:
        """End all streams, stop all timers, and start none any more. Idempotent."""
        for tenant in self._tenants.values():
            tenant.close(reason)

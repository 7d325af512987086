"""What there is of calls that run elsewhere: who holds them, under which lease, and which leases are over."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Protocol

from turnkeeper.v1 import content_pb2, tool_service_pb2
from turnkeeper_service.process.clock import Timer
from turnkeeper_service.tools.base import Invocation, Tool, ToolAnswer

DEFAULT_GRACE = 30.0
MAX_REMEMBERED = 10_000
"""Closed leases whose late results can still be told apart from made-up ones."""
HolderKey = tuple[str, str, str]
"""Tenant, name, and the session or ""."""


class Link(Protocol):
    """The stream of a holder. All calls return at once."""

    def invoke(self, invocation: tool_service_pb2.ToolInvocation) -> None:
        """Hand out a call."""
        ...

    def take_back(self, cancelled: tool_service_pb2.ToolInvocationCancelled) -> None:
        """Say that a lease is gone."""
        ...

    def end(self, reason: BaseException) -> None:
        """End the stream for this reason, where nothing else does: the server goes away."""
        ...


@dataclass(eq=False, slots=True)
class Lease:
    """One call that was handed out, or waits to be. ``had`` are those that it was given to."""

    invocation: Invocation
    answer: asyncio.Future[ToolAnswer]
    tool: str
    holder: Holder | None = None
    attempt: int = 0
    had: set[HolderKey] = field(default_factory=set)
    is_reported: bool = False
    """Whether a late result of it was reported: one is, and what a holder sends again and again is not."""


@dataclass(slots=True)
class ClosedLease:
    """What is kept of a lease that is over: no arguments, no results."""

    invocation: Invocation
    had: set[HolderKey]
    is_reported: bool


class ClosedLeases:
    """The last leases that are over."""

    def __init__(self) -> None:
        self._leases: OrderedDict[str, ClosedLease] = OrderedDict()

    def add(self, lease: Lease) -> None:
        """Remember a lease."""
        given = lease.invocation
        call = content_pb2.ToolCall(tool_call_id=given.call.tool_call_id, name=given.call.name)
        self._leases[given.lease_id] = ClosedLease(replace(given, call=call), lease.had, lease.is_reported)
        if len(self._leases) > MAX_REMEMBERED:
            self._leases.popitem(last=False)

    def get(self, lease_id: str) -> ClosedLease | None:
        """A lease that was over."""
        return self._leases.get(lease_id)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a result. ``is_reported``: it is late, as another one was before it."""

    invocation: Invocation
    is_late: bool
    is_reported: bool = False


@dataclass(eq=False, slots=True)
class Holder:
    """A client or worker by its name. ``session_id`` is "" for a worker, which serves all sessions of its tenant."""

    tenant: str
    name: str
    session_id: str
    link: Link | None
    tools: dict[str, Tool] = field(default_factory=dict)
    grace: float = DEFAULT_GRACE
    max_concurrent: int = 16
    leases: dict[str, Lease] = field(default_factory=dict)
    waiting: OrderedDict[str, Lease] = field(default_factory=OrderedDict)
    timer: Timer | None = None

    @property
    def key(self) -> HolderKey:
        """What it is found by when it comes back."""
        return (self.tenant, self.name, self.session_id)

    def serves(self, tenant: str, session_id: str) -> bool:
        """Whether its tools are offered to a session."""
        return self.tenant == tenant and self.session_id in ("", session_id)

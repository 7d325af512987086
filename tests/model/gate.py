"""Permits of the model: lanes with a limit, a limit per tenant, two classes of waiters, and perhaps a pace."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

GOES_ON, BEGINS = 0, 1
"""Classes of waiters. In a provider's lane the first are turns, the second errands."""

LaneKey = int | str
"""0 is the floor, n the children of that depth, a string a provider."""


@dataclass(frozen=True)
class Waiter:
    """Whom a place is kept for; with ``wait``, for a provider's slot, and without ``turn`` by an errand."""

    session: tuple[str, str]
    turn: int | None
    wait: int | None = None

    @property
    def tenant(self) -> str:
        return self.session[0]


@dataclass
class Grant:
    """A permit on its way."""

    lane: LaneKey
    ticket: int
    waiter: Waiter


@dataclass
class Lane:
    """Permits of one lane. Tenants take turns in each class; those at their limit have none."""

    limit: float
    tenant_limit: float
    pace: tuple[int, float] | None = None
    waiters: int | None = None
    starts: deque[float] = field(default_factory=deque)
    in_use: int = 0
    by: Counter[str] = field(default_factory=Counter)
    queues: tuple[dict[int, Waiter], dict[int, Waiter]] = field(default_factory=lambda: ({}, {}))
    turns: tuple[dict[str, int], dict[str, int]] = field(default_factory=lambda: ({}, {}))
    """By class: the turn of each tenant that has waiters and is below its limit; the lowest is next."""
    last_turn: int = 0

    def settle(self, tenant: str) -> None:
        """Give a tenant its turns, or take them away."""
        for queue, turns in zip(self.queues, self.turns, strict=True):
            wants = any(waiter.tenant == tenant for waiter in queue.values()) and self.by[tenant] < self.tenant_limit
            if wants and tenant not in turns:
                self.last_turn += 1
                turns[tenant] = self.last_turn
            elif not wants:
                turns.pop(tenant, None)

    def paced_until(self, now: float) -> float | None:
        """When the next start may be, if that is later than now."""
        if self.pace is None:
            return None
        count, per = self.pace
        recent = [start for start in self.starts if start + per > now]
        return recent[0] + per if len(recent) >= count else None

    def may_take(self, tenant: str, cls: int, now: float) -> bool:
        """Whether a permit is free, and nobody stands before who asks."""
        before = [waiter for queue in self.queues[: cls + 1] for waiter in queue.values()]
        is_passed = any(waiter.tenant == tenant or self.pace is not None for waiter in before)
        has_room = self.in_use < self.limit and self.by[tenant] < self.tenant_limit
        return has_room and not is_passed and self.paced_until(now) is None

    def take(self, tenant: str, now: float) -> None:
        """Count a permit."""
        self.in_use += 1
        self.by[tenant] += 1
        self.settle(tenant)
        if self.pace is not None:
            self.starts.append(now)

    def give(self, tenant: str, *, unused: bool) -> None:
        """Count it no more; one that was not used is no start."""
        self.in_use -= 1
        self.by[tenant] -= 1
        self.settle(tenant)
        if unused and self.starts:
            self.starts.pop()

    def next_start(self, now: float) -> float | None:
        """When somebody may start whom only the pace keeps from it."""
        if self.pace is None or self.in_use >= self.limit or not any(self.queues) or self.pace[0] == 0:
            return None
        starts = list(self.starts)[-self.pace[0] :]
        return starts[0] + self.pace[1] if len(starts) == self.pace[0] else now


@dataclass
class Errand:
    """A call to a provider without a turn."""

    session: tuple[str, str]
    lane: str
    ticket: int | None


News = Literal["in", "busy", "cut"]


class Gate:
    """All lanes, and the errands."""

    def __init__(self, lanes: dict[LaneKey, Lane]) -> None:
        self.lanes = lanes
        self.is_closed = False
        self.last_ticket = 0
        self.grants: deque[Grant] = deque()
        self.errands: dict[int, Errand] = {}
        self.last_errand = 0

    def ask(self, lane: LaneKey, cls: int, waiter: Waiter, now: float) -> int | None:
        """Take a permit (None), or a place."""
        if not self.is_closed and self.lanes[lane].may_take(waiter.tenant, cls, now):
            self.lanes[lane].take(waiter.tenant, now)
            return None
        self.last_ticket += 1
        self.lanes[lane].queues[cls][self.last_ticket] = waiter
        self.lanes[lane].settle(waiter.tenant)
        return self.last_ticket

    def is_full(self, lane: LaneKey, cls: int, most: int) -> bool:
        """Whether as many wait as may."""
        own = self.lanes[lane].waiters
        return sum(map(len, self.lanes[lane].queues[: cls + 1])) >= (most if own is None else own)

    def abandon(self, lane: LaneKey, ticket: int) -> None:
        """Give up a place, if it is still kept."""
        for queue in self.lanes[lane].queues:
            waiter = queue.pop(ticket, None)
            if waiter is not None:
                self.lanes[lane].settle(waiter.tenant)

    def release(self, lane: LaneKey, tenant: str, now: float, *, unused: bool = False) -> None:
        """Give a permit back, and grant it on."""
        self.lanes[lane].give(tenant, unused=unused)
        self.grant(lane, now)

    def grant(self, lane: LaneKey, now: float) -> bool:
        """Send a permit to the next who may have it."""
        permits = self.lanes[lane]
        if self.is_closed or permits.in_use >= permits.limit or permits.paced_until(now) is not None:
            return False
        for queue, turns in zip(permits.queues, permits.turns, strict=True):
            if turns:
                tenant = min(turns, key=lambda name: turns[name])
                ticket = min(ticket for ticket, waiter in queue.items() if waiter.tenant == tenant)
                waiter = queue.pop(ticket)
                del turns[tenant]
                permits.take(tenant, now)
                self.grants.append(Grant(lane, ticket, waiter))
                return True
        return False

    def next_start(self, now: float) -> float | None:
        """When a pace lets somebody start."""
        if self.is_closed:
            return None
        starts = [lane.next_start(now) for lane in self.lanes.values()]
        return min((start for start in starts if start is not None), default=None)

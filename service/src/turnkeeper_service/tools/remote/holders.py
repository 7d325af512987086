"""The clients and workers of one tenant: who serves which tool to whom.

A step looks up what its session is offered, and a call looks for who runs it. Both meet the workers of the tenant and
the clients of the session, and nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from turnkeeper_service.process.clock import Clock
from turnkeeper_service.tools.base import Tool

from .leases import Holder

ALL_SESSIONS = ""
"""The scope of workers; that of a client is its session."""


class Holders:
    """The holders of one tenant, those that are lost and waited for among them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_name: dict[str, dict[str, Holder]] = {}
        """By scope and name."""
        self._by_tool: dict[str, dict[str, dict[str, Holder]]] = {}
        """By scope, tool and name: whoever offered a tool last is the last."""
        self._waits: dict[tuple[str, str], set[asyncio.Event]] = {}
        """Who waits for something in a scope: for a holder's name, or for a tool's, with a space before it."""

    def __iter__(self) -> Iterator[Holder]:
        for named in self._by_name.values():
            yield from named.values()

    def get(self, name: str, session_id: str) -> Holder | None:
        """A holder that is there, or is waited for."""
        return self._by_name.get(session_id, {}).get(name)

    def add(self, holder: Holder) -> None:
        """A holder is there."""
        self._by_name.setdefault(holder.session_id, {})[holder.name] = holder

    def remove(self, holder: Holder) -> None:
        """A holder is not waited for any more."""
        self._withdraw(holder)
        named = self._by_name.get(holder.session_id, {})
        if named.get(holder.name) is holder:
            del named[holder.name]
        if not named:
            self._by_name.pop(holder.session_id, None)

    def offer(self, holder: Holder, tools: Sequence[Tool]) -> None:
        """Replace what a holder offers."""
        self._withdraw(holder)
        holder.tools = {tool.name: tool for tool in tools}
        for name in holder.tools:
            self._by_tool.setdefault(holder.session_id, {}).setdefault(name, {})[holder.name] = holder
        for what in (holder.name, *(f" {name}" for name in holder.tools)):
            for event in self._waits.get((holder.session_id, what), ()):
                event.set()

    def _withdraw(self, holder: Holder) -> None:
        of_scope = self._by_tool.get(holder.session_id, {})
        for name in holder.tools:
            offering = of_scope.get(name, {})
            offering.pop(holder.name, None)
            if not offering:
                of_scope.pop(name, None)
        if not of_scope:
            self._by_tool.pop(holder.session_id, None)

    def find(self, session_id: str, tool: str) -> Holder | None:
        """Who should run a call: a client of the session before a worker, the least busy of equals."""
        for scope in (session_id, ALL_SESSIONS):
            fitting = [one for one in self._by_tool.get(scope, {}).get(tool, {}).values() if one.link is not None]
            if fitting:
                return min(fitting, key=lambda one: len(one.leases) + len(one.waiting))
        return None

    def offered(self, session_id: str) -> Iterator[tuple[str, Holder, Tool]]:
        """The tools of a session's holders, those of lost holders in their grace too; a later one of a name counts."""
        # A client of the session comes last, so that what it offers is what counts.
        for scope in (ALL_SESSIONS, session_id):
            for name, offering in self._by_tool.get(scope, {}).items():
                holder = next(reversed(offering.values()))
                yield name, holder, holder.tools[name]

    def is_offered(self, session_id: str, tool: str) -> bool:
        """Whether a session is offered a tool."""
        return any(tool in self._by_tool.get(scope, {}) for scope in (session_id, ALL_SESSIONS))

    def connected(self, session_id: str, name: str) -> Holder | None:
        """A client of the session by its name, else a worker, where it is connected."""
        held = (self.get(name, scope) for scope in (session_id, ALL_SESSIONS))
        return next((holder for holder in held if holder is not None and holder.link is not None), None)

    async def until_tool(self, session_id: str, tool: str, seconds: float) -> None:
        """Wait until a session is offered a tool, at most so long."""
        await self._until(session_id, f" {tool}", lambda: self.is_offered(session_id, tool), seconds)

    async def until_holder(self, session_id: str, name: str, is_there: Callable[[], bool], seconds: float) -> None:
        """Wait until a holder has come and is as it is waited for, at most so long."""
        await self._until(session_id, name, is_there, seconds)

    async def _until(self, session_id: str, what: str, is_there: Callable[[], bool], seconds: float) -> None:
        is_over = seconds <= 0
        came = asyncio.Event()

        def end() -> None:
            nonlocal is_over
            is_over = True
            came.set()

        keys = [(scope, what) for scope in (session_id, ALL_SESSIONS)]
        for key in keys:
            self._waits.setdefault(key, set()).add(came)
        timer = self._clock.call_later(seconds, end)
        try:
            while not is_there() and not is_over:
                came.clear()
                await came.wait()
        finally:
            timer.cancel()
            for key in keys:
                self._waits[key].discard(came)
                if not self._waits[key]:
                    del self._waits[key]

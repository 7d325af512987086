"""The sessions in memory. One object per session; idle ones are let go, a bounded number of them late."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

from turnkeeper_service.errors import session_not_found
from turnkeeper_service.store.base import SessionRow, SessionState, Store

from .durable import durable
from .session import Session

Key = tuple[str, str]
WARM_SESSIONS = 1024
"""Idle sessions kept for their next call; beyond it the one idle longest is let go."""
WARM_BYTES = 16 << 20
"""What all of these may hold of settings, histories and logs; beyond it, likewise."""


class SessionTable:
    """Finds sessions, reading each from the store at most once at a time."""

    def __init__(self, store: Store, make: Callable[[SessionRow], Session], warm: int = WARM_SESSIONS) -> None:
        self._store = store
        self._make = make
        self._warm = warm
        self._sessions: dict[Key, Session] = {}
        self._idle: OrderedDict[Key, Session] = OrderedDict()
        self._held: dict[Key, int] = {}
        """Bytes that idle sessions hold."""
        self._held_bytes = 0
        self._loading: dict[Key, asyncio.Future[Session | None]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def get(self, key: Key) -> Session | None:
        """The session if it is in memory."""
        return self._sessions.get(key)

    def put(self, session: Session) -> None:
        """Add a session that was just created or read."""
        self._sessions[session.key] = session
        if session.is_idle:
            self.idle(session)

    def drop(self, session: Session) -> None:
        """Remove a session that is deleted."""
        self._sessions.pop(session.key, None)
        self._busy(session.key)

    @asynccontextmanager
    async def pin(self, tenant: str, session_id: str) -> AsyncIterator[Session]:
        """The session, kept in memory inside the context. Raises Refused SESSION_NOT_FOUND."""
        session = await self._find((tenant, session_id))
        session.pin()
        try:
            yield session
        finally:
            session.unpin()

    async def _find(self, key: Key) -> Session:
        session = self._sessions.get(key)
        if session is None:
            loading = self._loading.get(key)
            if loading is None or loading.done():
                loading = self._begin(key, self._load(key))
            session = await durable(loading, self._store)
            if session is None:
                raise session_not_found(key[1])
            # Let go between its load and now; nothing was written in between.
            session = self._sessions.setdefault(key, session)
        self._busy(key)
        return session

    async def create(self, row: SessionRow, write: Callable[[Session], asyncio.Future[None]]) -> Session | None:
        """Create a session unless its id is taken, and then find who has it: None for one that is deleted.

        ``write`` hands over the commit of the new session. Whoever looks for it meanwhile waits for it, so that there
        is one object of it. Raises Refused STORE_UNAVAILABLE.
        """
        key = (row.tenant, row.session_id)
        while (loading := self._loading.get(key)) is not None and not loading.done():
            await durable(loading, self._store)
        found = self._sessions.get(key)
        return found or await durable(self._begin(key, self._create(row, write)), self._store)

    async def _create(self, row: SessionRow, write: Callable[[Session], asyncio.Future[None]]) -> Session | None:
        key = (row.tenant, row.session_id)
        if (before := await self._store.get_session(*key)) is not None:
            return self._take(before)
        session = self._make(row)
        await write(session)
        return session

    def _begin(self, key: Key, work: Coroutine[Any, Any, Session | None]) -> asyncio.Future[Session | None]:
        loading = self._loading[key] = asyncio.ensure_future(work)
        loading.add_done_callback(lambda done: self._loaded(key, done))
        return loading

    def _loaded(self, key: Key, done: asyncio.Future[Session | None]) -> None:
        if self._loading.get(key) is done:
            del self._loading[key]
        if not done.cancelled():
            # Whoever waited for it may be gone: its error is then nobody's.
            done.exception()

    async def _load(self, key: Key) -> Session | None:
        row = await self._store.get_session(*key)
        return None if row is None else self._take(row)

    def _take(self, row: SessionRow) -> Session | None:
        """The session of a row that was just read."""
        if row.state == SessionState.DELETED:
            return None
        session = self._sessions.get((row.tenant, row.session_id))
        if session is None:
            session = self._make(row)
            self.put(session)
        return session

    def _busy(self, key: Key) -> None:
        """A session is not idle any more."""
        self._idle.pop(key, None)
        self._held_bytes -= self._held.pop(key, 0)

    def idle(self, session: Session) -> None:
        """Take note that nothing needs a session for now."""
        if self._sessions.get(session.key) is not session:
            return
        self._busy(session.key)
        self._idle[session.key] = session
        self._held[session.key] = session.num_bytes
        self._held_bytes += session.num_bytes
        while len(self._idle) > self._warm or self._held_bytes > WARM_BYTES:
            key, oldest = next(iter(self._idle.items()))
            self._busy(key)
            if oldest.is_idle:
                del self._sessions[key]

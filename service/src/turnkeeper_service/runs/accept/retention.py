"""Deleting sessions that nothing has happened in for long."""

from __future__ import annotations

import structlog

from turnkeeper_service.errors import Refused
from turnkeeper_service.process.clock import microseconds
from turnkeeper_service.runs.parts import Parts
from turnkeeper_service.store.errors import StoreCorruptError, StoreError

from .lifecycle import SessionLifecycle

log = structlog.get_logger(__name__)

SESSIONS_AT_ONCE = 500
ACTOR = "retention"
"""Who asked, as the session's last events say it."""


class Retention:
    """Looks for idle sessions and deletes them, one after the other, as `DeleteSession` does."""

    def __init__(self, parts: Parts, lifecycle: SessionLifecycle) -> None:
        self._parts = parts
        self._lifecycle = lifecycle

    async def delete_idle(self, seconds: float) -> int:
        """Delete sessions without a run and without a change for so long; returns how many.

        Ends early where the server goes away: what is left is found the next time.
        """
        before_us = microseconds(self._parts.clock.time() - seconds)
        position, deleted = 0, 0
        try:
            while found := await self._parts.store.idle_sessions(
                before_us=before_us, after=position, limit=SESSIONS_AT_ONCE
            ):
                for _, tenant, session_id in found:
                    if not self._parts.is_serving:
                        return deleted
                    deleted += await self._delete(tenant, session_id, before_us)
                position = found[-1][0]
        except StoreError as error:
            # If it has failed for good, everybody hears of it.
            log.error("idle sessions could not be looked for", detail=str(error))
        if deleted:
            log.info("idle sessions were deleted", sessions=deleted)
        return deleted

    async def _delete(self, tenant: str, session_id: str, before_us: int) -> bool:
        try:
            return await self._lifecycle.delete_idle(tenant, session_id, ACTOR, before_us=before_us)
        except (Refused, StoreCorruptError) as error:
            # Deleted meanwhile, or the store is busy: it is looked at again the next time.
            log.info("an idle session was not deleted", session_id=session_id, detail=str(error))
            return False

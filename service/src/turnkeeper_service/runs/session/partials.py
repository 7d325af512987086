"""Makes the text of open messages durable now and then, so that a lost process loses little of it."""

from __future__ import annotations

from collections.abc import Callable

from turnkeeper_service.events.log import OpenMessage
from turnkeeper_service.process.clock import Clock, Timer
from turnkeeper_service.store.base import Commit, PartialRow, Store

Owned = tuple[str, str, int]
"""Tenant, session and the epoch that it is written with."""


class PartialFlusher:
    """Flushes all open messages with new text at most once per interval, a message with much new text at once.

    One timer serves all messages and exists only while one of them has new text.
    """

    def __init__(self, store: Store, clock: Clock, interval: float, max_bytes: int) -> None:
        self._store = store
        self._clock = clock
        self._interval = interval
        self._max_bytes = max_bytes
        self._dirty: dict[str, tuple[Owned, OpenMessage]] = {}
        self._timer: Timer | None = None
        self._is_closed = False

    def follow(self, tenant: str, session_id: str, epoch: int) -> Callable[[OpenMessage], None]:
        """What the log of a session calls when one of its messages has new text; ``epoch`` as the session's."""
        owned = (tenant, session_id, epoch)

        def grown(message: OpenMessage) -> None:
            if self._is_closed:
                return
            if message.is_dirty:
                self._dirty.pop(message.message_id, None)
                self._flush(owned, message)
                return
            message.is_dirty = True
            message.flush_at = message.num_bytes + self._max_bytes
            self._dirty[message.message_id] = (owned, message)
            if self._timer is None:
                self._timer = self._clock.call_later(self._interval, self._tick)

        return grown

    def _tick(self) -> None:
        self._timer = None
        dirty, self._dirty = self._dirty, {}
        for owned, message in dirty.values():
            self._flush(owned, message)

    def _flush(self, owned: Owned, message: OpenMessage) -> None:
        message.is_dirty = False
        if message.closed:
            return
        commit = Commit(*owned)
        for index, part in enumerate(message.parts):
            if part.flushed < len(part.content):
                content = bytes(part.content[part.flushed :])
                commit.partials.append(
                    PartialRow(
                        run_id=message.run_id,
                        message_id=message.message_id,
                        attempt=message.attempt,
                        part=index,
                        kind=part.kind,
                        offset=part.flushed,
                        content=content,
                    )
                )
                part.flushed = len(part.content)
        if commit.partials:
            # A failure stops the store, which everybody hears of; a slot that is lost takes its text along.
            self._store.commit(commit).add_done_callback(lambda done: done.cancelled() or done.exception())

    def close(self) -> None:
        """Flush what is left and stop the timer. Idempotent."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._tick()

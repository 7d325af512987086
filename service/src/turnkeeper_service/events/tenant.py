"""Notices across the sessions of a tenant: a lossy view beside the logs, which says when it has lost something."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque

from turnkeeper.v1 import run_service_pb2

Notice = run_service_pb2.WatchTenantResponse
BUFFER = 256


class NoticeReader:
    """One reader's bounded buffer. What does not fit is counted and told."""

    def __init__(self, feed: NoticeFeed, tenant: str) -> None:
        self._feed = feed
        self._tenant = tenant
        self._buffer: deque[Notice] = deque()
        self._num_missed = 0
        self._wake = asyncio.Event()
        self._ended: BaseException | None = None

    def offer(self, notice: Notice) -> None:
        """Take a notice, or count it as missed."""
        if len(self._buffer) >= BUFFER:
            self._num_missed += 1
        else:
            self._buffer.append(notice)
        self._wake.set()

    def beat(self) -> None:
        """Show a sign of life."""
        self.offer(Notice(heartbeat=run_service_pb2.Heartbeat()))

    def end(self, reason: BaseException) -> None:
        """Stop after what is buffered."""
        self._ended = reason
        self._wake.set()

    async def next(self) -> list[Notice]:
        """What is new, at least one notice. Raises what ended the feed."""
        while not self._buffer and not self._num_missed:
            if self._ended is not None:
                raise self._ended
            self._wake.clear()
            await self._wake.wait()
        notices = list(self._buffer)
        self._buffer.clear()
        if self._num_missed:
            notices.append(Notice(lagged=run_service_pb2.LaggedNotice(num_missed=self._num_missed)))
            self._num_missed = 0
        return notices

    def close(self) -> None:
        """Stop reading. Idempotent."""
        self._feed.detach(self._tenant, self)


class NoticeFeed:
    """All notices of all tenants; each reader sees its own tenant's."""

    def __init__(self) -> None:
        self._readers: defaultdict[str, set[NoticeReader]] = defaultdict(set)

    def attach(self, tenant: str) -> NoticeReader:
        """Read from now on; close the reader when done."""
        reader = NoticeReader(self, tenant)
        self._readers[tenant].add(reader)
        return reader

    def detach(self, tenant: str, reader: NoticeReader) -> None:
        """Forget a reader."""
        readers = self._readers.get(tenant)
        if readers is not None:
            readers.discard(reader)
            if not readers:
                del self._readers[tenant]

    def is_watched(self, tenant: str) -> bool:
        """Whether making a notice is worth it."""
        return tenant in self._readers

    def publish(self, tenant: str, notice: Notice) -> None:
        """Offer a notice to the tenant's readers."""
        for reader in self._readers.get(tenant, ()):
            reader.offer(notice)

    def end(self, reason: BaseException) -> None:
        """Let all readers stop."""
        for readers in self._readers.values():
            for reader in readers:
                reader.end(reason)

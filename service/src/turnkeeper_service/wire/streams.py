"""Streams that are open: their heartbeats, their loop from reader to writer, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from turnkeeper.v1 import run_service_pb2
from turnkeeper_service.errors import Reason, Refused, invalid
from turnkeeper_service.events.reader import Position, Reader, length_delimited
from turnkeeper_service.process.clock import Clock
from turnkeeper_service.runs.accept.lifecycle import SessionEndedError
from turnkeeper_service.runs.session.session import Session

from .call import Call

ITEM = b"\x0a"
"""Field 1 of every streamed response: its StreamItems."""
MAX_RESPONSE_BYTES = 256 << 10
"""A response takes no further item once it has so many bytes."""


class Beating(Protocol):
    """Something that can show a sign of life to its client."""

    def beat(self) -> None:
        """Show it now."""
        ...


class Tracked:
    """One open stream: when it last sent something."""

    __slots__ = ("beating", "last_sent")

    def __init__(self, beating: Beating, now: float) -> None:
        self.beating = beating
        self.last_sent = now


class Streams:
    """All open streams. One task beats for all of them."""

    def __init__(self, clock: Clock, interval: float, on_lag: Callable[[int], None]) -> None:
        self._clock = clock
        self._interval = interval
        self._on_lag = on_lag
        self._streams: set[Tracked] = set()

    def __len__(self) -> int:
        return len(self._streams)

    def enter(self, beating: Beating) -> Tracked:
        """Take a stream in; it beats from now on."""
        tracked = Tracked(beating, self._clock.monotonic())
        self._streams.add(tracked)
        return tracked

    def leave(self, tracked: Tracked) -> None:
        """Let a stream go. Idempotent."""
        self._streams.discard(tracked)

    def sent(self, tracked: Tracked) -> None:
        """Note that a stream has just sent something."""
        tracked.last_sent = self._clock.monotonic()

    async def run(self) -> None:
        """Beat until cancelled: looking three times per interval keeps every gap below the interval."""
        while True:
            await self._clock.sleep(self._interval / 3)
            due = self._clock.monotonic() - self._interval * 2 / 3
            for tracked in self._streams:
                if isinstance(tracked.beating, Reader):
                    self._on_lag(tracked.beating.lag)
                if tracked.last_sent <= due:
                    tracked.beating.beat()

    async def pump(self, reader: Reader, call: Call) -> None:
        """Write what a reader yields until it ends. Raises Refused where the log ends under it."""
        tracked = self.enter(reader)
        try:
            while (items := await reader.next()) is not None:
                for response in responses_of(items):
                    await call.write(response)
                self.sent(tracked)
        except SessionEndedError:
            return
        except Refused as refused:
            raise Refused(
                refused.reason,
                refused.message,
                metadata={**refused.metadata, "last_seq": str(reader.after)},
                retry_after=refused.retry_after,
                limit=refused.limit,
            ) from None
        finally:
            self.leave(tracked)
            reader.close()


def responses_of(items: Sequence[bytes]) -> Iterator[bytes]:
    """Items as responses: a write costs the same for one item as for many, so they go together up to a size."""
    framed: list[bytes] = []
    size = 0
    for item in items:
        framed.append(length_delimited(ITEM, item))
        size += len(item)
        if size >= MAX_RESPONSE_BYTES:
            yield b"".join(framed)
            framed, size = [], 0
    if framed:
        yield b"".join(framed)


def start_of(session: Session, after_seq: int | None) -> int:
    """The seq a reader starts after. Raises Refused CURSOR_AHEAD."""
    newest = session.log.published_seq
    if after_seq is None:
        return newest
    if after_seq < 0:
        raise invalid("after_seq", "is negative")
    if after_seq > newest:
        raise Refused(
            Reason.ERROR_REASON_CURSOR_AHEAD,
            f"after_seq {after_seq} is in the future; the newest is {newest}",
            metadata={"newest_seq": str(newest)},
        )
    return after_seq


def positions_of(given: list[run_service_pb2.DeltaPosition]) -> dict[str, Position]:
    """Positions in open messages, by message."""
    return {one.message_id: Position(one.attempt, tuple(one.offsets)) for one in given}


async def until_cancelled(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks and wait until they have ended, whatever way.

    Whoever waits may be cancelled a second time: what must happen at an end comes before this.
    """
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()

"""The prompts of runs in line, out of memory: of whoever waits for long, or behind much, the store alone has it.

A prompt is read again before its run's first step, or before it is folded. Of a run that never begins it is copied from
its row, where the terminal is written; see `Run.write_prompt`.
"""

from __future__ import annotations

from dataclasses import dataclass

from turnkeeper.v1 import run_service_pb2
from turnkeeper_service.process.clock import Clock, Timer
from turnkeeper_service.store.base import Store
from turnkeeper_service.store.errors import StoreCorruptError, StoreError
from turnkeeper_service.store.reading import reading

from .run import Run

SECONDS = 1.0
"""A prompt that stands in line for longer leaves memory."""
MAX_SESSION_BYTES = 16 << 20
"""What one session's line keeps in memory; a prompt beyond it leaves at once."""
MIN_BYTES = 1024
"""A shorter prompt stays: it is less than what else there is of its run, and a read costs more."""


@dataclass(frozen=True, slots=True)
class _Arrival:
    run: Run
    at: float
    size: int


class Shelf:
    """Takes the prompts of runs in line out of memory, and back. One timer serves all."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._arrivals: dict[tuple[str, str], _Arrival] = {}
        """Runs in line whose prompts are in memory, in the order in which they came."""
        self._bytes: dict[tuple[str, str], int] = {}
        """What their prompts hold, by session."""
        self._timer: Timer | None = None
        self._is_stopped = False

    def put(self, run: Run) -> None:
        """A run that is durable stands in line. Nothing happens to one whose prompt is short, or away."""
        self.leave(run)
        size = 0 if run.is_shelved else sum(part.ByteSize() for part in run.prompt)
        if size < MIN_BYTES or self._is_stopped:
            return
        kept = self._bytes.get(run.session.key, 0) + size
        if kept > MAX_SESSION_BYTES:
            run.shelve()
            return
        self._bytes[run.session.key] = kept
        self._arrivals[run.key] = _Arrival(run, self._clock.monotonic(), size)
        if self._timer is None:
            self._timer = self._clock.call_later(SECONDS, self._sweep)

    def leave(self, run: Run) -> None:
        """It begins, is folded, or is over: its prompt stays as it is. Idempotent."""
        arrival = self._arrivals.pop(run.key, None)
        if arrival is None:
            return
        kept = self._bytes.pop(run.session.key) - arrival.size
        if kept:
            self._bytes[run.session.key] = kept
        if not self._arrivals:
            self._set(None)

    async def read(self, run: Run) -> None:
        """Have a run's prompt in memory, to stay there. Raises StoreError; the run is then `is_lost`."""
        self.leave(run)
        if not run.is_shelved:
            return
        try:
            row = await self._store.get_run(*run.key)
            with reading(f"the prompt of run {run.run_id}"):
                stored = run_service_pb2.Submission.FromString(row.submission if row is not None else b"")
            if not stored.prompt:
                raise StoreCorruptError(f"the prompt of run {run.run_id} is gone")
        except StoreError:
            run.is_lost = True
            raise
        run.take_back(stored)

    def stop(self) -> None:
        """Sweep no more. Idempotent."""
        self._is_stopped = True
        self._set(None)

    def _sweep(self) -> None:
        now = self._clock.monotonic()
        for arrival in list(self._arrivals.values()):
            if arrival.at + SECONDS > now:
                self._set(arrival.at + SECONDS - now)
                return
            self.leave(arrival.run)
            arrival.run.shelve()

    def _set(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._clock.call_later(seconds, self._sweep)

"""The only door to the scheduling core: its types, its refusals as ours, and one clock for its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from turnkeeper.v1 import event_pb2
from turnkeeper_core import (
    Accepted,
    Cancel,
    CancelResult,
    Conclusion,
    Counts,
    Covered,
    Dispatched,
    Limits,
    OpenRunMismatchError,
    Partition,
    QueueFullError,
    RunRef,
    Scheduler,
    SessionBusyError,
    Snapshot,
    Stats,
    UnknownRunError,
)
from turnkeeper_service.clock import Clock
from turnkeeper_service.errors import Reason, Refused

__all__ = [
    "Accepted",
    "Cancel",
    "CancelResult",
    "Conclusion",
    "CoreScheduler",
    "Counts",
    "Covered",
    "Delivery",
    "Dispatched",
    "Limits",
    "Partition",
    "Place",
    "RunRef",
    "Snapshot",
    "Stats",
    "UnknownRunError",
]

Kind = Literal["prompt", "summary", "bootstrap"]
Delivery = Literal["queue", "steer", "reject", "replace"]
_KINDS: Mapping[int, Kind] = {
    event_pb2.RUN_KIND_PROMPT: "prompt",
    event_pb2.RUN_KIND_SUMMARY: "summary",
    event_pb2.RUN_KIND_BOOTSTRAP: "bootstrap",
}
_BOUNDS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("session", "runs"): ("max_queued_runs_per_session", "{} runs"),
    ("process", "runs"): ("max_open_runs", "{} runs"),
    ("session", "bytes"): ("max_queued_bytes_per_session", "as much in line as fits {} bytes"),
    ("process", "bytes"): ("max_queued_bytes", "as much in line as fits {} bytes"),
}
"""What bounds are called in the settings, and what they count."""
Key = tuple[str, str]
"""(tenant, session_id)."""
Place = tuple[Literal["reserved", "queued", "waiting", "running", "parked", "woken"], int]
"""Where a run stands, and how many uncancelled runs are ahead of it."""


def kind_of(kind: int) -> Kind:
    """The core's word for a run's kind."""
    return _KINDS[kind]


@contextmanager
def _refusals(session_id: str) -> Iterator[None]:
    try:
        yield
    except SessionBusyError as error:
        metadata = {"session_id": session_id}
        if error.open_run_id:
            metadata["open_run_id"] = error.open_run_id
        raise Refused(Reason.ERROR_REASON_SESSION_BUSY, f"session {session_id!r} is busy", metadata=metadata) from None
    except OpenRunMismatchError as error:
        metadata = {"session_id": session_id, "open_run_id": error.open_run_id or ""}
        raise Refused(
            Reason.ERROR_REASON_OPEN_RUN_MISMATCH,
            f"the open run is {error.open_run_id!r}" if error.open_run_id else "no run is open",
            metadata=metadata,
        ) from None
    except QueueFullError as error:
        name, what = _BOUNDS[error.scope, error.unit]
        raise Refused(
            Reason.ERROR_REASON_QUEUE_FULL if error.scope == "session" else Reason.ERROR_REASON_SERVER_OVERLOADED,
            f"the {error.scope} holds {what.format(error.limit)}, which is its limit",
            metadata={"limit": str(error.limit), "scope": error.scope, "unit": error.unit},
            retry_after=1.0,
            limit=name,
        ) from None


class CoreScheduler:
    """The core with our clock. Every method is one step, never blocks, and is called on the event loop's thread."""

    def __init__(self, limits: Limits, clock: Clock, *, epoch: int, last_sequence: int) -> None:
        self._core = Scheduler(limits, epoch=epoch, last_sequence=last_sequence)
        self._now = clock.monotonic

    def accept(
        self,
        key: Key,
        run_id: str,
        *,
        delivery: Delivery,
        num_bytes: int,
        require_idle: bool,
        expected_open_run_id: str | None,
        cancelled: Cancel | None,
        kind: Kind = "prompt",
    ) -> Accepted:
        """Stamp a reservation (U-9). Raises Refused: SESSION_BUSY, OPEN_RUN_MISMATCH, QUEUE_FULL, SERVER_OVERLOADED."""
        with _refusals(key[1]):
            return self._core.accept(
                key[0],
                key[1],
                run_id,
                self._now(),
                kind=kind,
                delivery=delivery,
                bytes=num_bytes,
                require_idle=require_idle,
                expected_open_run_id=expected_open_run_id,
                cancelled=cancelled,
            )

    def restore(
        self,
        key: Key,
        run_id: str,
        sequence: int,
        *,
        delivery: Delivery,
        num_bytes: int,
        steers: str | None,
        cancelled: Cancel | None,
        kind: Kind = "prompt",
    ) -> None:
        """Put a stored run back as a reservation (U-16)."""
        self._core.restore(
            key[0],
            key[1],
            run_id,
            sequence,
            self._now(),
            kind=kind,
            delivery=delivery,
            bytes=num_bytes,
            steers=steers,
            cancelled=cancelled,
        )

    def abandon(self, key: Key, run_id: str) -> list[RunRef]:
        """Close a reservation whose accept was not committed."""
        return self._core.abandon(key[0], key[1], run_id, self._now())

    def dispatch(self, key: Key, run_id: str) -> Dispatched:
        """Release a reservation."""
        return self._core.dispatch(key[0], key[1], run_id, self._now())

    def partition(self, key: Key, run_id: str, *, limit: int | None = None) -> Partition:
        """A fold point of the open run, which takes at most so many."""
        return self._core.partition(key[0], key[1], run_id, limit=limit)

    def park(self, key: Key, run_id: str) -> list[RunRef]:
        """Give the permit of the open run back while it waits for somebody outside."""
        return self._core.park(key[0], key[1], run_id, self._now())

    def wake(self, key: Key, run_id: str) -> bool:
        """Ask for the permit of a parked run again; whether it has it at once. Drained, it never gets it."""
        return self._core.wake(key[0], key[1], run_id, self._now()) == "running"

    def conclude(
        self, key: Key, run_id: str, *, answer: bool, steer: bool = True, limit: int | None = None
    ) -> Conclusion:
        """Fix the outcome of the open run, unless it is an answer that at most so many others steer."""
        return self._core.conclude(key[0], key[1], run_id, answer=answer, steer=steer, limit=limit)

    def finish(self, key: Key, run_id: str) -> list[RunRef]:
        """Release the floor and pop the next."""
        return self._core.finish(key[0], key[1], run_id, self._now())

    def cancel_session(
        self,
        key: Key,
        cancel: Cancel,
        *,
        up_to: int | None = None,
        spare_open: bool = False,
        spare_bootstrap: bool = False,
    ) -> CancelResult:
        """Cover what the session accepted."""
        return self._core.cancel_session(
            key[0], key[1], cancel, self._now(), up_to=up_to, spare_open=spare_open, spare_bootstrap=spare_bootstrap
        )

    def cancel_run(self, key: Key, run_id: str, cancel: Cancel) -> CancelResult:
        """Cover one run."""
        return self._core.cancel_run(key[0], key[1], run_id, cancel, self._now())

    def cancel_tenant(self, tenant: str, cancel: Cancel) -> CancelResult:
        """Cover what all sessions of a tenant accepted."""
        return self._core.cancel_tenant(tenant, cancel, self._now())

    def expire(self, key: Key, run_id: str) -> tuple[bool, list[RunRef]]:
        """Take a run out of the line because its start deadline passed."""
        return self._core.expire(key[0], key[1], run_id, self._now())

    def drain(self) -> None:
        """Start nothing any more."""
        self._core.drain()

    def snapshot(self, key: Key) -> Snapshot | None:
        """A session as it is."""
        return self._core.snapshot(key[0], key[1])

    def place(self, key: Key, run_id: str) -> Place | None:
        """Where a run stands; None if the session has no such run."""
        return self._core.place(key[0], key[1], run_id)

    def counts(self, key: Key) -> Counts:
        """How much a session has to do."""
        return self._core.counts(key[0], key[1])

    def stats(self) -> Stats:
        """Counts of the process."""
        return self._core.stats()

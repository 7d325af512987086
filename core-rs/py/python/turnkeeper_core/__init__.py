"""The scheduling core of Turnkeeper: one turn per session at a time, exact cancels, in accept order.

``Scheduler`` is the compiled state machine: every call answers at once what its caller has to do. ``AsyncScheduler``
does that for an asyncio program, where a turn is an ``async with`` block.
"""

from turnkeeper_core._aio import AsyncScheduler, RunCancelled, RunFolded, Turn
from turnkeeper_core._core import (
    Accepted,
    Cancel,
    CancelResult,
    Conclusion,
    Counts,
    Covered,
    Dispatched,
    Hold,
    Limits,
    OpenRunMismatchError,
    Partition,
    QueueFullError,
    RunExistsError,
    RunRef,
    RunView,
    Scheduler,
    SchedulerError,
    SessionBusyError,
    Snapshot,
    Stats,
    UnknownRunError,
    __version__,
)
from turnkeeper_core._literals import CancelMode, Delivery, Kind, Place

__all__ = [
    "Accepted",
    "AsyncScheduler",
    "Cancel",
    "CancelMode",
    "CancelResult",
    "Conclusion",
    "Counts",
    "Covered",
    "Delivery",
    "Dispatched",
    "Hold",
    "Kind",
    "Limits",
    "OpenRunMismatchError",
    "Partition",
    "Place",
    "QueueFullError",
    "RunCancelled",
    "RunExistsError",
    "RunFolded",
    "RunRef",
    "RunView",
    "Scheduler",
    "SchedulerError",
    "SessionBusyError",
    "Snapshot",
    "Stats",
    "Turn",
    "UnknownRunError",
    "__version__",
]

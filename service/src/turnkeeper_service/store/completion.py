"""Events that are handed over without what the store has already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MAX_KEPT_BYTES = 64 << 10


@dataclass(slots=True)
class Completion:
    """What makes an event whole that is handed over without what the store has already."""

    run_id: str
    """The run whose submission it wants."""
    complete: Callable[[bytes, bytes | None], bytes]
    """The payload to write, of the event's own and that submission, None where it cannot be read.

    Called on a thread of the store, once or more; what it raises stops the store."""
    payload: bytes | None = None
    """What was written, for readers that keep up; None before, and where it is longer than 64 KiB."""

    def written(self, payload: bytes, submission: bytes | None) -> bytes:
        """What is to be written."""
        whole = self.complete(payload, submission)
        self.payload = whole if len(whole) <= MAX_KEPT_BYTES else None
        return whole

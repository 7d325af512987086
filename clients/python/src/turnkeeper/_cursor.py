"""Where a reader stands in a session: the last event, and how much of each open message."""

from __future__ import annotations

import grpc

from turnkeeper._assembler import DeltaGapError, Item, MessageAssembler
from turnkeeper._errors import TurnkeeperError
from turnkeeper.v1.run_service_pb2 import StreamItem

# A gap is mended by reconnecting. One that is there again and again is a fault of the server.
_MAX_GAPS = 3


class Cursor:
    """Takes a stream's items, and lets each pass once, however often the stream is opened again."""

    def __init__(self, after_seq: int | None) -> None:
        """Stand behind an event; None is not known yet."""
        self.after_seq = after_seq
        self.messages = MessageAssembler()
        self._gaps = 0

    def take(self, item: StreamItem) -> list[Item]:
        """Move on, and return what is new.

        Raises:
            TurnkeeperError: Something is missing; a new connection brings it.
        """
        match item.WhichOneof("item"):
            case "event":
                # Payloads that this version does not know count all the same.
                if self.after_seq is not None and item.event.seq <= self.after_seq:
                    return []
                self.after_seq, self._gaps = item.event.seq, 0
                return self.messages.apply(item.event)
            case "delta":
                return self._apply(item.delta)
            case "snapshot":
                return self._apply(item.snapshot)
        return []

    def _apply(self, item: Item) -> list[Item]:
        try:
            return self.messages.apply(item)
        except DeltaGapError as gap:
            self._gaps += 1
            code = grpc.StatusCode.UNAVAILABLE if self._gaps <= _MAX_GAPS else grpc.StatusCode.DATA_LOSS
            raise TurnkeeperError(code, str(gap)) from None

"""Finds a model that repeats itself: the same calls with the same results, again and again (C-91)."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterable

from turnkeeper.v1 import content_pb2

WINDOW = 10
MAX_REPEATS = 5


def signature(pairs: Iterable[tuple[content_pb2.ToolCall, content_pb2.ToolResult | None]]) -> str:
    """What a step did: names, inputs and results of its calls in order; "" without calls. Ids do not count."""
    digest = hashlib.sha256()
    is_empty = True
    for call, result in pairs:
        is_empty = False
        digest.update(f"{call.name}\0{call.arguments_json}\0".encode())
        for part in result.content if result is not None else ():
            digest.update(part.text.text.encode() if part.HasField("text") else part.media.data)
        digest.update(b"\0")
    return "" if is_empty else digest.hexdigest()


class LoopDetector:
    """Looks at the last steps of a turn. Steps without calls have their place in the window and never count."""

    def __init__(self) -> None:
        self._steps: deque[str] = deque(maxlen=WINDOW)

    def step(self, signature_of_step: str) -> bool:
        """Take in a step; whether one signature occurs more often than it may among the last ones."""
        self._steps.append(signature_of_step)
        if len(self._steps) < WINDOW:
            return False
        counts = Counter(one for one in self._steps if one)
        return bool(counts) and max(counts.values()) > MAX_REPEATS

"""What a tool call needs before it may run: somebody's leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from turnkeeper.v1 import content_pb2


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided. ``actor`` is "" where the default applied."""

    is_allowed: bool
    comment: str = ""
    actor: str = ""


class Approvals(Protocol):
    """Asks for leave, durably; the same call is asked about once, also over a restart."""

    async def ask(self, call: content_pb2.ToolCall) -> Decision:
        """Wait for the decision; its deadline gives the default."""
        ...

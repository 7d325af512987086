"""What a tool call needs before it may run: somebody's leave."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from turnkeeper.v1 import content_pb2

from .journal import Draft


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided. ``actor`` is "" where the default applied."""

    is_allowed: bool
    comment: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True)
class AskedBefore:
    """What a lost process had asked for one call. ``decision`` is None where it still waits."""

    approval_id: str
    created_us: int
    deadline_us: int
    is_allowed_by_default: bool
    decision: Decision | None = None


class Waiting(Protocol):
    """Who is told that the wait for a decision begins and ends, each with the commit that makes it so."""

    def begin(self, draft: Draft | None, seconds: float | None = None) -> asyncio.Future[None]:
        """The question is asked; without a draft a lost process had asked it. Resolves when its time is over."""
        ...

    def end(self, draft: Draft | None) -> None:
        """It is answered. Harmless when it was."""
        ...


class Approvals(Protocol):
    """Asks for leave, durably; the same call is asked about once, also over a restart."""

    async def ask(self, call: content_pb2.ToolCall, asked: AskedBefore | None, waiting: Waiting) -> Decision:
        """Wait for the decision; its deadline gives the default."""
        ...

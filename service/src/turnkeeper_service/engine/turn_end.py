"""How a turn ended: what its run's outcome will say unless a cancel or a deadline came first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from turnkeeper.v1 import event_pb2
from turnkeeper_service.providers.base import ProviderError

COMPLETED = event_pb2.OUTCOME_STATUS_COMPLETED
FAILED = event_pb2.OUTCOME_STATUS_FAILED


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """How a turn ends. ``failure`` is the model call that it failed by; it may say what was used."""

    status: event_pb2.OutcomeStatus.ValueType
    reason: event_pb2.OutcomeReason.ValueType
    errors: Sequence[event_pb2.RunError] = field(default=())
    failure: ProviderError | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the answer of its last step stands as it is."""
        return self.status == COMPLETED or self.reason in (
            event_pb2.OUTCOME_REASON_TOOL,
            event_pb2.OUTCOME_REASON_TOOL_LOOP,
        )


def failed(
    reason: event_pb2.OutcomeReason.ValueType,
    title: str,
    detail: str,
    *,
    http_status: int = 0,
    turn_id: str = "",
    failure: ProviderError | None = None,
) -> TurnEnd:
    """The turn failed for one reason."""
    error = event_pb2.RunError(reason=reason, title=title, detail=detail, http_status=http_status, turn_id=turn_id)
    return TurnEnd(FAILED, reason, [error], failure)

"""Numbers and defaults that runs live by."""

from __future__ import annotations

from dataclasses import dataclass, field

from turnkeeper.v1 import session_service_pb2
from turnkeeper_service.providers.policy.retry import RetryPolicy


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Numbers that runs live by; seconds where a time is meant."""

    default_model: str = "scripted/echo"
    default_system_prompt: str = ""
    steering_mode: session_service_pb2.SteeringMode.ValueType = session_service_pb2.STEERING_MODE_ALL
    small_model: str = ""
    makes_titles: bool = True
    has_todos: bool = False
    is_summarized: bool = True
    """Whether a context that gets full is summarised where its session does not say."""
    max_steps: int = 50
    max_steered_steps: int = 10
    max_answer_bytes: int = 8 << 20
    cancel_grace: float = 2.0
    run_timeout: float | None = None
    max_tombstones: int = 10_000
    tool_timeout: float = 120.0
    max_tool_result_bytes: int = 1 << 20
    approval_timeout: float = 86_400.0
    is_allowed_by_default: bool = False
    max_page_bytes: int = 4 << 20
    partial_flush_interval: float = 0.5
    partial_flush_bytes: int = 16 << 10
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """Which model calls that failed are made again, and when."""

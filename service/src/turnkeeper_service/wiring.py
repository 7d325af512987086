"""What the parts of the server take from the settings."""

from __future__ import annotations

from collections.abc import Mapping

from turnkeeper.v1.session_service_pb2 import SteeringMode
from turnkeeper_service.providers.options import CallLimits
from turnkeeper_service.providers.policy.retry import RetryPolicy
from turnkeeper_service.runs.options import RunOptions
from turnkeeper_service.runs.scheduler import Lane, Limits
from turnkeeper_service.settings.settings import Settings
from turnkeeper_service.settings.tables import McpSettings
from turnkeeper_service.tools.mcp.options import McpOptions
from turnkeeper_service.wire.server import ServerOptions

MAX_PAGE_BYTES = 3 << 20
"""A page ends before it is longer than clients take by default, or than half of what this server sends."""


def core_limits(settings: Settings, bounds: Mapping[str, CallLimits]) -> Limits:
    """Bounds of the core; those on the calls to providers by their names."""
    limits = settings.limits
    return Limits(
        queue_per_session=limits.max_queued_runs_per_session,
        open_runs=limits.max_open_runs,
        session_bytes=limits.max_queued_bytes_per_session,
        open_bytes=limits.max_queued_bytes,
        running_turns=limits.max_running_turns,
        running_turns_per_tenant=limits.max_running_turns_per_tenant,
        stop_grace=settings.defaults.stop_grace_seconds,
        cancel_grace=settings.defaults.cancel_grace_seconds,
        lanes=tuple(
            Lane(name, one.max_concurrent, starts=one.max_starts, per=one.per_seconds, waiters=one.max_waiting)
            for name, one in bounds.items()
        ),
    )


def run_options(settings: Settings) -> RunOptions:
    """What runs live by."""
    limits, defaults, retries = settings.limits, settings.defaults, settings.retries
    return RunOptions(
        default_model=defaults.model,
        default_system_prompt=defaults.system_prompt,
        steering_mode=SteeringMode.Value(f"STEERING_MODE_{defaults.steering_mode.upper()}"),
        small_model=defaults.small_model or "",
        makes_titles=defaults.generate_titles,
        has_todos=settings.tools.todos,
        max_steps=defaults.max_steps,
        is_summarized=defaults.auto_summarize,
        max_steered_steps=limits.max_steered_steps,
        max_answer_bytes=limits.max_step_answer_bytes,
        cancel_grace=defaults.cancel_grace_seconds,
        run_timeout=defaults.run_timeout_seconds,
        max_tombstones=limits.max_tombstones_per_tenant,
        tool_timeout=settings.tools.timeout_seconds,
        max_tool_result_bytes=limits.max_tool_result_bytes,
        approval_timeout=settings.tools.approval_timeout_seconds,
        is_allowed_by_default=settings.tools.approval_default == "allow",
        max_page_bytes=min(MAX_PAGE_BYTES, settings.server.max_message_bytes // 2),
        partial_flush_interval=limits.partial_flush_interval_seconds,
        partial_flush_bytes=limits.partial_flush_bytes,
        retry=RetryPolicy(
            max_retries=retries.max_retries,
            first_delay=retries.first_delay_seconds,
            max_delay=retries.max_delay_seconds,
            max_hint=retries.max_delay_seconds,
            jitter=retries.jitter,
        ),
    )


def server_options(settings: Settings) -> ServerOptions:
    """What the gRPC server lives by."""
    server = settings.server
    age = server.max_connection_age_seconds
    return ServerOptions(
        max_message_bytes=server.max_message_bytes,
        keepalive_time_ms=int(server.keepalive_time_seconds * 1000),
        keepalive_timeout_ms=int(server.keepalive_timeout_seconds * 1000),
        min_ping_interval_ms=int(server.keepalive_min_client_interval_seconds * 1000),
        max_connection_age_ms=int(age * 1000) if age is not None else None,
        max_connection_age_grace_ms=int(server.max_connection_age_grace_seconds * 1000),
        has_reflection=server.reflection,
    )


def mcp_options(name: str, settings: McpSettings, max_result_bytes: int) -> McpOptions:
    """What one tool server lives by."""
    approval = settings.needs_approval
    return McpOptions(
        name=name,
        prefix=f"{name}_" if settings.prefix is None else settings.prefix,
        command=settings.command,
        args=settings.args,
        env={key: value.get_secret_value() for key, value in settings.env.items()},
        url=settings.url,
        headers={key: value.get_secret_value() for key, value in settings.headers.items()},
        wait=settings.wait,
        connect_timeout=settings.connect_timeout_seconds,
        timeout=settings.timeout_seconds,
        replay=settings.replay,
        is_parallel=settings.is_parallel,
        needs_approval=approval if isinstance(approval, bool) else frozenset(approval),
        max_result_bytes=max_result_bytes,
    )

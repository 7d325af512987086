"""Counting what model calls used."""

from __future__ import annotations

from collections.abc import Iterable

from turnkeeper.v1 import content_pb2

_COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


def add(total: content_pb2.Usage, more: content_pb2.Usage) -> None:
    """Add one usage to another; a count is unset only where no part has it."""
    for name in _COUNTS:
        if more.HasField(name):  # type: ignore[arg-type]
            setattr(total, name, getattr(total, name) + getattr(more, name))
    if more.HasField("cost_usd"):
        total.cost_usd = total.cost_usd + more.cost_usd
    total.is_estimated = total.is_estimated or more.is_estimated
    total.num_calls += more.num_calls


def add_run(total: content_pb2.RunUsage, more: content_pb2.RunUsage) -> None:
    """Add a run's usage to a session's, model by model."""
    add(total.own, more.own)
    add(total.descendants, more.descendants)
    for entry in more.models:
        add(_of_model(total, entry.model), entry.usage)


def add_step(total: content_pb2.RunUsage, model: str, more: content_pb2.Usage) -> None:
    """Add one step of a floor turn to its run's usage."""
    add(total.own, more)
    add(_of_model(total, model), more)


def _of_model(total: content_pb2.RunUsage, model: str) -> content_pb2.Usage:
    for entry in total.models:
        if entry.model == model:
            return entry.usage
    return total.models.add(model=model).usage


def estimate(messages: Iterable[content_pb2.Message], system: str, num_output_bytes: int) -> content_pb2.Usage:
    """A count for a call whose provider said nothing: a token per four bytes, rounded up (C-106)."""
    num_bytes = len(system.encode())
    for message in messages:
        for part in message.parts:
            kind = part.WhichOneof("part")
            if kind in ("text", "reasoning", "summary"):
                num_bytes += len(getattr(part, kind).text.encode())
            elif kind == "tool_call":
                num_bytes += len(part.tool_call.arguments_json)
    return content_pb2.Usage(
        input_tokens=-(-num_bytes // 4), output_tokens=-(-num_output_bytes // 4), is_estimated=True, num_calls=1
    )

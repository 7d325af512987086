"""Counting what model calls used."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from turnkeeper.v1 import content_pb2

MAX_COUNT = 1 << 53
_COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


def add(total: content_pb2.Usage, more: content_pb2.Usage) -> None:
    """Add one usage to another; a count is unset only where no part has it."""
    for name in _COUNTS:
        if more.HasField(name):  # type: ignore[arg-type]
            # Bounded: no sum of what vendors say may leave what a count can hold.
            setattr(total, name, min(getattr(total, name) + getattr(more, name), MAX_COUNT))
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


def context_after(before: content_pb2.ContextTokens, usage: content_pb2.Usage) -> content_pb2.ContextTokens:
    """What a context holds after a step: the last counts, not their sum. A count that nobody gave stays (C-106).

    Written to the cache or read from it, input is in the context all the same.
    """
    prompt = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    if not prompt and not usage.output_tokens:
        return before
    return content_pb2.ContextTokens(
        prompt_tokens=prompt or before.prompt_tokens,
        answer_tokens=usage.output_tokens or before.answer_tokens,
        is_estimated=usage.is_estimated,
    )


def context_of_summary(usage: content_pb2.Usage) -> content_pb2.ContextTokens:
    """What a context holds once a summary stands for it: the summary alone (C-107)."""
    return content_pb2.ContextTokens(answer_tokens=usage.output_tokens, is_estimated=usage.is_estimated)


def is_told(usage: content_pb2.Usage) -> bool:
    """Whether a provider counted anything; one that says 0 of everything did not."""
    return any(getattr(usage, name) for name in _COUNTS)


def filled_in(told: content_pb2.Usage | None, guess: Callable[[], content_pb2.Usage]) -> content_pb2.Usage:
    """What a provider told; a guess where it told nothing (C-106), or no number that can be true (O-1).

    A provider says the latter by ``is_estimated``: what of input and output it left unset then is to be guessed.
    """
    usage = content_pb2.Usage()
    if told is None or not is_told(told):
        usage.CopyFrom(guess())
        return usage
    usage.CopyFrom(told)
    if not told.is_estimated:
        return usage
    guessed = guess()
    usage.is_estimated = False
    for name in ("input_tokens", "output_tokens"):
        if not told.HasField(name) and guessed.HasField(name):
            setattr(usage, name, getattr(guessed, name))
            usage.is_estimated = True
    return usage


def estimate(messages: Iterable[content_pb2.Message], system: str, num_output_bytes: int) -> content_pb2.Usage:
    """A count for a call whose provider said nothing: a token per four bytes, rounded up (C-106)."""
    num_bytes = len(system.encode()) + sum(_size(part) for message in messages for part in message.parts)
    return content_pb2.Usage(
        input_tokens=-(-num_bytes // 4), output_tokens=-(-num_output_bytes // 4), is_estimated=True, num_calls=1
    )


def _size(part: content_pb2.Part) -> int:
    """The bytes of a part's text. Media count by what is said of them: their own size says nothing of their tokens."""
    match part.WhichOneof("part"):
        case "text":
            return len(part.text.text.encode())
        case "reasoning":
            return len(part.reasoning.text.encode())
        case "summary":
            return len(part.summary.text.encode())
        case "tool_call":
            return len(part.tool_call.name) + len(part.tool_call.arguments_json.encode())
        case "tool_result":
            return sum(_size(one) for one in part.tool_result.content)
        case "media":
            return len(part.media.mime_type) + len(part.media.name.encode())
        case _:
            return 0

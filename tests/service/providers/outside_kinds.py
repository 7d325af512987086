"""What is tolerated of vendors: kinds of faults, with the cases that show them in each wire format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.service.providers.outside_vendor import (
    CHAT,
    DONE,
    GEMINI,
    MESSAGES,
    RESPONSES,
    Case,
    Seen,
    block,
    chat,
    gemini,
    item,
    messages,
    ok,
    responses,
    sse,
)

Cases = Mapping[str, Sequence[Case]]
NO_COUNTS: Sequence[Any] = (-35, 2**53 + 1, 2**70, 3.5, "35", True, [], -1e300)
"""None of these is a number of tokens."""


def counted(sent: int, said: int, *, is_estimated: bool) -> Any:
    def check(seen: Seen) -> bool:
        own = seen.outcome.usage.own
        return (own.input_tokens, own.output_tokens, own.is_estimated) == (sent, said, is_estimated)

    return check


def with_counts(wire_format: str, sent: object, said: object) -> str:
    """The text ``real``, and these tokens of prompt and answer."""
    if wire_format == CHAT:
        usage = {"prompt_tokens": sent, "completion_tokens": said, "total_tokens": 965}
        return chat({"content": "real"}).removesuffix(DONE) + sse({"choices": [], "usage": usage}) + DONE
    if wire_format == RESPONSES:
        return responses(item("real"), usage={"input_tokens": sent, "output_tokens": said})
    if wire_format == MESSAGES:
        return messages(block("real"), usage={"input_tokens": sent, "output_tokens": said})
    return gemini({"text": "real"}, usageMetadata={"promptTokenCount": sent, "candidatesTokenCount": said})


def _number_cases(wire_format: str) -> list[Case]:
    cases = [ok(with_counts(wire_format, 1000, bad), check=counted(1000, 1, is_estimated=True)) for bad in NO_COUNTS]
    cases += [ok(with_counts(wire_format, bad, 7), check=counted(2, 7, is_estimated=True)) for bad in NO_COUNTS]
    cases.append(ok(with_counts(wire_format, 2**53, 2**53), check=counted(2**53, 2**53, is_estimated=False)))
    return cases


KINDS: dict[str, Cases] = {
    "a count of tokens that is no count": {name: _number_cases(name) for name in (CHAT, RESPONSES, MESSAGES, GEMINI)},
}

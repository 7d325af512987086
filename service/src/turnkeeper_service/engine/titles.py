"""Titles of sessions: what a model is asked for one, and what is made of what it says (C-97, C-98)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import ModelFinished, ModelRequest, PartDelta, PartKind, Provider, ProviderError

from .usage import estimate, filled_in

COLUMNS = 50
MAX_OUTPUT_TOKENS = 40
MAX_PROMPT_CHARACTERS = 4000
"""A title needs no more of a prompt than its beginning."""
MAX_ANSWER_BYTES = 64 << 10
"""What has thought for so long will not come to a title."""

_INSTRUCTIONS = (
    f"You name conversations. Answer with a title of at most {COLUMNS} characters for the one that begins with the "
    "user's message: one line in the language of that message, without quotation marks, and nothing else. Do not "
    "answer the message, and do not think aloud. /no_think"
)
_THOUGHTS = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_TAGS = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)


def prompt_text(parts: Iterable[content_pb2.Part]) -> str:
    """The text of a prompt; empty where it has none."""
    return "\n".join(part.text.text for part in parts if part.HasField("text")).strip()


def title_of_answer(answer: str) -> str:
    """The title in a model's answer; empty where there is none."""
    return _cut(_TAGS.sub("", _THOUGHTS.sub("", answer)))


def title_of_prompt(text: str) -> str:
    """The title where no model gives one: the prompt itself, as much of it as fits."""
    return _cut(text[:MAX_PROMPT_CHARACTERS])


def _cut(text: str) -> str:
    """The text on one line, cut to the columns of a title; what is cut ends with an ellipsis."""
    line = " ".join(text.split())
    columns = 0
    fits = 0
    for place, character in enumerate(line):
        columns += _width(character)
        if columns <= COLUMNS - 1:
            fits = place + 1
        if columns > COLUMNS:
            return line[:fits].rstrip() + "…"
    return line


def _width(character: str) -> int:
    """Columns of a character on a terminal."""
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Cc", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class TitleCall:
    """One call of one model for a title."""

    def __init__(self, model: str, text: str, *, is_reasoning: bool = False, session_hash: str = "") -> None:
        """``model`` is the vendor's own name. One that reasons gets the output limit of its provider."""
        message = content_pb2.Message(role=content_pb2.ROLE_USER)
        message.parts.add().text.text = f"Write a title for this message:\n\n{text[:MAX_PROMPT_CHARACTERS]}"
        parameters = content_pb2.ModelParameters()
        if not is_reasoning:
            parameters.max_output_tokens = MAX_OUTPUT_TOKENS
        self._request = ModelRequest(
            model=model, messages=[message], system=_INSTRUCTIONS, parameters=parameters, session_hash=session_hash
        )
        self._num_bytes = 0
        self._finished: ModelFinished | None = None
        self._failure: ProviderError | None = None

    async def run(self, provider: Provider) -> str:
        """The title; empty where the answer was cut short or says nothing. Raises ProviderError."""
        try:
            return await self._title(provider)
        except ProviderError as error:
            self._failure = error
            raise

    async def _title(self, provider: Provider) -> str:
        text: list[str] = []
        async with provider.stream(self._request) as events:
            async for event in events:
                if isinstance(event, PartDelta):
                    self._num_bytes += len(event.text.encode())
                    if self._num_bytes > MAX_ANSWER_BYTES:
                        break
                    if event.kind == PartKind.TEXT:
                        text.append(event.text)
                elif isinstance(event, ModelFinished):
                    self._finished = event
        if self._finished is None or self._finished.finish_reason in (
            content_pb2.FINISH_REASON_MAX_TOKENS,
            content_pb2.FINISH_REASON_CONTENT_FILTER,
        ):
            return ""
        return title_of_answer("".join(text))

    @property
    def reported_cost(self) -> float | None:
        """What the provider says that it cost."""
        return self._finished.provider_cost_usd if self._finished is not None else None

    def usage(self) -> content_pb2.Usage:
        """What the call used so far, estimated where its provider does not say."""
        told: content_pb2.Usage | None = None
        if self._finished is not None:
            told = self._finished.usage
        elif self._failure is not None:
            told = self._failure.usage
        usage = filled_in(told, self._estimated)
        usage.num_calls = 1
        return usage

    def _estimated(self) -> content_pb2.Usage:
        if not self._num_bytes:
            return content_pb2.Usage()
        return estimate(self._request.messages, self._request.system, self._num_bytes)

"""Names of tools as a vendor takes them, and back.

A model may have called what no tool is named: the call was answered with an error and stands in the history. A vendor
that refuses such a name would refuse the conversation from then on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cached_property

from turnkeeper_service.providers.base import ModelEvent, PartEnded, PartStarted, ToolDefinition

NO_NAME = "unnamed"


@dataclass(frozen=True)
class NameRule:
    """What a format takes as a name: these characters (a set of a regular expression), so many, and how it begins."""

    characters: str = "a-zA-Z0-9_-"
    begin: str = "a-zA-Z0-9_-"
    max_length: int = 64

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What matches a name that may stay as it is."""
        return re.compile(f"[{self.begin}][{self.characters}]{{0,{self.max_length - 1}}}")


class ToolNames:
    """The names in one request: each of ours has one of the vendor's, which no other has."""

    def __init__(self, rule: NameRule, tools: Iterable[ToolDefinition]) -> None:
        self._rule = rule
        self._is_legal = rule.pattern.fullmatch
        names = [tool.name for tool in tools]
        # First who may keep its name, so that nobody else is given it.
        self._sent = {name: name for name in names if self._is_legal(name)}
        self._used = set(self._sent)
        self._ours: dict[str, str] = {}
        for name in names:
            self.sent(name)

    def sent(self, name: str) -> str:
        """What the vendor is told."""
        known = self._sent.get(name)
        if known is not None:
            return known
        given, number = self._made(name), 1
        while given in self._used:
            number += 1
            given = self._made(f"{given}_{number}")
        self._used.add(given)
        self._sent[name] = given
        if given != name:
            self._ours[given] = name
        return given

    def _made(self, name: str) -> str:
        legal = re.sub(f"[^{self._rule.characters}]", "_", name) or NO_NAME
        if not re.match(f"[{self._rule.begin}]", legal):
            legal = f"_{legal}"
        if len(legal) <= self._rule.max_length:
            return legal
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        return f"{legal[: self._rule.max_length - 9]}_{digest}"

    @property
    def has_changes(self) -> bool:
        """Whether the vendor was told another name than ours."""
        return bool(self._ours)

    async def restored(self, events: AsyncGenerator[ModelEvent, None]) -> AsyncGenerator[ModelEvent, None]:
        """The events of the answer, the calls in them by our names."""
        async with aclosing(events):
            async for event in events:
                yield self._restored(event)

    def _restored(self, event: ModelEvent) -> ModelEvent:
        if isinstance(event, PartStarted) and event.name in self._ours:
            return replace(event, name=self._ours[event.name])
        if isinstance(event, PartEnded):
            call = event.content.tool_call
            if event.content.HasField("tool_call") and not call.is_provider_executed and call.name in self._ours:
                call.name = self._ours[call.name]
        return event

"""Contexts: a session has one log, and in it the messages that a turn sends to models."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from turnkeeper.v1 import content_pb2, event_pb2

from .pairing import History
from .usage import context_after, context_of_summary

MAIN = "main"
"""The id of the context that a session's floor turns have."""


class Context:
    """One context of a session (U-27): which messages are in it, and how many tokens they are.

    ``read`` gives the messages that are in it, of a state of the log that nothing has been added to since.
    """

    def __init__(
        self,
        context_id: str,
        tokens: content_pb2.ContextTokens,
        read: Callable[[str], Awaitable[Sequence[content_pb2.Message]]],
        *,
        is_new: bool,
    ) -> None:
        self.context_id: Final = context_id
        self.tokens = tokens
        """What it holds, as the last step that counted it has it."""
        self.num_bytes = 0
        """What its messages take while they are in memory."""
        self._read = read
        self._reading = asyncio.Lock()
        # One that is new has no messages to read.
        self._history: History | None = History() if is_new else None

    @property
    def num_tokens(self) -> int:
        """Tokens in it after its last step, that step's answer included."""
        return self.tokens.prompt_tokens + self.tokens.answer_tokens

    async def history(self) -> Sequence[content_pb2.Message]:
        """Its messages, in order: the live list, for nobody else to change. Read once, then kept."""
        async with self._reading:
            if self._history is None:
                messages = await self._read(self.context_id)
                self._history = History(messages)
                self.num_bytes = sum(message.ByteSize() for message in messages)
        return self._history

    def add(self, message: content_pb2.Message) -> None:
        """Follow a message of it that is committed."""
        if self._history is not None and message.in_context:
            self._history.append(message)
            self.num_bytes += message.ByteSize()

    def forget(self) -> None:
        """What is in it changes otherwise than at its end, which is rare: it is read again where it is needed next."""
        self._history, self.num_bytes = None, 0

    def count(self, event: event_pb2.Event) -> None:
        """Follow a step or a summary that has finished in it."""
        if event.HasField("step_finished"):
            self.tokens = context_after(self.tokens, event.step_finished.usage)
        else:
            self.tokens = context_of_summary(event.summary_finished.usage)

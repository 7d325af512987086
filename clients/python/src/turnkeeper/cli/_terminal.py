"""A terminal in which somebody edits a line while answers are written: neither tears the other.

What is finished stands above; below it is the line that an answer is at, and below that the line that is edited.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import Self

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import ANSI, StyleAndTextTuples, to_formatted_text
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import AnyContainer, ConditionalContainer, HSplit, Layout, Window
from prompt_toolkit.layout.controls import BufferControl, FormattedTextControl
from prompt_toolkit.layout.processors import BeforeInput
from prompt_toolkit.utils import get_cwidth
from prompt_toolkit.widgets import SearchToolbar

from turnkeeper.cli._history import PromptHistory
from turnkeeper.cli._screen import DIM, Screen, styled

PROMPT = "> "
# What a terminal would obey; a model's text may only be shown.
_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) != "\n"} | {
    ord("\t"): "    ",
    ord("\r"): None,
}


class Terminal(Screen):
    """The screen of a conversation and its keyboard: an asynchronous iterator of the lines that were entered."""

    def __init__(self, history: PromptHistory) -> None:
        """Draw nothing yet; `async with` does."""
        super().__init__(is_json=False)
        self.is_stopped = False
        self.max_bytes = sys.maxsize
        self._history = history
        self._entered: asyncio.Queue[str | None] = asyncio.Queue()
        self._question = PROMPT
        self._draft = ""
        self._open = ""
        """The line that an answer is at."""
        self._asides: list[str] = []
        """What is to stand below that line once it has ended."""
        self._buffer = Buffer(history=history, multiline=False, accept_handler=self._accept)
        self._app = self._application()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._edit(), name="line editor")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leave()
        if self._task is not None:
            await self._task

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        line = await self._entered.get()
        if line is None or self.is_stopped:
            raise StopAsyncIteration
        return line

    def stop(self) -> None:
        """End the iteration now."""
        self.is_stopped = True
        self._entered.put_nowait(None)
        self._leave()

    def text(self, text: str) -> None:
        """Go on with a line that is being written."""
        if not self._app.is_running:
            super().text(text)
            return
        *ended, self._open = (self._open + text.translate(_CONTROLS)).split("\n")
        for line in ended:
            self._end(line)
        columns = self._app.output.get_size().columns
        while get_cwidth(self._open) >= columns:
            line, self._open = _cut(self._open, columns)
            self._end(line)
        self._app.invalidate()

    def end_line(self) -> None:
        """End a line that is being written."""
        if self._open:
            line, self._open = self._open, ""
            self._end(line)
        super().end_line()

    def remark(self, text: str) -> None:
        """Print a line beside the results."""
        self.end_line()
        self._write(styled(text.translate(_CONTROLS), DIM, sys.stdout) + "\n")

    def aside(self, text: str) -> None:
        """Print a line that does not end the line that an answer is at."""
        self._put_aside(styled(text.translate(_CONTROLS), DIM, sys.stdout))

    def ask(self, question: str, *, is_free: bool) -> None:
        """Ask something above the line that is edited; what stands there waits until it is answered."""
        question = question.translate(_CONTROLS)
        if question == self._question:
            return
        if self._question == PROMPT:
            self._draft = self._buffer.text
            self._buffer.reset()
        elif question == PROMPT:
            self._buffer.text, self._draft = self._draft, ""
            self._buffer.cursor_position = len(self._buffer.text)
        self._question = question
        self._history.is_paused = question != PROMPT
        self._app.invalidate()

    def entered(self, line: str) -> None:
        """What was entered stands above since it was."""

    def _write(self, text: str) -> None:
        if not self._app.is_running:
            super()._write(text)
            return
        # The lines below are taken away, and drawn again under what is written.
        self._app.renderer.erase()
        self._app.output.write_raw(text.replace("\n", "\r\n"))
        self._app.output.flush()
        self._app.invalidate()

    def _end(self, line: str) -> None:
        """A line of an answer has ended; what waited for that follows."""
        asides, self._asides = self._asides, []
        self._write("".join(f"{one}\n" for one in (line, *asides)))

    def _put_aside(self, text: str) -> None:
        if self._open:
            self._asides.append(text)
            self._app.invalidate()
        else:
            self._write(text + "\n")

    def _accept(self, buffer: Buffer) -> bool:
        """Take what was entered; False empties the line."""
        self._put_aside(self._question + buffer.text.translate(_CONTROLS))
        self._entered.put_nowait(buffer.text)
        return False

    async def _edit(self) -> None:
        """Edit lines until left. The one task; the end of `async with` awaits it."""
        try:
            with suppress(EOFError):
                await self._app.run_async(handle_sigint=False)
        finally:
            self._entered.put_nowait(None)
            # What is not finished goes on below, without a line to edit.
            open_line, self._open = self._open, ""
            super().text(open_line)

    def _leave(self) -> None:
        if self._app.is_running and not self._app.is_done:
            self._app.exit()

    def _application(self) -> Application[None]:
        search = SearchToolbar()
        edited = BufferControl(
            self._buffer,
            input_processors=[BeforeInput(lambda: self._question)],
            search_buffer_control=search.control,
        )
        answer = Window(FormattedTextControl(self._unfinished), wrap_lines=True, dont_extend_height=True)
        rows: list[AnyContainer] = [
            ConditionalContainer(answer, Condition(lambda: bool(self._open))),
            Window(edited, wrap_lines=True, dont_extend_height=True),
            search,
        ]
        return Application(Layout(HSplit(rows), edited), key_bindings=self._keys(), erase_when_done=True)

    def _unfinished(self) -> StyleAndTextTuples:
        return to_formatted_text(ANSI("\n".join([self._open, *self._asides])))

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("c-c")
        def _interrupt(event: KeyPressEvent) -> None:
            # What the key does in any other program; the conversation takes the signal.
            os.kill(os.getpid(), signal.SIGINT)

        @keys.add("c-d", filter=Condition(lambda: not self._buffer.text))
        def _end_of_input(event: KeyPressEvent) -> None:
            event.app.exit()

        @keys.add("c-z")
        def _suspend(event: KeyPressEvent) -> None:
            event.app.suspend_to_background()

        return keys


def terminal_of_user() -> Terminal:
    """A terminal with the history of whoever runs this."""
    return Terminal(PromptHistory.of_user())


def _cut(line: str, columns: int) -> tuple[str, str]:
    """The part of a line that fills a row, up to a space where there is one, and the rest."""
    width = length = 0
    while width + get_cwidth(line[length]) < columns:
        width += get_cwidth(line[length])
        length += 1
    space = line.rfind(" ", 1, length + 1)
    return (line[:space], line[space + 1 :]) if space > 0 else (line[: length or 1], line[length or 1 :])

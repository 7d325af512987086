"""Where a command prints: lines for people, or one JSON object per line for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import NoReturn

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.text import Text


class _Console(Console):
    """A console that leaves it to the command what to do where nobody reads any more."""

    def on_broken_pipe(self) -> NoReturn:
        """Called where the error is being handled."""
        raise


class Screen:
    """Results go to standard output; remarks to standard error, unless both are the terminal."""

    def __init__(self, *, is_json: bool) -> None:
        """Look at what standard output is."""
        self.is_json = is_json
        self.is_terminal = sys.stdout.isatty()
        self._out = _Console(highlight=False, markup=False, soft_wrap=True)
        self._remarks = self._out if self.is_terminal else _Console(stderr=True, highlight=False, soft_wrap=True)
        self._is_mid_line = False

    def json(self, kind: str, message: Message) -> None:
        """Print a message as one line of JSON, under the name of its kind."""
        content = MessageToDict(message, preserving_proto_field_name=True)
        self.line(json.dumps({kind: content}, ensure_ascii=False, separators=(",", ":")))

    def line(self, text: str) -> None:
        """Print a line."""
        self.end_line()
        self._write(text + "\n")

    def text(self, text: str) -> None:
        """Go on with a line that is being written."""
        if text:
            self._write(text)
            self._is_mid_line = not text.endswith("\n")

    def end_line(self) -> None:
        """End a line that is being written."""
        if self._is_mid_line:
            self._is_mid_line = False
            self._write("\n")

    def ask(self, question: str, *, is_free: bool) -> None:
        """Ask for what is to be said next, where nothing is being said."""
        if is_free:
            self.end_line()
            self.text(question)

    def entered(self, line: str) -> None:
        """Somebody pressed Enter at the terminal: whatever was being written, its line has ended."""
        self._is_mid_line = False

    def remark(self, text: str) -> None:
        """Print a line beside the results; nothing where they are JSON."""
        if not self.is_json:
            self.end_line()
            self._remarks.print(Text(text, style="dim"))

    def aside(self, text: str) -> None:
        """Print a remark about what was said, not about what is being written."""
        self.remark(text)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows in columns."""
        widths = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]
        for number, row in enumerate([header, *rows]):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self._out.print(Text("  ".join(cells).rstrip(), style="bold" if number == 0 else ""))

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

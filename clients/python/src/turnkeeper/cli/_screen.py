"""Where a command prints: lines for people, or one JSON object per line for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

BOLD, DIM = "1", "2"


class Screen:
    """Results go to standard output; remarks to standard error, unless both are the terminal."""

    def __init__(self, *, is_json: bool) -> None:
        """Look at what standard output is."""
        self.is_json = is_json
        self.is_terminal = sys.stdout.isatty()
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
            stream = sys.stdout if self.is_terminal else sys.stderr
            stream.write(styled(text, DIM, stream) + "\n")
            stream.flush()

    def aside(self, text: str) -> None:
        """Print a remark about what was said, not about what is being written."""
        self.remark(text)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows in columns."""
        widths = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]
        for number, found in enumerate([header, *rows]):
            cells = (cell.ljust(width) for cell, width in zip(found, widths, strict=True))
            row = "  ".join(cells).rstrip()
            self.line(styled(row, BOLD, sys.stdout) if number == 0 else row)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def styled(text: str, code: str, stream: TextIO) -> str:
    """A text as a terminal shows it in a style; as it is where no terminal is, or none that has styles."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") in ("", "dumb", "unknown")
    return text if is_plain or not stream.isatty() else f"\x1b[{code}m{text}\x1b[0m"

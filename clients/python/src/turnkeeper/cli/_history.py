"""What was said before, kept from one conversation to the next."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from prompt_toolkit.history import FileHistory

MAX_LINES = 1000
"""Lines that are kept; of a longer file only so many are, from the next conversation on."""


class PromptHistory(FileHistory):
    """Lines in a file that only its owner may read. A file that cannot be read or written is none."""

    def __init__(self, path: Path) -> None:
        """Make the file where it is not there, and shorten it where it is long."""
        super().__init__(path)
        self.is_paused = False
        """Whether what is said now is not worth keeping, such as an answer to a question."""
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            self._shorten(path)

    @classmethod
    def of_user(cls, environ: Mapping[str, str] = os.environ) -> PromptHistory:
        """The one in the user's folder of states."""
        folder = Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        return cls(folder / "turnkeeper" / "history")

    def append_string(self, string: str) -> None:
        """Keep a line, unless it is not worth it."""
        if not self.is_paused:
            super().append_string(string)

    def load_history_strings(self) -> Iterable[str]:
        """All lines, the last one first."""
        try:
            yield from super().load_history_strings()
        except OSError:
            return

    def store_string(self, string: str) -> None:
        """Write a line."""
        with suppress(OSError):
            super().store_string(string)

    def _shorten(self, path: Path) -> None:
        kept = list(self.load_history_strings())
        if len(kept) <= MAX_LINES:
            return
        new = path.with_name(f"{path.name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            new.unlink()
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        shortened = FileHistory(new)
        for line in reversed(kept[:MAX_LINES]):
            shortened.store_string(line)
        new.replace(path)

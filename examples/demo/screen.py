"""The timeline and the tables: in colour on a terminal, plain elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

COLOURS = {
    "server": "bold",
    "vendor": "dim",
    "florence": "cyan",
    "street": "yellow",
    "ghost": "magenta",
    "desk": "green",
    "librarian": "blue",
}
MARKS = {
    "COMPLETED": "bold green",
    "FOLDED": "bold green",
    "CANCELLED": "bold yellow",
    "FAILED": "bold red",
    "thinks": "dim italic",
    "void": "red",
    "asks": "bold yellow",
    "refused": "yellow",
    "killed": "bold red",
}
QUIET = {"accepted", "queued", "started"}


class Screen:
    """Prints lines as they come."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._console = None
        if sys.stdout.isatty():
            try:
                from rich.console import Console
            except ImportError:
                pass
            else:
                self._console = Console(highlight=False, markup=False)

    def line(self, who: str, run: str, what: str, text: str) -> None:
        """A line of the timeline."""
        head = f"{time.monotonic() - self._began:6.2f}  "
        self._print(
            (head, "dim"),
            (f"{who:<9} ", COLOURS.get(who, "")),
            (f"{run:<10} ", COLOURS.get(who, "")),
            (f"{what:<10} ", MARKS.get(what, "dim" if what in QUIET else "")),
            (text, MARKS.get(what, "") if what in ("thinks", "killed", "void") else ""),
        )

    def fact(self, name: str, text: str) -> None:
        """Something that was checked, and holds."""
        self._print(("  holds  ", "bold green"), (f"{name:<31}", ""), (text, "dim"))

    def title(self, text: str) -> None:
        """The beginning of an act."""
        self._print()
        self._print((f"== {text}", "bold"))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows in columns."""
        widths = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]
        for number, row in enumerate([header, *rows]):
            cells = [
                (f"{cell:<{width}}  ", "bold" if number == 0 else MARKS.get(cell, ""))
                for cell, width in zip(row, widths, strict=True)
            ]
            self._print(*cells)

    def verdict(self, text: str, *, is_good: bool) -> None:
        """The last line."""
        self._print()
        self._print((text, "bold green" if is_good else "bold red"))

    def _print(self, *pieces: tuple[str, str]) -> None:
        if self._console is None:
            print("".join(text for text, _ in pieces).rstrip(), flush=True)
            return
        from rich.text import Text

        self._console.print(Text.assemble(*pieces), soft_wrap=True)

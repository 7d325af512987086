"""Counts the recorded provider streams that a test session has replayed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

VARIABLE = "TURNKEEPER_RECORDINGS"


@dataclass
class Recordings:
    """The folder of recordings, if there is one, and what of it was replayed.

    A test that replays a file calls `replayed(path, passed=n, total=m)` once, after its assertions.
    """

    folder: Path | None
    files: set[Path] = field(default_factory=set)
    exchanges_passed: int = 0
    exchanges_total: int = 0

    @classmethod
    def from_environment(cls) -> Recordings:
        """The folder that `make` names; none if the variable is unset or nothing is there."""
        named = os.environ.get(VARIABLE, "")
        folder = Path(named) if named else None
        return cls(folder if folder is not None and folder.is_dir() else None)

    def paths(self, wire_format: str) -> list[Path]:
        """The recordings of one wire format, sorted; none without the folder."""
        return [] if self.folder is None else sorted((self.folder / wire_format).glob("*.json"))

    def expected(self, recording: Path) -> Path:
        """Where the expectation of a recording lies."""
        assert self.folder is not None
        return self.folder / "expected" / recording.parent.name / recording.name

    def replayed(self, recording: Path, *, passed: int, total: int) -> None:
        """Note a file whose exchanges were replayed."""
        self.files.add(recording)
        self.exchanges_passed += passed
        self.exchanges_total += total

    def line(self) -> str | None:
        """The line of the summary; none if no test asked for recordings."""
        if self.folder is None:
            return "recordings: absent, skipped"
        formats = {path.parent.name for path in self.files}
        there = sum(len(self.paths(wire_format)) for wire_format in formats)
        exchanges = f"{self.exchanges_passed}/{self.exchanges_total} exchanges"
        return f"recordings {len(self.files)}/{there} files, {exchanges}" if self.files else None

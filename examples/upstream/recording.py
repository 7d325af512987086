"""Recorded exchanges and the project's own small streams, as answers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.upstream.answer import EVENT_STREAM, Answer

ROOT = Path(__file__).resolve().parents[2]
RECORDINGS = "TURNKEEPER_RECORDINGS"
_DEFAULT = ROOT.parent / "shared" / "recordings"


@dataclass(frozen=True)
class Exchange:
    """One recorded request and its answer."""

    number: int
    request: dict[str, Any]
    status: int
    content_type: str
    body: str

    @property
    def is_stream(self) -> bool:
        return self.content_type.startswith(EVENT_STREAM)

    def answer(self, *, cut: int = 0, pace: float = 0.0) -> Answer:
        """The recorded answer, in pieces of `cut` bytes."""
        return Answer.of(self.body, cut=cut, status=self.status, content_type=self.content_type, pace=pace)


def load_exchanges(path: Path) -> list[Exchange]:
    """Every exchange of a recording, in order."""
    recording = json.loads(path.read_text())
    return [_exchange(number, item) for number, item in enumerate(recording["exchanges"])]


def recorded_files(wire_format: str) -> list[Path]:
    """The recordings of a wire format; none where there is no such folder."""
    folder = Path(os.environ.get(RECORDINGS) or _DEFAULT)
    return sorted((folder / wire_format).glob("*.json"))


def streams_folder() -> Path:
    """The project's own streams, one folder per wire format."""
    return ROOT / "examples" / "streams"


def _exchange(number: int, item: dict[str, Any]) -> Exchange:
    response = item["response"]
    return Exchange(number, item["request"], response["status"], response["content_type"] or "", response["body"] or "")

"""What the upstream is asked, and what it does about it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from examples.upstream.dialects import GEMINI, format_of

EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def model(self) -> str:
        """The model that the request names, in its body or its path; "" if it names none."""
        if self.wire_format == GEMINI:
            return self.path.partition("?")[0].rpartition("/")[2].partition(":")[0]
        try:
            name = self.json.get("model", "")
        except (ValueError, AttributeError):
            return ""
        return name if isinstance(name, str) else ""

    @property
    def wire_format(self) -> str:
        """The format that the path belongs to."""
        return format_of(self.path)


class Ending(Enum):
    """How an answer ends."""

    END = "end"
    """As HTTP says; the connection is kept."""
    CUT = "cut"
    """The connection closes without the end that HTTP wants."""
    RESET = "reset"
    """The connection is reset."""
    HANG = "hang"
    """Nothing more comes, until the other side leaves."""


@dataclass(frozen=True)
class Answer:
    """One answer; every chunk of the body is written as one piece."""

    chunks: Iterable[bytes] = ()
    status: int = 200
    content_type: str = EVENT_STREAM
    headers: Mapping[str, str] = field(default_factory=dict)
    pace: float = 0.0
    """Seconds between chunks; 0 writes them as fast as they are taken."""
    ending: Ending = Ending.END
    before_end: asyncio.Event | None = None
    """Behind the last chunk, wait for this before the ending."""
    is_mute: bool = False
    """Not even a status line: the ending follows at once."""

    @classmethod
    def of(cls, body: bytes | str, *, cut: int = 0, **more: Any) -> Answer:
        """A body in one piece, or in pieces of `cut` bytes."""
        data = body.encode() if isinstance(body, str) else body
        pieces = [data[at : at + cut] for at in range(0, len(data), cut)] if cut else [data]
        return cls([piece for piece in pieces if piece], **more)

    @classmethod
    def error(cls, status: int, body: bytes | str = b"", **headers: str) -> Answer:
        """A status with a JSON body; headers are given with underscores."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls.of(body, status=status, content_type="application/json", headers=names)

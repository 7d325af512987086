"""What the caller hands over when it is done: what it sent, what it expects, and all that it was shown."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from turnkeeper import Event


@dataclass
class Submitted:
    """A prompt that was accepted."""

    run_id: str
    session_id: str
    prompt: str
    accept_sequence: int
    expected: list[str]
    """The outcomes that are right."""


@dataclass
class Shown:
    """A message as it was shown while it was written: the text of one attempt."""

    message_id: str
    attempt: int
    text: str


@dataclass
class Answered:
    """An approval that the librarian answered."""

    approval_id: str
    is_allowed: bool
    is_listed: bool
    """Whether `ListApprovals` had it before the answer."""
    second: str
    """Why a second answer was refused; empty where it was taken."""


@dataclass
class Record:
    """Everything that the caller knows."""

    submitted: list[Submitted] = field(default_factory=list)
    covered: list[str] = field(default_factory=list)
    """Runs that an acknowledged cancel covered."""
    overtaken: list[str] = field(default_factory=list)
    """Runs that were cancelled before they were submitted."""
    resumed: list[str] = field(default_factory=list)
    """Runs whose answer was being written when the server was killed."""
    cut: list[str] = field(default_factory=list)
    """Runs that were cancelled just before the kill: what is kept of their answer is what was durable by then."""
    events: dict[str, list[Event]] = field(default_factory=dict)
    """The durable events of each session, as they arrived, over all connections."""
    shown: list[Shown] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)
    """What the librarian knows, who is none of the caller."""

    def save(self, path: Path) -> None:
        """Write it down."""
        plain = asdict(self) | {
            "events": {name: [_packed(event) for event in events] for name, events in self.events.items()}
        }
        path.write_text(json.dumps(plain))

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read it again."""
        plain: dict[str, Any] = json.loads(path.read_text())
        return cls(
            submitted=[Submitted(**item) for item in plain["submitted"]],
            covered=plain["covered"],
            overtaken=plain["overtaken"],
            resumed=plain["resumed"],
            cut=plain["cut"],
            events={name: _unpacked(events) for name, events in plain["events"].items()},
            shown=[Shown(**item) for item in plain["shown"]],
        )


def _packed(event: Event) -> str:
    return base64.b64encode(event.SerializeToString(deterministic=True)).decode()


def _unpacked(events: Sequence[str]) -> list[Event]:
    return [Event.FromString(base64.b64decode(event)) for event in events]

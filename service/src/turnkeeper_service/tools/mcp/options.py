"""What a tool server lives by; apart from what needs the SDK, which is loaded only where a server is configured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class McpOptions:
    """One server: ``command`` on standard input and output, or ``url`` over streamable HTTP. Times are in seconds.

    ``timeout`` None takes the default of all tools; ``needs_approval`` names tools by the server's own names.
    """

    name: str
    prefix: str
    command: str = ""
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: bool = False
    connect_timeout: float = 30.0
    timeout: float | None = None
    replay: Literal["never", "safe", "hinted"] = "never"
    is_parallel: bool = False
    needs_approval: bool | frozenset[str] = False
    max_result_bytes: int = 1 << 20

    @property
    def max_message_bytes(self) -> int:
        """Of one message of the server: a result in base64, or with escapes, is longer than what it becomes."""
        return 4 * self.max_result_bytes + (1 << 16)

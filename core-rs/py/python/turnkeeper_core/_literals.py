"""The words that the scheduler takes and gives."""

from typing import Literal

Kind = Literal["prompt", "summary", "bootstrap"]
Delivery = Literal["queue", "steer", "reject", "replace"]
CancelMode = Literal["abort", "stop"]
Place = Literal["reserved", "queued", "lent", "waiting", "running", "parked", "woken", "held", "concluded"]
Role = Literal["prompt", "summary", "child"]
OnParentEnd = Literal["wait", "stop", "continue"]
WaitKind = Literal["approval", "tool", "backoff", "servers", "run", "drain"]
Cut = Literal["stop", "abort", "deadline", "parent"]
End = Literal["answered", "stopped", "parent_ended", "failed", "cancelled", "deadline", "parent"]
Phase = Literal["serving", "draining", "cut"]

"""The words that the scheduler takes and gives."""

from typing import Literal

Kind = Literal["prompt", "summary", "bootstrap"]
Delivery = Literal["queue", "steer", "reject", "replace"]
CancelMode = Literal["abort", "stop"]
Place = Literal["reserved", "queued", "waiting", "running", "parked", "woken"]

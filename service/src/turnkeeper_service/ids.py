"""Ids that the service mints, and the shape that all ids have."""

from __future__ import annotations

import os
import re
import time

ID_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What every id matches, whole."""


_POOL_BYTES = 4096
_pool = b""
_taken = 0


def _random(size: int) -> bytes:
    """Bytes of the system's generator, of which every one is used once. A call of the system for each id costs more."""
    global _pool, _taken
    start, _taken = _taken, _taken + size
    if _taken > len(_pool):
        _pool, start, _taken = os.urandom(_POOL_BYTES), 0, size
    return _pool[start:_taken]


def uuid7() -> str:
    """A UUIDv7: sorts by time of minting."""
    milliseconds = time.time_ns() // 1_000_000
    tail = _random(10)
    value = (milliseconds << 80) | int.from_bytes(tail, "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def short_id(prefix: str) -> str:
    """A random id for what only has to be unique in a session: turns, messages, leases."""
    return f"{prefix}-{_random(9).hex()}"


def is_id(text: str) -> bool:
    """Whether a text is a well-formed id."""
    return ID_PATTERN.fullmatch(text) is not None


def in_slot(slot: int, name: str) -> str:
    """A minted id that begins with the slot of its session: whoever is asked for it knows where to go."""
    return f"s{slot:03x}.{name}"


_TURN = re.compile(r"s[0-9a-f]{3}\.turn-([0-9a-f]{13})")


def turn_id_of(slot: int, number: int) -> str:
    """A turn of the core as the contract names it."""
    return in_slot(slot, f"turn-{number:013x}")


def turn_number_of(turn_id: str) -> int | None:
    """The core's number of a turn; None for a name that it did not give."""
    found = _TURN.fullmatch(turn_id)
    return int(found[1], 16) if found is not None else None

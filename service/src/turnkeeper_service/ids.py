"""Ids that the service mints, and the shape that all ids have."""

from __future__ import annotations

import os
import re
import time

ID_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What every id matches, whole."""


def uuid7() -> str:
    """A UUIDv7: sorts by time of minting."""
    milliseconds = time.time_ns() // 1_000_000
    tail = os.urandom(10)
    value = (milliseconds << 80) | int.from_bytes(tail, "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def short_id(prefix: str) -> str:
    """A random id for what only has to be unique in a session: turns, messages, leases."""
    return f"{prefix}-{os.urandom(9).hex()}"


def is_id(text: str) -> bool:
    """Whether a text is a well-formed id."""
    return ID_PATTERN.fullmatch(text) is not None

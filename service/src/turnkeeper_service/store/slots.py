"""Which slot a session is in: what is owned, and fenced, is a slot and not a session."""

from __future__ import annotations

from zlib import crc32

NUM_SLOTS = 1024
"""Fixed for ever: rows and minted ids carry the slot."""


ALL_SLOTS = frozenset(range(NUM_SLOTS))


def slot_of(tenant: str, session_id: str) -> int:
    """The slot of a session, from 0."""
    return crc32(f"{tenant}\0{session_id}".encode()) % NUM_SLOTS

"""Reading what is stored: what cannot be read says so, whatever it is that does not fit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from google.protobuf.message import DecodeError

from turnkeeper_service.store.errors import StoreCorruptError

UNREADABLE = (DecodeError, ValueError, TypeError, OverflowError)
"""What the values of a damaged row raise where they are taken for what they should be."""
_DAMAGE = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT))


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Around nothing but taking stored values for what they are. Raises StoreCorruptError, which names ``what``."""
    try:
        yield
    except UNREADABLE as error:
        raise StoreCorruptError(f"{what} cannot be read ({type(error).__name__})") from error


def is_damage(error: sqlite3.Error) -> bool:
    """Whether what is stored cannot be read."""
    # What the driver itself cannot take for text has no code.
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.OperationalError) if code is None else code & 0xFF in _DAMAGE

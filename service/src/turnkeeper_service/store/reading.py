"""Reading what is stored: what cannot be read says so, whatever it is that does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from google.protobuf.message import DecodeError

from turnkeeper_service.store.errors import StoreCorruptError

UNREADABLE = (DecodeError, ValueError, TypeError, OverflowError)
"""What the values of a damaged row raise where they are taken for what they should be."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Around nothing but taking stored values for what they are. Raises StoreCorruptError, which names ``what``."""
    try:
        yield
    except UNREADABLE as error:
        raise StoreCorruptError(f"{what} cannot be read ({type(error).__name__})") from error

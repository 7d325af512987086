"""Pages (AIP-158): opaque tokens that are good for the query that gave them and for no other."""

from __future__ import annotations

import base64
import binascii
import hashlib

from turnkeeper_service.errors import Reason, Refused, invalid

DEFAULT_PAGE = 50
MAX_PAGE = 500
MAX_DIGITS = 18


def page_size(asked: int, default: int = DEFAULT_PAGE, most: int = MAX_PAGE) -> int:
    """How many items a page has. Raises Refused for a negative size."""
    if asked < 0:
        raise invalid("page_size", "is negative")
    return min(asked or default, most)


def _digest(query: tuple[str, ...]) -> bytes:
    return hashlib.sha256("\0".join(query).encode()).digest()[:9]


def to_token(position: str, *query: str) -> str:
    """The token of a position in a query's results; "" for the end."""
    return base64.urlsafe_b64encode(_digest((*query, position)) + position.encode()).decode() if position else ""


def not_of_this_query() -> Refused:
    """The token was made up, or belongs to another query."""
    return invalid("page_token", "is not a token of this query", reason=Reason.ERROR_REASON_INVALID_PAGE_TOKEN)


def from_token(token: str, *query: str) -> str:
    """The position that a token of this query stands for; "" for the start. Raises Refused INVALID_PAGE_TOKEN."""
    if not token:
        return ""
    try:
        content = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        position = content[9:].decode()
    except (binascii.Error, UnicodeError):
        content, position = b"", ""
    if not position or content[:9] != _digest((*query, position)):
        raise not_of_this_query()
    return position


def number(token: str, *query: str) -> int:
    """The position as a number; 0 for the start. Raises Refused INVALID_PAGE_TOKEN."""
    position = from_token(token, *query)
    if position and not (position.isdecimal() and len(position) <= MAX_DIGITS):
        raise not_of_this_query()
    return int(position or 0)


def numbers(token: str, count: int, *query: str) -> tuple[int, ...] | None:
    """The position as so many numbers; None for the start. Raises Refused INVALID_PAGE_TOKEN."""
    position = from_token(token, *query)
    if not position:
        return None
    found = position.split(" ")
    if len(found) != count or not all(one.isdecimal() and len(one) <= MAX_DIGITS for one in found):
        raise not_of_this_query()
    return tuple(map(int, found))

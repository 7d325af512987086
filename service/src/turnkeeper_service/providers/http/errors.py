"""HTTP answers that are no stream, as `ProviderError`."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from turnkeeper_service.providers.base import FailureReason, ProviderError
from turnkeeper_service.providers.facts.overflow import says_overflow
from turnkeeper_service.providers.leniency import UNREADABLE, loads

from .failure_body import (
    clip,
    exceptions_in,
    is_spent,
    number_of,
    seconds_of,
    stated_failure,
    status_of,
    wait_of,
    within_bounds,
    words_of,
)

_RETRYABLE = frozenset({408, 409, 429})
_WORDS = ("overloaded", "rate_limit", "throttl", "api_error", "server_error", "timeout", "unavailable", "internal")


def status_error(status: int, headers: Mapping[str, str], body: bytes, now: float) -> ProviderError:
    """The error of a status other than 200. ``now`` is wall-clock time, for hints that are dates."""
    reason, title = _kind_of(status)
    is_retryable = status in _RETRYABLE or status >= 500
    hint = headers.get("x-should-retry", "").lower()
    if hint in ("true", "false"):
        is_retryable = hint == "true"
    parsed = _json(body)
    message = vendor_message(body)
    detail = f"HTTP {status}: {message}" if message else f"HTTP {status} without a message"
    place = _place(headers.get("location", ""))
    if 300 <= status < 400 and place:
        detail = f"HTTP {status}: redirects are not followed; this one leads to {place}"
    said = message if parsed is None else parsed
    wait = _retry_after(headers, now)
    return ProviderError(
        reason,
        title,
        detail,
        status=status,
        is_retryable=is_retryable and not is_spent(said),
        retry_after=wait_of(said) if wait is None else wait,
        is_context_overflow=says_overflow(said, status),
    )


def unexpected_answer(content_type: str, body: bytes) -> ProviderError:
    """The error of a good status that is not an event stream."""
    stated = stated_failure(_json(body))
    if stated is not None:
        return stream_error(stated)
    shown = clip(body.decode(errors="replace"))
    detail = f"Expected an event stream, got {content_type or 'no content type'}: {shown or 'an empty body'}"
    return ProviderError(FailureReason.PROVIDER_PROTOCOL, "Not an event stream", detail, status=200)


def stream_error(error: Any, *, is_retryable: bool | None = None, has_begun: bool = False) -> ProviderError:
    """The error that a vendor puts into a stream or a body with a good status.

    Where it stands in place of the answer, a status in it is read like one of HTTP. ``is_retryable`` decides where the
    error has no status.
    """
    status = status_of(error)
    reason, title = FailureReason.PROVIDER_ERROR, "Provider error"
    if status is not None and not has_begun:
        reason, title = _kind_of(status)
    if status is not None or is_retryable is None:
        is_retryable = _is_transient(error)
    return ProviderError(
        reason,
        title,
        words_of(error) or number_of(error) or "The provider sent an error without a message.",
        status=None if has_begun else status,
        is_retryable=is_retryable and not is_spent(error),
        retry_after=wait_of(error),
        is_context_overflow=says_overflow(error, status),
    )


def _kind_of(status: int) -> tuple[FailureReason, str]:
    if status in (401, 403):
        return FailureReason.PROVIDER_UNAUTHENTICATED, "Not authenticated"
    if status == 429:
        return FailureReason.PROVIDER_RATE_LIMITED, "Rate limited"
    if status >= 500:
        return FailureReason.PROVIDER_ERROR, "Provider error"
    if status >= 400:
        return FailureReason.PROVIDER_REFUSED, "Request refused"
    return FailureReason.PROVIDER_PROTOCOL, "Unexpected status"


def _place(location: str) -> str:
    """Where a redirect leads, without what may be a secret."""
    try:
        parts = urlsplit(location)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))
    except ValueError:
        return ""


def vendor_message(body: bytes) -> str:
    """What a vendor says in an error body, whatever its shape."""
    return words_of(_json(body)) or clip(body.decode(errors="replace"))


def _is_transient(error: Any) -> bool:
    status = status_of(error)
    if status is not None and (status in _RETRYABLE or status >= 500):
        return True
    inner = error.get("error") if isinstance(error, dict) else None
    named = ("code", "status", "type", "__type")
    said = [one.get(key) for one in (error, inner) if isinstance(one, dict) for key in named]
    said += exceptions_in(error) if isinstance(error, dict) else []
    return any(isinstance(value, str) and any(word in value.lower() for word in _WORDS) for value in said)


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if not value:
            continue
        seconds = seconds_of(value)
        if seconds is None:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
            except (ArithmeticError, LookupError, TypeError, ValueError):
                continue
        else:
            seconds *= scale
        if (wait := within_bounds(seconds)) is not None:
            return wait
    return None


def _json(body: bytes) -> Any:
    try:
        return loads(body.decode("utf-8-sig", errors="replace").encode())
    except UNREADABLE:
        return None

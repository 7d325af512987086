"""HTTP answers that are no stream, as `ProviderError`."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from typing import Any

import msgspec

from turnkeeper_service.providers.base import FailureReason, ProviderError
from turnkeeper_service.providers.overflow import says_overflow

MAX_DETAIL = 1000
_RETRYABLE = frozenset({408, 409, 429})
_WORDS = ("overloaded", "rate_limit", "api_error", "server_error", "timeout", "unavailable", "internal")


def status_error(status: int, headers: Mapping[str, str], body: bytes, now: float) -> ProviderError:
    """The error of a status other than 200. ``now`` is wall-clock time, for hints that are dates."""
    if status in (401, 403):
        reason, title = FailureReason.PROVIDER_UNAUTHENTICATED, "Not authenticated"
    elif status == 429:
        reason, title = FailureReason.PROVIDER_RATE_LIMITED, "Rate limited"
    elif status >= 500:
        reason, title = FailureReason.PROVIDER_ERROR, "Provider error"
    elif status >= 400:
        reason, title = FailureReason.PROVIDER_REFUSED, "Request refused"
    else:
        reason, title = FailureReason.PROVIDER_PROTOCOL, "Unexpected status"
    is_retryable = status in _RETRYABLE or status >= 500
    hint = headers.get("x-should-retry", "").lower()
    if hint in ("true", "false"):
        is_retryable = hint == "true"
    parsed = _json(body)
    message = vendor_message(body)
    detail = f"HTTP {status}: {message}" if message else f"HTTP {status} without a message"
    return ProviderError(
        reason,
        title,
        detail,
        status=status,
        is_retryable=is_retryable,
        retry_after=_retry_after(headers, now),
        is_context_overflow=says_overflow(message if parsed is None else parsed, status),
    )


def unexpected_answer(content_type: str, body: bytes) -> ProviderError:
    """The error of a 200 that is not an event stream; many gateways wrap their errors so."""
    error = _json(body)
    if isinstance(error, dict) and error.get("error"):
        return stream_error(error["error"])
    shown = _clip(body.decode(errors="replace"))
    detail = f"Expected an event stream, got {content_type or 'no content type'}: {shown or 'an empty body'}"
    return ProviderError(FailureReason.PROVIDER_PROTOCOL, "Not an event stream", detail, status=200)


def stream_error(error: Any) -> ProviderError:
    """The error that a vendor puts into a stream or a body with status 200."""
    message = _message(error) or "The provider sent an error without a message."
    return ProviderError(
        FailureReason.PROVIDER_ERROR,
        "Provider error",
        message,
        status=None,
        is_retryable=_is_transient(error),
        is_context_overflow=says_overflow(error),
    )


def vendor_message(body: bytes) -> str:
    """What a vendor says in an error body, whatever its shape."""
    parsed = _json(body)
    if parsed is None:
        return _clip(body.decode(errors="replace"))
    return _message(parsed) or _clip(body.decode(errors="replace"))


def _message(value: Any, depth: int = 0) -> str:
    if isinstance(value, str):
        return _clip(value)
    if depth > 4:
        return ""
    if isinstance(value, list):
        return _message(value[0], depth + 1) if value else ""
    if isinstance(value, dict):
        for key in ("error", "message", "detail", "msg", "errors", "title", "code", "type"):
            found = _message(value.get(key), depth + 1)
            if found:
                return found
    return ""


def _is_transient(error: Any) -> bool:
    if not isinstance(error, dict):
        return False
    for key in ("code", "status_code", "status", "type"):
        value = error.get(key)
        if isinstance(value, str) and value.isdigit():
            value = int(value[:4])
        if isinstance(value, int):
            if value in _RETRYABLE or 500 <= value < 600:
                return True
        elif isinstance(value, str) and any(word in value.lower() for word in _WORDS):
            return True
    return False


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if not value:
            continue
        try:
            seconds = float(value) * scale
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
            except ValueError:
                continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _clip(text: str) -> str:
    text = " ".join(text.replace("\0", "").split())
    return text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 1] + "…"

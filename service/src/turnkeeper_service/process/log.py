"""Logs: a constant event, values as keys, one JSON object per line unless somebody watches a terminal.

What a prompt, an answer or a tool said is never logged, whoever passes it, and secrets are masked by their key and by
their look.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MASK = "***"
# Text of users and models. Its length may be logged under another key (`prompt_bytes`).
CONTENT_KEYS = frozenset(
    {
        "prompt", "text", "content", "message", "messages", "system_prompt", "prompt_prefix", "delta", "answer",
        "reasoning", "arguments", "tool_input", "tool_result", "result", "output", "body", "payload", "request",
        "response",
    }
)  # fmt: skip
SECRET_KEY = re.compile(
    r"(^|[_-])(authorization|bearer|cookie|password|passphrase|secret|credentials?|token|(api|private)[_-]?key)$", re.I
)
# Tokens of ours, bearer headers and keys in the usual form of the vendors, wherever they stand.
SECRET_TEXT = re.compile(
    r"\btk_[\w-]{16,}|\b(?:sk|pk|rk|key|xai|gsk|AIza)[-_][\w-]{12,}|(?<=bearer )[\w.~+/=-]{8,}", re.I
)
MAX_DEPTH = 6


def configure(
    *, level: Literal["debug", "info", "warning", "error"], format: Literal["auto", "json", "text"], stream: TextIO
) -> None:
    """Send all logs of the process, those of libraries too, to a stream. Called once, by the command."""
    is_text = format == "text" or (format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
        if is_text
        else [structlog.processors.JSONRenderer(default=repr)]
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            show_exception,
            drop_content,
            mask_secrets,
            *last,
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def drop_content(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Remove what users, models and tools said, at any depth."""
    return {key: _without_content(value) for key, value in event.items() if key not in CONTENT_KEYS}


def mask_secrets(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Mask values whose key is a secret's name, and parts of texts that look like a secret."""
    return {key: _masked(key, value) for key, value in event.items()}


def show_exception(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Say where an exception came from, and its text only where it is ours or the system's.

    Texts of other packages quote what they were given: statements with their parameters, strings that do not decode.
    """
    exc_info = event.pop("exc_info", None)
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if exc_info is True:
        error = sys.exception()
    if isinstance(error, BaseException):
        event["exception"] = "\n".join(_lines(error))
    return event


def _lines(error: BaseException) -> Iterator[str]:
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"{frame.filename}:{frame.lineno} {frame.name}"
    is_ours = type(error).__module__.partition(".")[0].startswith("turnkeeper") or isinstance(error, OSError)
    yield f"{type(error).__module__}.{type(error).__qualname__}" + (f": {error}" if is_ours else "")
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield "from"
        yield from _lines(cause)
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield "with"
            yield from _lines(inner)


def _without_content(value: Any, depth: int = 0) -> Any:
    if depth < MAX_DEPTH and isinstance(value, dict):
        return {k: _without_content(v, depth + 1) for k, v in value.items() if k not in CONTENT_KEYS}
    if depth < MAX_DEPTH and isinstance(value, list | tuple):
        return [_without_content(item, depth + 1) for item in value]
    return value


def _masked(key: object, value: Any, depth: int = 0) -> Any:
    if isinstance(key, str) and SECRET_KEY.search(key):
        return MASK
    if isinstance(value, str):
        return SECRET_TEXT.sub(MASK, value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth >= MAX_DEPTH:
        return MASK
    if isinstance(value, dict):
        return {k: _masked(k, v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        # Metadata of a call is a list of pairs, each with a key that may be a secret's.
        name = value[0] if len(value) == 2 else ""
        return [_masked(name if i else "", item, depth + 1) for i, item in enumerate(value)]
    # Anything else is rendered by its repr: mask that too.
    return SECRET_TEXT.sub(MASK, repr(value))

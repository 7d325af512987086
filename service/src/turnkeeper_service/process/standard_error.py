"""Standard error as a log: whatever writes there, a library in C++ or a `print` of a tool, becomes a line of JSON too.

Whoever collects logs reads them line by line, and one raw line among them is one that is lost or breaks the reader.
"""

from __future__ import annotations

import faulthandler
import fcntl
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog

log = structlog.get_logger(__name__)

PIPE_BYTES = 1 << 20
"""What may be written before it is read: whoever writes may keep the reader from its turn."""
MAX_LINE_BYTES = 2000
CLOSE_SECONDS = 2.0
_NATIVE = re.compile(rb"([IWEF])\d{4} \d\d:\d\d:\d\d[.\d]* +\d+ ([^ ]+:\d+)\] ?(.*)", re.S)
_SET_PIPE_SIZE = 1031


def is_terminal(format: Literal["auto", "json", "text"]) -> bool:
    """Whether somebody reads standard error as text."""
    return format == "text" or (format == "auto" and sys.stderr.isatty())


@contextmanager
def lines_only(format: Literal["auto", "json", "text"]) -> Iterator[TextIO]:
    """Where the log goes while the context is open; what else is written to standard error goes into it.

    Unless it is text for somebody who watches: then it is standard error itself, and all is as it is written.
    """
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        # Somebody has put an object in its place.
        yield sys.stderr
        return
    if is_terminal(format):
        yield sys.stderr
        return
    kept = os.dup(descriptor)
    stream = os.fdopen(kept, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    reading, writing = os.pipe()
    with suppress(OSError):
        fcntl.fcntl(writing, _SET_PIPE_SIZE, PIPE_BYTES)
    sys.stderr.flush()
    os.dup2(writing, descriptor)
    os.close(writing)
    # What ends the process at once cannot be read here any more.
    faulthandler.enable(file=stream)
    reader = threading.Thread(target=_read, args=(reading,), name="standard error", daemon=True)
    reader.start()
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    sys.excepthook, threading.excepthook, sys.unraisablehook = _raised, _raised_in_thread, _unraisable
    logging.captureWarnings(True)
    try:
        yield stream
    finally:
        logging.captureWarnings(False)
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
        sys.stderr.flush()
        os.dup2(kept, descriptor)
        # A child that was left behind may still have the other end.
        reader.join(CLOSE_SECONDS)
        faulthandler.enable(file=sys.stderr)


def _read(descriptor: int) -> None:
    """Log what comes, line by line, until all who could write have gone."""
    has_complained = False
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        rest = b""
        while data := pipe.read(1 << 16):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[-MAX_LINE_BYTES:]
            for line in lines:
                has_complained = _take(line[:MAX_LINE_BYTES], has_complained)
        _take(rest, has_complained)


def _take(line: bytes, has_complained: bool) -> bool:
    """Log one line; whether the operator has been told that there are others."""
    if not line.strip():
        return has_complained
    native = _NATIVE.fullmatch(line)
    if native is not None:
        level = {b"I": "debug", b"F": "critical"}.get(native[1], "warning")
        getattr(log, level)("a library says", source=_text(native[2]), line=_text(native[3]))
        return has_complained
    if not has_complained:
        log.warning("something writes to standard error; its lines are logged at the level debug")
    # It may be of a tool, and hold what somebody said.
    log.debug("written to standard error", line=_text(line))
    return True


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip()


def _raised(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("the process ends by a fault", exc_info=(kind, error, trace))


def _raised_in_thread(args: Any) -> None:
    if args.exc_type is not SystemExit:
        log.error("a thread ended by a fault", exc_info=(args.exc_type, args.exc_value, args.exc_traceback))


def _unraisable(args: Any) -> None:
    log.error("a fault that nobody can catch", exc_info=(args.exc_type, args.exc_value, args.exc_traceback))

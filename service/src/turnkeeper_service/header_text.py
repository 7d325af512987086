"""What goes into the headers of requests: keys and values of the operator's, as files and terminals hand them over.

A header cannot say everything. What it cannot is found where the value comes from, and named by its place alone: the
value is a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

AROUND = " \t\r\n\f\v\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029\ufeff"
"""White space and the mark of a byte order, at both ends."""
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LINE_BREAK = re.compile(r"[\r\n\v\f\x85\u2028\u2029]")


def clean_key(text: str) -> str:
    """A key without what stands around it. Raises ValueError with what is wrong, never with the key."""
    key = text.strip(AROUND)
    problem = _problem(key)
    if not problem and not key.isascii():
        problem = "holds a character that no key has"
    if problem:
        raise ValueError(problem)
    return key


def clean_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers without what stands around their values. Raises ValueError naming the header, never its value."""
    cleaned = {}
    for name, value in headers.items():
        cleaned[name] = value.strip(AROUND)
        problem = _problem(cleaned[name])
        if problem:
            raise ValueError(f"the value of {name!r} {problem}")
    return cleaned


def is_header_name(name: str) -> bool:
    """Whether a header can have this name."""
    return _NAME.fullmatch(name) is not None


def _problem(text: str) -> str:
    if _LINE_BREAK.search(text):
        return "holds a line break"
    if any(not (character.isprintable() or character in "\t\xa0") for character in text):
        return "holds a character that is not shown"
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return "holds a character that a header cannot carry"
    return ""

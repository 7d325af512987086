"""Where requests go: a format's path behind the provider's base URL, before what the base URL asks for."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit, urlunsplit

SCHEMES = ("http://", "https://")
_FULL_PATH = re.compile(
    r"(/chat/completions|/completions|/responses|/messages|(/models)?/[^/]+:(streamG|g)enerateContent)/*$"
)
_UNSHOWN = re.compile(r"[\x00-\x20\x7f-\xa0\u200b-\u200f\u2028\u2029\ufeff]")


def endpoint(base_url: str, path: str, query: str = "") -> str:
    """The address of a path behind a base URL. ``query`` is added to what the base URL asks for."""
    base, _, asked = base_url.partition("?")
    query = "&".join(one for one in (asked, query) if one)
    return f"{base.rstrip('/')}{path}" + (f"?{query}" if query else "")


def base_url_problem(base_url: str) -> str:
    """What is wrong with a base URL, with the right one where that is plain; "" if nothing is."""
    if not base_url.startswith(SCHEMES):
        return "must start with http:// or https://"
    if _UNSHOWN.search(base_url):
        return "holds white space, or a character that is not shown"
    try:
        split = urlsplit(base_url)
        is_whole = bool(split.hostname) and split.port != 0
    except ValueError as error:
        return f"is no address: {error}"
    if not is_whole:
        return "names no host"
    if "#" in base_url:
        return f"has a fragment, which is never sent; write {_without(split, fragment='')}"
    full = _FULL_PATH.search(split.path)
    if full is not None:
        right = _without(split, path=split.path[: full.start()])
        return f"is the address of a request; write where the paths start: {right}"
    return ""


def _without(split: SplitResult, **parts: str) -> str:
    return urlunsplit(split._replace(**parts))

"""Where requests go: a format's path behind the provider's base URL, before what the base URL asks for."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit, urlunsplit

MAX_LABEL, MAX_HOST = 63, 253
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
    if problem := _host_problem(split.hostname or ""):
        return f"is no address: {problem}"
    if "#" in base_url:
        return f"has a fragment, which is never sent; write {_without(split, fragment='')}"
    full = _FULL_PATH.search(split.path)
    if full is not None:
        right = _without(split, path=split.path[: full.start()])
        return f"is the address of a request; write where the paths start: {right}"
    return ""


def _host_problem(host: str) -> str:
    """What no resolver takes of a host's name."""
    if not host.isascii():
        # Only here, since it loads what carries requests.
        from turnkeeper_service.providers.http.transport import parse_url

        try:
            host = parse_url(f"http://{host}").raw_host.decode()
        except ValueError:
            return "its host has a character that no host's name has"
    labels = host.removesuffix(".").split(".")
    if not all(0 < len(label) <= MAX_LABEL for label in labels):
        return f"a part of its host's name is empty or longer than {MAX_LABEL} characters"
    return "" if len(host) <= MAX_HOST else f"its host's name is longer than {MAX_HOST} characters"


def _without(split: SplitResult, **parts: str) -> str:
    return urlunsplit(split._replace(**parts))

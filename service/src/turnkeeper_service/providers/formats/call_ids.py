"""Ids of tool calls as a format takes them; vendors mint them by different rules."""

from __future__ import annotations

import hashlib
import re
import string

SHORT_LENGTH = 9
_LETTERS = string.ascii_letters + string.digits


class CallIds:
    """Ids of one conversation: unique in it, not too long, and in the format's alphabet.

    What the vendor's own model minted goes back as it came, as far as the format takes it. All others become nine
    letters and digits, which every vendor takes: some take nothing else. ``is_numbered``: a repeated id of the vendor's
    own is told apart by a number behind it, else it becomes a short one too.
    """

    def __init__(self, *, max_length: int = 64, forbidden: str = "", is_numbered: bool = True) -> None:
        self._max_length = max_length
        self._forbidden = re.compile(forbidden) if forbidden else None
        self._is_numbered = is_numbered
        self._given: dict[str, str] = {}
        self._used: set[str] = set()

    def of_call(self, call_id: str, *, is_own: bool) -> str:
        """The id of the next call that is named so; ``is_own``: the vendor's model made it."""
        clean = self._clean(call_id) if is_own else ""
        given, number = clean or _short(call_id), 1
        while given in self._used:
            number += 1
            again = f"{clean or call_id}_{number}"
            given = self._clean(again) if clean and self._is_numbered else _short(again)
        self._used.add(given)
        self._given[call_id] = given
        return given

    def of_result(self, call_id: str) -> str:
        """The id of the newest call that is named so."""
        return self._given.get(call_id) or _short(call_id)

    def _clean(self, call_id: str) -> str:
        if self._forbidden is not None:
            call_id = self._forbidden.sub("_", call_id)
        if len(call_id) <= self._max_length:
            return call_id
        digest = hashlib.sha256(call_id.encode()).hexdigest()[:12]
        return f"{call_id[: self._max_length - 13]}_{digest}"


def _short(call_id: str) -> str:
    number = int.from_bytes(hashlib.sha256(call_id.encode()).digest()[:16])
    letters = ""
    for _ in range(SHORT_LENGTH):
        number, place = divmod(number, len(_LETTERS))
        letters += _LETTERS[place]
    return letters

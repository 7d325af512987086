"""Ids of tool calls as a format takes them; vendors mint them by different rules."""

from __future__ import annotations

import hashlib
import re


class CallIds:
    """Ids of one conversation: unique in it, not too long, and in the format's alphabet."""

    def __init__(self, *, max_length: int = 64, forbidden: str = "") -> None:
        self._max_length = max_length
        self._forbidden = re.compile(forbidden) if forbidden else None
        self._given: dict[str, str] = {}
        self._used: set[str] = set()

    def of_call(self, call_id: str) -> str:
        """The id of the next call that is named so."""
        clean = self._clean(call_id) or "call"
        given, number = clean, 1
        while given in self._used:
            number += 1
            given = self._clean(f"{clean}_{number}")
        self._used.add(given)
        self._given[call_id] = given
        return given

    def of_result(self, call_id: str) -> str:
        """The id of the newest call that is named so."""
        return self._given.get(call_id) or self._clean(call_id)

    def _clean(self, call_id: str) -> str:
        if self._forbidden is not None:
            call_id = self._forbidden.sub("_", call_id)
        if len(call_id) <= self._max_length:
            return call_id
        digest = hashlib.sha256(call_id.encode()).hexdigest()[:12]
        return f"{call_id[: self._max_length - 13]}_{digest}"

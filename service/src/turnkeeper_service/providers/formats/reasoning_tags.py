"""Reasoning that models put into their text, between tags at its beginning; told by the tags alone."""

from __future__ import annotations

import re

_TAGS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "[think]": "[/think]",
    "◁think▷": "◁/think▷",
    "<|start_thinking|>": "<|end_thinking|>",
}
"""In lower case: what opens and what closes."""
_OPENING = re.compile(rf"[\s\ufeff]*({'|'.join(map(re.escape, _TAGS))})", re.IGNORECASE)
_STRAY = re.compile(rf"[\s\ufeff]*(?:{'|'.join(map(re.escape, _TAGS.values()))})", re.IGNORECASE)
"""What closes without having been opened: where the opening stood in the prompt, and nothing was thought."""
_BEGINNINGS = (*_TAGS, *_TAGS.values())
_CLOSING = {tag: re.compile(re.escape(tag), re.IGNORECASE) for tag in _TAGS.values()}
_MAX_BLANK = 64
"""White space that is held back until it shows what follows."""


class ReasoningTags:
    """Sorts the text that an answer begins with into reasoning and text, however it is cut into pieces."""

    def __init__(self) -> None:
        self.is_done = False
        """Whether all that follows is text."""
        self._held = ""
        self._close = ""
        self._is_fresh = True
        """Whether nothing of this reasoning has come yet but white space."""
        self._has_thought = False

    @property
    def has_begun(self) -> bool:
        """Whether text was taken that is not all given back yet."""
        return bool(self._held or self._close)

    def feed(self, text: str) -> list[tuple[bool, str]]:
        """Take more text; gives what it tells, in order, each with whether it is reasoning."""
        self._held += text
        found: list[tuple[bool, str]] = []
        while not self.is_done:
            told = self._inside() if self._close else self._before()
            if told is None:
                break
            found += [told] if told[1] else []
        return found

    def finish(self) -> list[tuple[bool, str]]:
        """The text is over: what is still held back."""
        held, self._held, is_thought = self._held, "", bool(self._close)
        self._close, self.is_done = "", True
        if is_thought or self._has_thought:
            held = held.strip()
        return [(is_thought, held)] if held else []

    def _before(self) -> tuple[bool, str] | None:
        """Before a tag, or where none is; None where that cannot be told yet."""
        held = self._held
        opening = _OPENING.match(held)
        if opening is not None:
            self._close, self._held = _TAGS[opening[1].lower()], held[opening.end() :]
            self._is_fresh = self._has_thought = True
            return True, ""
        stray = _STRAY.match(held)
        if stray is not None:
            self._held, self._has_thought = held[stray.end() :], True
            return True, ""
        start = held.lstrip().lstrip("\ufeff").lstrip()
        if len(held) <= _MAX_BLANK and (not start or any(tag.startswith(start.lower()) for tag in _BEGINNINGS)):
            return None
        self._held, self.is_done = "", True
        return False, start if self._has_thought else held

    def _inside(self) -> tuple[bool, str] | None:
        """Between the tags."""
        held = self._held.lstrip() if self._is_fresh else self._held
        closing = _CLOSING[self._close].search(held)
        if closing is not None:
            self._held, self._close = held[closing.end() :], ""
            return True, held[: closing.start()].rstrip()
        longest = min(len(self._close) - 1, len(held))
        kept = next((n for n in range(longest, 0, -1) if self._close.startswith(held[-n:].lower())), 0)
        told = held[: len(held) - kept]
        shown = told.rstrip() if len(told) - len(told.rstrip()) <= _MAX_BLANK else told
        self._held = held[len(shown) :]
        if not shown:
            return None
        self._is_fresh = False
        return True, shown

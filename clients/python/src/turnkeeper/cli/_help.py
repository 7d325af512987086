"""Help texts: what a docstring says, its examples line by line."""

from __future__ import annotations

import inspect
from collections.abc import Callable


def help_of(function: Callable[..., object]) -> str:
    """The help of a command. The mark keeps click from filling the lines of the examples."""
    return inspect.cleandoc(function.__doc__ or "").replace("\nExamples:\n", "\n\b\nExamples:\n")

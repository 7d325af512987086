"""A refusal as the command says it: fields of a request by the names that they have at the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, get_type_hints

from turnkeeper import TurnkeeperError

# Fields of requests, by the last name of their path, and the parameters of commands that they come from.
_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "session_id": ("session",),
    "run_id": ("run",),
    "model": ("model",),
    "system_prompt": ("system_prompt",),
    "context_id": ("context",),
    "approval_id": ("allow", "deny"),
    "comment": ("comment",),
    "hint": ("hint",),
    "after_seq": ("after",),
}
_PROMPT = re.compile(r"(^|\.)prompt\b")
_given: ContextVar[Mapping[str, str]] = ContextVar("given")


def remember(function: Callable[..., None], values: Mapping[str, object]) -> None:
    """Keep how the parameters that were given are called at the command line: `--run`, or `SESSION`."""
    hints = get_type_hints(function, include_extras=True)
    given = [name for name, value in values.items() if value not in (None, "", False)]
    _given.set({name: _shown(hints[name], name) for name in given})


def words(error: TurnkeeperError) -> str:
    """What was refused, and why."""
    if not error.violations:
        return str(error)
    name = f"{error.code.name}/{error.reason}" if error.reason else error.code.name
    found = (f"{_option(violation.field)}: {violation.description}" for violation in error.violations)
    return f"{name}: {'; '.join(dict.fromkeys(found))}"


def _option(field: str) -> str:
    """What a field of a request is called at the command line; in words where it comes from no option."""
    last, given = field.rpartition(".")[2], _given.get({})
    for name in _PARAMETERS.get(last, ()):
        if name in given:
            return given[name]
    return "the prompt" if _PROMPT.search(field) else last.replace("_", " ")


def _shown(hint: Any, name: str) -> str:
    for info in getattr(hint, "__metadata__", ()):
        # The first name of an option stands where typer takes a default otherwise.
        words = (getattr(info, "default", None), *(getattr(info, "param_decls", None) or ()))
        option = next((word for word in words if isinstance(word, str) and word.startswith("--")), None)
        if (shown := option or getattr(info, "metavar", None)) is not None:
            return str(shown)
    return name

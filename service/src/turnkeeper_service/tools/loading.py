"""Finds the function tools that the configuration names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable

from .base import OfferedTool
from .functions import FunctionTool


class ToolLoadError(Exception):
    """A configured tool cannot be loaded; the message names it."""


def load(names: Iterable[str]) -> dict[str, OfferedTool]:
    """Load ``package.module:function`` by name; an attribute that is a FunctionTool is taken as it is."""
    tools: dict[str, OfferedTool] = {}
    for name in names:
        module_name, colon, attribute = name.partition(":")
        if not colon:
            raise ToolLoadError(f"tools.functions: {name!r} is not of the form package.module:function")
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except Exception as error:
            # Whatever the module does when it is imported.
            raise ToolLoadError(
                f"tools.functions: cannot load {name!r}: {str(error) or type(error).__name__}"
            ) from error
        tool = _as_tool(name, found)
        if tool.tool.name in tools:
            raise ToolLoadError(f"tools.functions: two tools have the name {tool.tool.name!r}")
        tools[tool.tool.name] = tool.offered()
    return tools


def _as_tool(name: str, found: object) -> FunctionTool:
    if isinstance(found, FunctionTool):
        return found
    if not isinstance(found, Callable):  # type: ignore[arg-type]
        raise ToolLoadError(f"tools.functions: {name!r} is not a function")
    try:
        return FunctionTool(found)  # type: ignore[arg-type]
    except Exception as error:
        # Its signature may name what is not there, or what has no schema.
        raise ToolLoadError(f"tools.functions: cannot make a tool of {name!r}: {error}") from error

"""Settings as the text of a file that would hold them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .settings import Settings


def render(settings: Settings) -> str:
    """The settings as a file would hold them, secrets masked; what is unset stands as a comment."""
    return "\n".join(_tables(settings.model_dump(mode="json")))


def _tables(tables: Mapping[str, Any]) -> Iterator[str]:
    for table, content in tables.items():
        if table in ("providers", "models", "mcp"):
            named = {f"{table}.{_key(name)}": values for name, values in content.items()}
        else:
            named = {table: content}
        for header, values in named.items():
            # A set has no order of its own.
            values = {k: sorted(v) if k == "capabilities" and v else v for k, v in values.items()}
            lines = [f"{_key(k)} = {written(v)}" if v is not None else f"# {k} is unset" for k, v in values.items()]
            yield "\n".join([f"[{header}]", *lines, ""])


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else written(key)


def written(value: Any) -> str:
    """A value as TOML has it."""
    match value:
        case dict():
            return "{" + ", ".join(f"{_key(key)} = {written(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(written(inner) for inner in value) + "]"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)

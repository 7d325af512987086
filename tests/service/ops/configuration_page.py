"""Writes the tables of docs/configuration.md from the settings."""

from __future__ import annotations

import itertools
import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from turnkeeper_service.settings.settings import Settings, known_keys
from turnkeeper_service.settings.tables import TABLES_BY_NAME

PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"
MARK = "<!-- Written by"


def tables() -> str:
    """The generated part."""
    parts = []
    for table, keys in itertools.groupby(known_keys(), lambda item: item[0][0]):
        heading = (
            f'{table}."PROVIDER/MODEL"' if table == "models" else ".".join([table, *TABLES_BY_NAME.get(table, ())[:1]])
        )
        model = TABLES_BY_NAME[table][1] if table in TABLES_BY_NAME else Settings.model_fields[table].annotation
        parts += [f"### `[{heading}]`", "", (model.__doc__ or "").strip(), ""]
        parts += ["| key | default | what it is |", "|---|---|---|"]
        parts += [f"| `{key[-1]}` | {_default(info)} | {_text(info)} |" for key, info in keys]
        parts.append("")
    return "\n".join(parts)


def page() -> str:
    """The whole page: what people wrote, and the tables."""
    written, mark, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    return written + mark + rest.partition("\n")[0] + "\n\n" + tables()


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.default.get_secret_value() if isinstance(info.default, SecretStr) else info.default
    if value is None:
        return "unset"
    return f"`{json.dumps(str(value) if isinstance(value, Path) else value)}`"


def _text(info: FieldInfo) -> str:
    choices = " · ".join(f"`{json.dumps(choice)}`" for choice in _choices(info.annotation))
    return (info.description or "") + (f" One of {choices}." if choices else "")


def _choices(annotation: Any) -> list[object]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType, frozenset):
        return [choice for inner in get_args(annotation) for choice in _choices(inner)]
    return []


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

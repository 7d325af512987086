"""Where values come from: flags, environment and file, each with the place that an error names."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "TURNKEEPER_"
Key = tuple[str, ...]
# The one setting with a short name in the environment; TURNKEEPER_CONFIG names the file and is no setting.
SHORT_NAMES: dict[str, Key] = {PREFIX + "DATA_DIR": ("server", "data_dir")}
# Variables of the client and of this project's tests, that are no settings.
OTHER_NAMES = {PREFIX + name for name in ("ADDRESS", "TOKEN", "TLS_CA", "RECORDINGS", "CLIENTS")}
# Keys whose values are paths.
PATHS = {"data_dir", "token_file", "cert_file", "key_file", "client_ca_file", "api_key_file", "ca_file", "script_root"}


class SettingsError(Exception):
    """The configuration cannot be used (exit code 2). Each problem names its place, its key and what is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Layer:
    """Values of one source, and where in it a key stands."""

    values: dict[str, Any]
    place: Callable[[Key], str]


def from_flags(overrides: Mapping[str, str]) -> Layer:
    """Flags: dotted keys, values as text. Raises `SettingsError`."""
    values: dict[str, Any] = {}
    for text, value in overrides.items():
        try:
            node: Any = tomllib.loads(f"{text} = 0")
        except tomllib.TOMLDecodeError:
            raise SettingsError([f"flag {text}: not a dotted key"]) from None
        key: list[str] = []
        while isinstance(node, dict) and len(node) == 1:
            ((part, node),) = node.items()
            key.append(part)
        _put(values, tuple(key), value, f"flag {text}")
    return Layer(values, lambda key: f"flag {dotted(key)}")


def from_environment(environ: Mapping[str, str], tables: Container[str]) -> Layer:
    """Variables of ours, values as text; ``tables`` names the tables there are. Raises `SettingsError`."""
    values: dict[str, Any] = {}
    names: dict[Key, str] = {}
    for name, value in sorted(environ.items()):
        if not value or not is_setting(name, tables):
            continue
        parts = name.removeprefix(PREFIX).split("__")
        # Only names of models tell upper from lower case.
        key = tuple(part if parts[0] == "MODELS" and i == 1 else part.lower() for i, part in enumerate(parts))
        key = SHORT_NAMES.get(name, key)
        names[key] = name
        _put(values, key, value, name)

    def place(key: Key) -> str:
        related = (name for known, name in names.items() if known[: len(key)] == key or key[: len(known)] == known)
        return f"environment variable {next(related, PREFIX + '*')}"

    return Layer(values, place)


def is_setting(name: str, tables: Container[str]) -> bool:
    """Whether a variable means to set something; ``tables`` names the tables there are."""
    rest = name.removeprefix(PREFIX)
    if rest == name or name in OTHER_NAMES:
        return False
    return name in SHORT_NAMES or "__" in rest or rest.lower().partition("_")[0] in tables


def from_file(path: Path) -> Layer:
    """A TOML file. Raises `SettingsError`."""
    try:
        # Some editors begin a file with the mark of a byte order.
        text = path.read_text(encoding="utf-8-sig")
        values = tomllib.loads(text)
    except RecursionError:
        raise SettingsError([f"{path}: not TOML: nested too deeply"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: cannot read it: {reason(error)}"]) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{path}: not TOML: {error}"]) from None
    return Layer(values, lambda key: f"{path}:{_line(text, key)}")


def _line(text: str, key: Key) -> int:
    """Where a key of a valid TOML text begins: after the last beginning of the text that is TOML without it."""
    lines, start = text.splitlines(), 1
    for number in range(1, len(lines) + 1):
        try:
            values = tomllib.loads("\n".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue
        if _has(values, key):
            return start
        start = number + 1
    return start


def _has(values: object, key: Key) -> bool:
    for part in key:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def _put(values: dict[str, Any], key: Key, value: str, place: str) -> None:
    node = values
    for part in key[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise SettingsError([f"{place}: {part} is a value elsewhere and a table here"])
    if isinstance(node.get(key[-1]), dict):
        raise SettingsError([f"{place}: {key[-1]} is a table elsewhere and a value here"])
    node[key[-1]] = value


def merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Put values over others, table by table."""
    for key, value in values.items():
        if isinstance(value, dict):
            node = into.get(key)
            node = into[key] = dict(node) if isinstance(node, dict) else {}
            merge(node, value)
        else:
            into[key] = value


def anchor(values: dict[str, Any], cwd: Path, home: Path) -> None:
    """Make the paths absolute, so that a later change of the folder means nothing."""
    for key, value in values.items():
        if isinstance(value, dict):
            anchor(value, cwd, home)
        elif key in PATHS and isinstance(value, str):
            values[key] = str(home / value[2:] if value.startswith("~/") else cwd / value)


def place_of(layers: Sequence[Layer], key: Key) -> str:
    """Where a key stands, in the layer that wins."""
    for length in range(len(key), 0, -1):
        for layer in layers:
            if _has(layer.values, key[:length]):
                return layer.place(key[:length])
    return "the defaults"


def dotted(key: Key) -> str:
    """A key as the file would write it."""
    return ".".join(part if part.replace("-", "").replace("_", "").isalnum() else json.dumps(part) for part in key)


def reason(error: Exception) -> str:
    """Why a file could not be read, without its content."""
    return (error.strerror if isinstance(error, OSError) else None) or "not UTF-8 text"

"""Rule numbers of the sources, their sentences, and the places where none may stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import checks
from tools.rules import check_rules, numbers

SENTENCES = "# Rules\n\n- **U-11** A cancel is durable.\n- **U-12** A tool that ignores it is left behind.\n"
SOURCE = '"""Cancels (U-11 to U-12)."""\n\nWORDS = "refused"\n'


def errors(root: Path, **more: str) -> list[str]:
    """What is said of a small tree, with more files in it (``__`` stands for a slash, ``_dot_`` for a dot)."""
    files = {"docs/rules.md": SENTENCES, "service/src/a.py": SOURCE}
    files |= {name.replace("__", "/").replace("_dot_", "."): text for name, text in more.items()}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return check_rules([Path(name) for name in files], root)


def test_numbers_and_ranges_are_found_and_what_looks_like_one_is_not() -> None:
    text = "(U-8, U-11), U-20 to U-22; C-96 to C-97. UTF-8, SHA-256, dispatch:D-1, B-3, H-03, CC-1, W-30s, x-U-1"
    assert numbers(text) == {"U-8", "U-11", "U-20", "U-21", "U-22", "C-96", "C-97"}


def test_numbers_and_sentences_are_held_together(tmp_path: Path) -> None:
    assert errors(tmp_path) == []
    (missing,) = errors(tmp_path, core_rs__a_dot_rs="/// The rest (U-13).")
    assert missing == "core_rs/a.rs:1: U-13 has no sentence in docs/rules.md"
    (left,) = errors(tmp_path, service__src__a_dot_py='"""Cancels (U-11)."""')
    assert left == "docs/rules.md: no source names U-12"


@pytest.mark.parametrize(
    "name", ["proto/v1/a.proto", "README.md", "CHANGELOG.md", "docs/a.md", "clients/python/a.py", "examples/a.py"]
)
def test_none_stands_where_users_read(tmp_path: Path, name: str) -> None:
    (error,) = errors(tmp_path, **{name: "# As U-11 says."})
    assert error == f"{name}:1: names a rule where users read: U-11"


def test_the_service_says_none(tmp_path: Path) -> None:
    (error,) = errors(tmp_path, service__src__b_dot_py='"""Ends (U-12)."""\n\nWHY = "cancelled by U-11"\n')
    assert error.startswith("service/src/b.py:3: says a rule to users")


def test_a_file_over_the_limit_is_an_error_and_tests_stubs_and_protos_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    names = {
        "a.py": 401,
        "b.rs": 400,
        "c.pyi": 900,
        "d.proto": 900,
        "tests/e.py": 900,
        "gen/f.go": 900,
        "g_pb2.py": 900,
    }
    for name, length in names.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x\n" * length)
    assert checks.check_sizes([Path(name) for name in names]) == ["a.py: 401 lines, at most 400"]
    assert capsys.readouterr().out == "warning: b.rs: 400 lines, think about two files from 300 on\n"

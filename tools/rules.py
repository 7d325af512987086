"""Holds the rule numbers of the sources to `docs/rules.md`: each that is named has its sentence there, no other has.

A number is for those who change the code. What users read, the contract, the documents, the clients, the command and
whatever the service says, names none.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tools.files import GENERATED, ROOT

RULES = Path("docs/rules.md")
SENTENCE = re.compile(r"^- \*\*([A-Z]-\d+)\*\* .+\.$", re.M)
NUMBER = re.compile(r"(?<![\w:./*-])([CDHILNOPSUW])-([1-9]\d*)(?:(?: to |-)\1-([1-9]\d*))?(?![\w-])")
SOURCES = {".go", ".py", ".pyi", ".rs"}
FOR_USERS = re.compile(
    r"^(proto|clients|examples)/|^docs/[^/]+$|^[A-Z]+\.md$|README\.md$|/commands\.py$|/__main__\.py$"
)


def numbers(text: str) -> set[str]:
    """The rules that a text names; of a range all."""
    return {
        f"{letter}-{number}"
        for letter, first, last in NUMBER.findall(text)
        for number in range(int(first), int(last or first) + 1)
    }


def said(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of what a Python file can say when it runs: its strings, but for those that document it."""
    tree = ast.parse(source)
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


def check_rules(paths: list[Path], root: Path = ROOT) -> list[str]:
    """Numbers without a sentence, sentences without a number, and numbers where users read."""
    errors: list[str] = []
    named: dict[str, str] = {}
    sentences = set(SENTENCE.findall((root / RULES).read_text(encoding="utf-8")))
    for path in paths:
        name = path.as_posix()
        is_for_users = FOR_USERS.search(name) is not None
        if path == RULES or GENERATED.search(name) or not (is_for_users or path.suffix in SOURCES):
            continue
        text = (root / path).read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            found = numbers(line)
            if is_for_users and found:
                errors.append(f"{name}:{number}: names a rule where users read: {', '.join(sorted(found))}")
            elif found:
                named |= dict.fromkeys(found - named.keys(), f"{name}:{number}")
        if name.startswith("service/src/") and path.suffix == ".py" and numbers(text):
            errors += [
                f"{name}:{line}: says a rule to users: {what[:60]}" for line, what in said(text) if numbers(what)
            ]
    errors += [f"{named[rule]}: {rule} has no sentence in {RULES}" for rule in sorted(named.keys() - sentences)]
    return errors + [f"{RULES}: no source names {rule}" for rule in sorted(sentences - named.keys())]

"""Checks that no linter knows: sizes of files, names of this machine or of a mirror, and numbers of rules."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tools.files import GENERATED, ROOT, tracked
from tools.rules import check_rules

WARN_LINES, MAX_LINES = 300, 400
HAND_WRITTEN = {".go", ".java", ".js", ".py", ".rs", ".sh", ".ts", ""}
TESTS = re.compile(r"(^|/)tests/|(^|/)benches/|_test\.go$")
SOURCES = {".go", ".java", ".js", ".md", ".py", ".pyi", ".rs", ".ts"}
TEXTS_BY_NAME = {"LICENSE", ".gitignore"}
# Written in pieces, so that this file does not name what it forbids.
MACHINE_PATH = re.compile(r"(?<![\w.$}~)*-])/(?:" + "|".join(("work", "root", "tmp", "home" + "/[a-z]+")) + r")/")
MIRROR = re.compile(
    r"index[-_]url\s*=|find[-_]links\s*=|replace-with\s*=|^\s*registry\s*=|GOPROXY\s*[:?]?=|//[^/\s]*mirror", re.M
)
URL = re.compile(r"\b(?:https?|sparse\+https)://[^/\s\"']+")
LOCK_HOSTS = {
    "uv.lock": {"https://pypi.org", "https://files.pythonhosted.org"},
    "package-lock.json": {"https://registry.npmjs.org"},
    "Cargo.lock": {"https://github.com"},
    "go.sum": set(),
}


def check_sizes(paths: list[Path]) -> list[str]:
    """Hand-written files beyond the limit; those that come near it are only named."""
    errors: list[str] = []
    for path in paths:
        name = path.as_posix()
        if (
            path.suffix not in HAND_WRITTEN
            or path.name in TEXTS_BY_NAME
            or GENERATED.search(name)
            or TESTS.search(name)
        ):
            continue
        lines = len((ROOT / path).read_bytes().splitlines())
        if lines > MAX_LINES:
            errors.append(f"{name}: {lines} lines, at most {MAX_LINES}")
        elif lines > WARN_LINES:
            print(f"warning: {name}: {lines} lines, think about two files from {WARN_LINES} on")
    return errors


def check_places(paths: list[Path]) -> list[str]:
    """Paths of a machine, package sources other than the default ones, and hosts in lock files."""
    errors: list[str] = []
    for path in paths:
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path.name in LOCK_HOSTS:
            hosts = set(URL.findall(text)) - LOCK_HOSTS[path.name]
            if path.name != "package-lock.json":
                errors += [f"{path}: names {host}" for host in sorted(hosts)]
            else:
                resolved = set(URL.findall("\n".join(re.findall(r'"resolved": "[^"]+"', text))))
                errors += [f"{path}: names {host}" for host in sorted(resolved - LOCK_HOSTS[path.name])]
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if path.suffix != ".lock" and MACHINE_PATH.search(line):
                errors.append(f"{path}:{number}: names a path of one machine: {line.strip()[:100]}")
            if path.suffix not in SOURCES and MIRROR.search(line):
                errors.append(f"{path}:{number}: names a source of packages: {line.strip()[:100]}")
    return errors


def main() -> int:
    """Run the checks."""
    paths = tracked()
    errors = check_sizes(paths) + check_places(paths) + check_rules(paths)
    for error in errors:
        print(f"error: {error}")
    print(f"{len(paths)} files looked at, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())

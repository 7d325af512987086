"""`make lint`: every check of the project's own sources; all run, then the ones that failed are named."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from tools.steps import ROOT, Done, Step, run, run_lanes, say

BIN = ROOT / ".venv" / "bin"
BUF = ROOT / ".tools" / "buf" / "node_modules" / ".bin" / "buf"
TYPED = ("service/src", "clients/python/src", "tests", "bench", "examples", "tools")
STUBTEST_ALLOWLIST = ROOT / "core-rs" / "py" / "stubtest-allowlist.txt"


def python_steps() -> list[Step]:
    """Style, types, the stub of the compiled core, and which way imports go."""
    typed = [name for name in TYPED if any((ROOT / name).glob("**/*.py"))]
    stubtest = [str(BIN / "stubtest"), "turnkeeper_core._core", "--mypy-config-file", "pyproject.toml"]
    if STUBTEST_ALLOWLIST.exists():
        stubtest += ["--ignore-unused-allowlist", "--allowlist", str(STUBTEST_ALLOWLIST)]
    return [
        Step("ruff", "style and common mistakes", [str(BIN / "ruff"), "check", "."]),
        Step("ruff-format", "layout of Python files", [str(BIN / "ruff"), "format", "--check", "."]),
        Step("mypy", f"types of {' '.join(typed)}", [str(BIN / "mypy"), *typed]),
        Step("stubtest", "the core's stub against the built module", stubtest),
        Step("imports", "which way imports go", [str(BIN / "lint-imports"), "--no-cache"]),
    ]


def rust_steps() -> list[Step]:
    """Layout and clippy, also of the model-checked build."""
    clippy = ["cargo", "clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]
    return [
        Step("rustfmt", "layout of Rust files", ["cargo", "fmt", "--all", "--check"]),
        Step("clippy", "common mistakes in Rust", clippy),
    ]


def contract_steps() -> list[Step]:
    """The protos."""
    return [
        Step("buf", "the contract's style and comments", [str(BUF), "lint"], ROOT / "proto"),
        Step("buf-format", "layout of the protos", [str(BUF), "format", "-d", "--exit-code"], ROOT / "proto"),
    ]


def go_steps() -> list[Step]:
    """The Go client, once there is one."""
    module = ROOT / "clients" / "go"
    if not (module / "go.mod").exists():
        return []
    gofmt = 'out=$(gofmt -l $(git ls-files "*.go" | grep -v "^gen/")); echo "$out"; test -z "$out"'
    return [
        Step("go-vet", "common mistakes in Go", ["go", "vet", "./..."], module),
        Step("gofmt", "layout of Go files", ["sh", "-c", gofmt], module),
    ]


def own_steps() -> list[Step]:
    """What no linter knows."""
    return [
        Step("checks", "sizes of files, no machine's paths, rules by number", [sys.executable, "-m", "tools.checks"]),
        Step("spec-rows", "tests/spec/rows.toml is sound", [sys.executable, "-m", "tools.spec_coverage", "--check"]),
    ]


def breaking_step() -> list[Step]:
    """The contract against the last release, once there is one."""
    image = Path("released.binpb")
    if not (ROOT / "proto" / image).exists():
        return []
    return [
        Step(
            "buf-breaking",
            "the contract against the last release",
            [str(BUF), "breaking", "--against", str(image)],
            ROOT / "proto",
        )
    ]


def main() -> int:
    """Two lanes, like the tests."""
    rust = [*rust_steps(), *go_steps()]
    rest = [*own_steps(), *contract_steps(), *breaking_step(), *python_steps()]
    results: list[Done] = run_lanes([[partial(run, step) for step in lane] for lane in (rust, rest)])
    failed = [done.step.name for done in results if not done.is_ok]
    say("")
    say(f"lint: {len(results) - len(failed)} checks passed" + (f", failed: {' '.join(failed)}" if failed else ""))
    return 1 if failed or len(results) < len(rust) + len(rest) else 0


if __name__ == "__main__":
    os.environ.setdefault("CARGO_TERM_COLOR", "never")
    sys.exit(main())

"""`make gen`: wipes and regenerates what comes from proto/; with --check it compares, and fails on a difference."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
PACKAGE = Path("turnkeeper") / "v1"
PYTHON_OUT = ROOT / "clients" / "python" / "src"
GO_OUT = ROOT / "clients" / "go" / "gen"
BIN = ROOT / ".venv" / "bin"
BUF = ROOT / ".tools" / "buf" / "node_modules" / ".bin" / "buf"
INIT = '"""Generated from proto/turnkeeper/v1 by `make gen`; not edited by hand."""\n'


def generate_python(out: Path) -> None:
    """Messages, services and types by grpcio-tools and mypy-protobuf; the service modules only where services are."""
    shutil.rmtree(out / PACKAGE, ignore_errors=True)
    (out / PACKAGE).mkdir(parents=True)
    (out / PACKAGE / "__init__.py").write_text(INIT, encoding="utf-8")
    protos = sorted((PROTO / PACKAGE).glob("*.proto"))
    services = [path for path in protos if re.search(r"^service ", path.read_text(encoding="utf-8"), re.MULTILINE)]
    _protoc([f"--python_out={out}", f"--mypy_out=quiet:{out}"], protos)
    if services:
        _protoc([f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"], services)


def generate_go(out: Path) -> None:
    """Messages and services by the pinned plugins, driven by buf."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    command = [str(BUF), "generate", "--template", "buf.gen.yaml", "--output", str(out)]
    _run(command, {"PATH": f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ['PATH']}"})


def differences(committed: Path, fresh: Path) -> list[str]:
    """A unified diff of every file that differs or is on one side only."""
    lines: list[str] = []
    for name in sorted(_files(committed) | _files(fresh)):
        old, new = _text(committed / name), _text(fresh / name)
        if old != new:
            where = committed.relative_to(ROOT) / name
            lines += difflib.unified_diff(old, new, f"{where} (committed)", f"{where} (generated)", lineterm="")
    return lines


def main(arguments: list[str]) -> int:
    """Generate in place, or into a temporary folder to compare."""
    targets = [("python", generate_python, PYTHON_OUT, PACKAGE)]
    if GO_OUT.parent.is_dir():
        targets.append(("go", generate_go, GO_OUT, Path()))
    changed = False
    for name, generate, out, part in targets:
        started = time.monotonic()
        if "--check" not in arguments:
            print(f"==> {name}: generate {(out / part).relative_to(ROOT)} from proto", flush=True)
            generate(out)
        else:
            print(f"==> {name}: compare {(out / part).relative_to(ROOT)} with what proto gives", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                generate(Path(folder) / "out")
                lines = differences(out / part, Path(folder) / "out" / part)
            changed = changed or bool(lines)
            print("\n".join(lines[:200] + (["…"] if len(lines) > 200 else [])))
        print(f"<== {name}: {time.monotonic() - started:.1f} s", flush=True)
    if changed:
        print("generated code is not current: run `make gen` and commit what it changes", file=sys.stderr)
    return 1 if changed else 0


def _protoc(outputs: list[str], protos: list[Path]) -> None:
    names = [str(path.relative_to(PROTO)) for path in protos]
    command = [str(BIN / "python"), "-m", "grpc_tools.protoc", "-I.", *outputs, *names]
    _run(command, {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"})


def _run(command: list[str], environment: dict[str, str]) -> None:
    code = subprocess.run(command, cwd=PROTO, env={**os.environ, **environment}, check=False).returncode
    if code != 0:
        sys.exit(f"{command[0]} {command[1]}: exit {code}")


def _files(folder: Path) -> set[Path]:
    return {
        path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }


def _text(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

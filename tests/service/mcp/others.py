"""Tool servers that nobody here wrote, each installed into .tools/ as its pins say, once."""

from __future__ import annotations

import json
import shutil
import subprocess
import venv
from pathlib import Path

HERE = Path(__file__).parent
TOOLS = HERE.parents[2] / ".tools"
NPM_PINS = ("package.json", "package-lock.json")
PIP_PINS = "requirements.txt"


def everything() -> Path:
    """The program of `server-everything`, in JavaScript, from the protocol's own examples."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    assert not missing, f"{missing} is missing: install Node.js 20 or newer with npm"
    folder = TOOLS / "mcp"
    program = folder / "node_modules" / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
    if not (program.exists() and all(_is_current(folder, name) for name in NPM_PINS)):
        folder.mkdir(parents=True, exist_ok=True)
        for name in NPM_PINS:
            shutil.copy(HERE / name, folder)
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, check=True)
    return program


def fetch() -> Path:
    """The Python that has `mcp-server-fetch`, of the same examples."""
    folder = TOOLS / "mcp-fetch"
    if not _is_current(folder, PIP_PINS):
        venv.create(folder, with_pip=True, clear=True)
        install = [str(folder / "bin" / "pip"), "install", "--quiet", "--no-deps", "-r", str(HERE / PIP_PINS)]
        subprocess.run(install, check=True)
        shutil.copy(HERE / PIP_PINS, folder)
    return folder / "bin" / "python"


def _is_current(folder: Path, name: str) -> bool:
    return (folder / name).exists() and (folder / name).read_bytes() == (HERE / name).read_bytes()


def as_child(name: str, pid_file: Path, *command: str | Path) -> dict[str, str]:
    """Settings for a server on standard input and output that writes down its process id. Runs wait for it."""
    script = f'echo $$ > {pid_file}; exec "$0" "$@"'
    return {
        f"mcp__{name}__command": "sh",
        f"mcp__{name}__args": json.dumps(["-c", script, *map(str, command)]),
        f"mcp__{name}__wait": "true",
        f"mcp__{name}__is_parallel": "true",
    }

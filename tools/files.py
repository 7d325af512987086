"""The files of the checkout, for the checks that look at all of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATED = re.compile(r"(^|/)gen/|_pb2(_grpc)?\.pyi?$")


def tracked() -> list[Path]:
    """The files that git knows, and those that it would."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in sorted(output.split("\0")) if name and (ROOT / name).is_file()]

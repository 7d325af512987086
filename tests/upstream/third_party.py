"""Servers that others wrote: each in a Python environment of its own, run by the tests."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 120
ROOT = Path(__file__).resolve().parents[2]


def environment(requirement: str) -> Path:
    """The Python environment that holds a requirement; made once, under the folder of tools, and used again."""
    folder = ROOT / ".tools" / re.sub(r"\[.*\]", "", requirement).replace("==", "-")
    done = folder / "installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", requirement], check=True)
        done.touch()
    return folder


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def running(command: Sequence[str | Path], folder: Path, ready: bytes, settings: Mapping[str, str]) -> Iterator[None]:
    """Run a server in a folder, from the line that says that it is ready until the context is left."""
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **settings},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    # Read to the end: a server that nobody listens to stops when the pipe is full.
    is_ready = threading.Event()
    reader = threading.Thread(target=_copy, args=(process, folder / "log", ready, is_ready))
    reader.start()
    try:
        if not is_ready.wait(START_SECONDS) or process.poll() is not None:
            raise RuntimeError(f"the server did not start, see {folder / 'log'}")
        yield
    finally:
        process.terminate()
        process.wait()
        reader.join()


def _copy(process: subprocess.Popen[bytes], path: Path, ready: bytes, is_ready: threading.Event) -> None:
    assert process.stdout is not None
    with process.stdout, path.open("wb") as log:
        for line in process.stdout:
            log.write(line)
            if ready in line:
                is_ready.set()
    is_ready.set()

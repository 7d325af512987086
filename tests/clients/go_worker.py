"""The tool worker in Go, as a process."""

from __future__ import annotations

import asyncio
import os
import shutil
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

MODULE = Path(__file__).resolve().parents[2] / "clients" / "go"
WANTED = "go" in os.environ.get("TURNKEEPER_CLIENTS", "python go").split()
LIMIT = 60.0
"""Seconds after which a wait is a hang."""


async def build(folder: Path) -> Path:
    """The program, built into a folder."""
    go = shutil.which("go")
    assert go is not None, "Go is missing: install it, or leave it out by TURNKEEPER_CLIENTS=python"
    program = folder / "worker"
    process = await asyncio.create_subprocess_exec(
        *[go, "build", "-o", str(program), "./cmd/worker"], cwd=MODULE, stderr=PIPE
    )
    _, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return program


@asynccontextmanager
async def working(program: Path, address: str, site: str, *arguments: str) -> AsyncIterator[Process]:
    """A worker that serves."""
    process = await asyncio.create_subprocess_exec(
        *[str(program), "-address", address, "-site", site, *arguments], stdout=PIPE, stderr=PIPE
    )
    try:
        await serving(process, address)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def serving(process: Process, address: str) -> None:
    """Wait until the worker has said that it serves."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), LIMIT)
    assert line.decode() == f"serving [get_page] at {address}\n"

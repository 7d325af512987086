"""The Go program is built, and converses with the real server. `TURNKEEPER_CLIENTS` without `go` leaves it out."""

from __future__ import annotations

import asyncio
import os
import shutil
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
import pytest_asyncio

from tests.clients.real import RealServer

MODULE = Path(__file__).resolve().parents[2] / "clients" / "go"
WANTED = "go" in os.environ.get("TURNKEEPER_CLIENTS", "python go").split()

# Not skipped where Go is missing: that is a failure unless the client is not wanted.
pytestmark = [pytest.mark.asyncio] if WANTED else [pytest.mark.skip(reason="TURNKEEPER_CLIENTS leaves Go out")]


@pytest_asyncio.fixture
async def program(tmp_path: Path) -> Path:
    go = shutil.which("go")
    assert go is not None, "Go is missing: install it, or leave it out by TURNKEEPER_CLIENTS=python"
    built = tmp_path / "converse"
    build = await asyncio.create_subprocess_exec(
        *[go, "build", "-o", str(built), "./cmd/converse"], cwd=MODULE, stderr=PIPE
    )
    _, err = await build.communicate()
    assert build.returncode == 0, err.decode()
    return built


async def converse(program: Path, address: str, *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *[str(program), "-address", address, *arguments], stdout=PIPE, stderr=PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_it_prints_the_answer_and_half_closes(real: RealServer, program: Path) -> None:
    code, out, err = await converse(program, real.address, "-session", "g1", "-prompt", "Grüße from Go")
    assert (code, out) == (0, "Grüße from Go\n")
    assert err == "OUTCOME_STATUS_COMPLETED OUTCOME_REASON_ANSWERED\n"


async def test_a_run_that_fails_and_a_frame_that_is_refused_are_one(real: RealServer, program: Path) -> None:
    failing = '{"text": "so far", "fail": "PROVIDER_REFUSED"}'
    code, _, err = await converse(program, real.address, "-session", "g2", "-prompt", failing)
    assert (code, err.split()[0]) == (1, "OUTCOME_STATUS_FAILED")
    code, out, err = await converse(program, real.address, "-session", "not an id")
    assert (code, out) == (1, "")
    assert "InvalidArgument" in err

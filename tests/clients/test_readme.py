"""The first example of the README does what it says."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.clients.real import RealServer

README = Path(__file__).resolve().parents[2] / "clients" / "python" / "README.md"


@pytest.mark.asyncio
async def test_the_first_example_runs(real: RealServer) -> None:
    example = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", example],
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "TURNKEEPER_ADDRESS": real.address},
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    assert out.decode().startswith("Where are we going?\nstatus: OUTCOME_STATUS_COMPLETED\n")

"""Every example runs, as its reader would run it: as a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from examples.demo.promises import PROMISES
from examples.demo.server import ServerProcess
from examples.upstream import Upstream

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120.0
"""Seconds after which an example hangs."""


async def run(*words: str, **environment: str) -> tuple[int, str, str]:
    """Run Python with these words; returns exit code, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(LIMIT):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Mapping[str, str]]:
    """A server of its own; yields the environment in which clients find it."""
    server = ServerProcess(folder, "")
    await server.start()
    try:
        yield {"TURNKEEPER_ADDRESS": server.address}
    finally:
        await server.stop()


@pytest.mark.asyncio
async def test_the_demo_keeps_every_promise_with_recordings_and_without(tmp_path: Path) -> None:
    with_what_is_there, without = await asyncio.gather(
        run("-m", "examples.demo"), run("-m", "examples.demo", TURNKEEPER_RECORDINGS=str(tmp_path))
    )
    for code, out, err in (with_what_is_there, without):
        assert (code, err) == (0, ""), out
        lines = out.splitlines()
        assert lines[-1] == "demo: 17 runs, 17 terminals, OK"
        held = [line.split("holds", 1)[1] for line in lines if line.startswith("  holds  ")]
        assert len(held) == len(PROMISES)
        assert all(name in line for name, line in zip(PROMISES, held, strict=True))
        # It did what it is for: the server was killed while an answer was written, and that answer began again.
        assert re.search(r" server +killed ", out)
        assert re.search(r" ghost +again +void +attempt 1, PROCESS_LOST", out)
        assert re.search(r"^8 +florence +shorter +FOLDED .* into heat$", out, re.MULTILINE)
        # Tools ran where they belong; what another client allowed ran, and what it refused after the kill did not.
        assert re.search(r" desk +books +result +is_at_home, in the caller: Momo is not at home$", out, re.MULTILINE)
        assert re.search(r" desk +books +result +order_book, in the server: Emma is ordered$", out, re.MULTILINE)
        assert re.search(r" librarian books +refused +a second answer, no: APPROVAL_ANSWERED$", out, re.MULTILINE)
        assert re.search(r" killed .* librarian dune +says +no, .* dune +result +order_book, not run: ", out, re.DOTALL)
    assert "made-up streams" in without[1]


@pytest.mark.asyncio
async def test_the_demo_plays_with_a_provider_from_the_environment() -> None:
    async with Upstream() as provider:
        code, out, err = await run(
            "-m",
            "examples.demo",
            DEMO_BASE_URL=f"{provider.base_url}/v1",
            DEMO_API_KEY="a-key-of-the-demo",
            DEMO_MODEL="tokens-60-pace-5",
        )
        assert (code, err) == (0, ""), out
        assert out.splitlines()[-1] == "demo: 17 runs, 17 terminals, OK"
        assert {request.headers["authorization"] for request in provider.requests} == {"Bearer a-key-of-the-demo"}
        assert "a-key-of-the-demo" not in out


@pytest.mark.asyncio
async def test_the_demo_fails_loudly_and_says_which_promise() -> None:
    async with Upstream() as provider:
        environment = {"DEMO_BASE_URL": f"{provider.base_url}/v1", "DEMO_MODEL": "status-400"}
        code, out, _ = await run("-m", "examples.demo", **environment)
    assert code == 1
    last = out.splitlines()[-1]
    expected = "demo: FAILED, BROKEN PROMISE: every run ended as it should: weather ended FAILED, expected COMPLETED"
    assert last.startswith(expected)
    kept = re.search(r"\(its files are in (\S+)\)$", last)
    assert kept is not None
    folder = Path(kept[1])
    assert (folder / "data" / "turnkeeper.db").exists()
    shutil.rmtree(folder)


@pytest.mark.asyncio
async def test_the_demo_wants_a_model_beside_a_provider() -> None:
    code, out, err = await run("-m", "examples.demo", DEMO_BASE_URL="http://127.0.0.1:1/v1", DEMO_MODEL="")
    assert (code, out) == (2, "")
    assert "DEMO_MODEL" in err


@pytest.mark.asyncio
async def test_the_quickstart_runs(tmp_path: Path) -> None:
    async with served(tmp_path) as environment:
        code, out, err = await run("examples/quickstart.py", **environment)
    assert (code, err) == (0, "")
    first, *rest = out.splitlines()
    assert first == "Keep my turn.  [OUTCOME_STATUS_COMPLETED]"
    accepted = [line.removeprefix("accepted ") for line in rest if line.startswith("accepted ")]
    finished = [line.removeprefix("finished ") for line in rest if line.startswith("finished ")]
    assert finished == [f"{accepted[0]}: First come,", f"{accepted[1]}: first served."]


@pytest.mark.asyncio
async def test_the_core_runs_embedded() -> None:
    code, out, err = await run("examples/embedded/one_at_a_time.py")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert re.search(r"^blue weather is done$.*^blue news begins", "\n".join(lines), re.MULTILINE | re.DOTALL)
    assert "blue in celsius! was answered by 'weather'" in lines
    assert "green recipe was cancelled: USER by ada" in lines
    assert "green shopping was cancelled: USER by ada" in lines
    assert "green a new start is done" in lines
    assert "red forecast waits for 'which city?', 2 running in all" in lines
    assert "red forecast goes on without an answer" in lines
    assert "green impatient has waited long enough" in lines
    held, released = "grey report has answered, its upload goes on", "grey thanks begins when that is over"
    assert lines.index(held) < lines.index(released)
    assert lines[-1] == "left over: 0 sessions, 0 runs, 0 turns"


def test_the_readme_shows_the_quickstart_as_it_is() -> None:
    """What is copied from the README is what was run."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    script = (ROOT / "examples" / "quickstart.py").read_text()
    body = script[script.index("import asyncio") :]
    assert body in blocks

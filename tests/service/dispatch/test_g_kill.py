"""Table G of the dispatch rows: a server that is killed with a run open and two in line."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.service.dispatch.stage import row
from tests.service.dispatch.watch import COMPLETED, watching
from tests.service.harness import LIMIT, FlatRuns, load_settings, serving, submission
from turnkeeper.v1 import (
    content_pb2,
    run_service_pb2,
    session_service_pb2,
    session_service_pb2_grpc,
)

START_LIMIT = 30.0


@asynccontextmanager
async def served(data_dir: Path, *settings: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A server in a process of its own, and its address; killed at the end if it still runs."""
    arguments = ["serve", "--data-dir", str(data_dir), "--port", "0", "--http-address", "127.0.0.1:0"]
    for setting in settings:
        arguments += ["--set", setting]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "turnkeeper_service",
        *arguments,
        cwd=data_dir,
        env={"HOME": str(data_dir)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_LIMIT):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("listening grpc="), line
        yield process, line.split()[1].removeprefix("grpc=")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:G-12")
async def test_runs_of_a_killed_server_reach_their_terminals_after_a_restart(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"replies": [{"text": "one two", "hang": True}]}))
    scripted = ("providers.scripted.format=scripted", f"providers.scripted.script_root={tmp_path}")
    names = ["active", "queued-1", "queued-2"]
    async with served(tmp_path, *scripted) as (process, address), grpc.aio.insecure_channel(address) as channel:
        sessions: Any = session_service_pb2_grpc.SessionServiceStub(channel)
        runs: Any = FlatRuns(channel)
        await sessions.CreateSession(session_service_pb2.CreateSessionRequest(session_id="s"))
        watch = runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="s", after_seq=0))
        assert (await watch.read()).item.event.HasField("session_created")
        for name in names:
            model = "scripted/file:script.json" if name == "active" else ""
            request = run_service_pb2.SubmitRunRequest(submission=submission("s", name, name, model=model))
            await runs.SubmitRun(request)
        async with asyncio.timeout(LIMIT):
            # The model's text is on its way to a reader, and no more comes.
            while not (await watch.read()).item.delta.text.endswith("two"):
                pass
            listed = await runs.ListRuns(run_service_pb2.ListRunsRequest(session_id="s"))
        assert [(run.run_id, run.state) for run in listed.runs] == [
            ("active", run_service_pb2.RUN_STATE_RUNNING),
            ("queued-1", run_service_pb2.RUN_STATE_QUEUED),
            ("queued-2", run_service_pb2.RUN_STATE_QUEUED),
        ]
        process.kill()
        assert await process.wait() == -9
        watch.cancel()
    script.write_text(json.dumps({"replies": [{"text": "one two three"}]}))
    settings = load_settings(
        tmp_path, providers__scripted__format="scripted", providers__scripted__script_root=str(tmp_path)
    )
    async with (
        serving(tmp_path, settings=settings) as server,
        watching(server, "s") as after,
    ):
        outcomes = await after.quiet()
        assert [(run_id, outcome.status, outcome.text) for run_id, outcome in outcomes.items()] == [
            ("active", COMPLETED, "one two three"),
            ("queued-1", COMPLETED, "queued-1"),
            ("queued-2", COMPLETED, "queued-2"),
        ]
        assert after.of("active").count("attempt_discarded") == 1
        for name in names:
            assert after.of(name).count("run_accepted") == 1
            assert after.of(name).count("run_started") == 1
        messages = await server.messages("s")
        assert [row(message) for message in messages][:6] == [
            ("active", "user", "active"),
            ("active", "assistant", "one two three"),
            ("queued-1", "user", "queued-1"),
            ("queued-1", "assistant", "queued-1"),
            ("queued-2", "user", "queued-2"),
            ("queued-2", "assistant", "queued-2"),
        ]
        assert all(message.in_context for message in messages)
        assert {message.status for message in messages} == {content_pb2.MESSAGE_STATUS_COMPLETE}
        assert server.snapshot("s") is None

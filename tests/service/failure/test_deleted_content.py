"""What is left of a session that was deleted: that its runs were, and how they ended."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.service.failure.stories import directive, reason_of
from tests.service.harness import LIMIT, Harness, serving
from turnkeeper.v1 import event_pb2, run_service_pb2, session_service_pb2

NEEDLE = "knitting-needle"
SCHEMA = json.dumps({"type": "object", "properties": {"a": {"type": "string", "maxLength": 40}}, "required": ["a"]})


async def delete(server: Harness, session_id: str) -> None:
    await server.sessions.DeleteSession(session_service_pb2.DeleteSessionRequest(session_id=session_id, force=True))


async def live(server: Harness) -> dict[str, str]:
    """A session that holds the needle wherever somebody can write it; its runs and how they end."""
    await server.session("s", title=NEEDLE, system_prompt=NEEDLE)
    await server.submit("s", directive(NEEDLE), "answered")
    await server.submit("s", directive(json.dumps({"a": NEEDLE})), "output", output_schema_json=SCHEMA)
    too_long = directive(json.dumps({"a": NEEDLE * 9}))
    await server.submit("s", too_long, "invalid", output_schema_json=SCHEMA, max_output_reprompts=0)
    await server.submit("s", directive(NEEDLE, fail="PROVIDER_REFUSED", fail_after=1), "failed")
    await server.submit("s", directive(f"{NEEDLE} two three four", gate="held", gate_after=2), "stopped")
    await server.gates.reached("held")
    stop = event_pb2.CANCEL_MODE_STOP
    await server.cancel(run_id="stopped", mode=stop, hint=NEEDLE)
    await server.cancel(run_id="unseen", session_id="s", mode=stop, hint=NEEDLE)
    server.gates.open("held")
    run_ids = ["answered", "output", "invalid", "failed", "stopped"]
    outcomes = await server.terminals("s", run_ids)
    assert NEEDLE in outcomes["answered"].text + outcomes["output"].output_json
    return {run_id: reason_of(outcomes[run_id]) for run_id in run_ids}


def holders(data_dir: Path) -> list[str]:
    """The files that still hold the needle."""
    return [path.name for path in data_dir.iterdir() if NEEDLE.encode() in path.read_bytes()]


@pytest.mark.asyncio
async def test_a_deleted_session_leaves_no_content(tmp_path: Path) -> None:
    async with asyncio.timeout(3 * LIMIT), serving(tmp_path) as server:
        ends = await live(server)
        assert holders(tmp_path)
        await delete(server, "s")
        for run_id, reason in ends.items():
            run = await server.run_view(run_id)
            assert NEEDLE not in str(run)
            assert reason_of(run.outcome) == reason
            assert (run.outcome.text, run.outcome.output_json) == ("", "")
            assert not any(error.detail or error.title for error in run.outcome.errors)
        failed = (await server.run_view("failed")).outcome
        assert failed.usage.own.num_calls == 1
        assert failed.errors[0].reason
        again = await server.submit("s", directive(NEEDLE), "answered")
        assert again.is_replay
        assert NEEDLE not in str(again)
        # Nor is it in the files, while the server runs.
        while holders(tmp_path):
            await server.session("")
    async with serving(tmp_path) as server:
        assert NEEDLE not in str(await server.run_view("answered"))


@pytest.mark.asyncio
async def test_the_file_shrinks_while_the_server_runs(tmp_path: Path) -> None:
    path = tmp_path / "turnkeeper.db"
    async with asyncio.timeout(6 * LIMIT), serving(tmp_path) as server:
        for session_id in "small", "large":
            await server.session(session_id)
        await server.submit("small", "hello", "kept")
        run_ids = [f"r{number}" for number in range(8)]
        for run_id in run_ids:
            await server.submit("large", "x" * (1 << 20), run_id, delivery=event_pb2.DELIVERY_QUEUE)
        await server.cancel("large")
        await server.terminals("large", run_ids)
        await delete(server, "large")
        # It grows in the log first.
        while not 0 < path.stat().st_size < 2 << 20 or (tmp_path / "turnkeeper.db-wal").stat().st_size > 2 << 20:
            await server.session("")
        assert (await server.run_view("kept")).state == run_service_pb2.RUN_STATE_FINISHED
        # What comes next finds its place again.
        await server.submit("small", "hello", "next")
        await server.terminals("small", ["kept", "next"])
    assert path.stat().st_size < 2 << 20

"""Child processes of a server that is killed, comes back, and is told to end; on the event loop that it is made for."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

import grpc
import pytest

from tests.service.failure.process import ServerProcess
from tests.service.harness import LIMIT, submission
from tests.service.mcp.gate import Gate
from tests.service.mcp.test_stdio import is_alive
from tests.service.mcp.turns import calling, on_stdio, script
from turnkeeper.v1 import (
    event_pb2,
    run_service_pb2,
    run_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)


async def events(watch: AsyncIterable[run_service_pb2.WatchSessionResponse]) -> AsyncIterator[event_pb2.Event]:
    async for response in watch:
        for item in response.items:
            if item.HasField("event"):
                yield item.event


@pytest.mark.asyncio
async def test_children_go_with_their_server_and_a_call_that_may_runs_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    async with Gate(tmp_path) as gate:
        flags: list[str] = []
        for key, value in on_stdio(gate.path, replay="safe").items():
            flags += ["--set", f"{key.replace('__', '.')}={value}"]
        prompt = script(calling(("own_hold", {"what": "it"})))
        with ServerProcess(data, *flags) as killed:
            await asyncio.to_thread(killed.serving)
            async with grpc.aio.insecure_channel(killed.grpc_address) as channel:
                sessions = session_service_pb2_grpc.SessionServiceStub(channel)
                runs = run_service_pb2_grpc.RunServiceStub(channel)
                await sessions.CreateSession(session_service_pb2.CreateSessionRequest(session_id="s"))
                await runs.SubmitRun(run_service_pb2.SubmitRunRequest(submission=submission("s", prompt, "r")))
                first = await gate.reached("it")
            killed.kill()
            # Nobody ends the child: it sees that nobody is there any more.
            await gate.reached("left")
        with ServerProcess(data, *flags) as server:
            await asyncio.to_thread(server.serving)
            second = await gate.reached("it", 2)
            assert (second.key, second.process != first.process) == (first.key, True)
            gate.open()
            async with grpc.aio.insecure_channel(server.grpc_address) as channel, asyncio.timeout(LIMIT):
                runs = run_service_pb2_grpc.RunServiceStub(channel)
                watch = runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="s", after_seq=0))
                said = []
                async for event in events(watch):
                    if event.HasField("tool_call_finished"):
                        said.append(event.tool_call_finished.result.content[0].text.text)
                    if event.HasField("run_finished"):
                        said.append(event.run_finished.outcome.text)
                        break
                watch.cancel()
            assert said == ["it is over", "done"]
            server.signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.ended) == 0
            assert not is_alive(second.process)
        connected = [json.loads(line) for line in server.log.splitlines() if "is connected" in line]
        assert [(line["server"], line["num_tools"]) for line in connected] == [("own", 7), ("own", 7)]

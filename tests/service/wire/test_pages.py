"""Pages are bounded by what a message may hold, and what cannot be sent is refused with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.service.harness import details, reason, serving
from turnkeeper.v1 import run_service_pb2, session_service_pb2

pytestmark = pytest.mark.asyncio

LONG = 200_000
SMALL: dict[str, Any] = {"server__max_message_bytes": str(1 << 20)}
"""The least of what answers below has to fit into."""


async def paged(method: Any, request: Any, field: str) -> list[list[Any]]:
    """All pages of a list."""
    pages = []
    while True:
        response = await method(request)
        assert response.ByteSize() <= 1 << 20
        pages.append(list(getattr(response, field)))
        if not response.next_page_token:
            return pages
        request.page_token = response.next_page_token


async def test_a_page_that_would_be_too_long_ends_early(tmp_path: Path) -> None:
    async with serving(tmp_path, **SMALL) as server:
        ids = [f"s{number}" for number in range(8)]
        for session_id in ids:
            await server.session(session_id, system_prompt="p" * LONG)
        names = [f"r{number}" for number in range(8)]
        for name in names:
            await server.submit("s0", json.dumps({"text": ["x" * LONG]}), name)
        await server.terminals("s0", names)
        pages = await paged(
            server.sessions.ListSessions, session_service_pb2.ListSessionsRequest(page_size=500), "sessions"
        )
        assert [one.session_id for page in pages for one in page] == ids
        assert len(pages) == 4
        runs = await paged(
            server.runs.ListRuns, run_service_pb2.ListRunsRequest(session_id="s0", page_size=500), "runs"
        )
        assert [one.run_id for page in runs for one in page] == names
        assert all(len(one.outcome.text) == LONG for page in runs for one in page)
        request = session_service_pb2.ListMessagesRequest(session_id="s0", page_size=500)
        messages = await paged(server.sessions.ListMessages, request, "messages")
        assert [one.run_id for page in messages for one in page] == [name for name in names for _ in range(2)]


async def test_a_page_that_ends_with_the_list_promises_no_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        await server.submit("s", "hello", "a")
        await server.terminals("s", ["a"])
        response = await server.runs.ListRuns(run_service_pb2.ListRunsRequest(session_id="s", page_size=1))
        assert ([run.run_id for run in response.runs], response.next_page_token) == (["a"], "")
        request = session_service_pb2.ListMessagesRequest(session_id="s", page_size=2)
        response = await server.sessions.ListMessages(request)
        assert (len(response.messages), response.next_page_token) == (2, "")


async def test_an_answer_that_no_message_holds_is_refused_with_its_reason(tmp_path: Path) -> None:
    async with serving(tmp_path, **SMALL) as server:
        await server.session("s", system_prompt="p" * 1_000_000)
        labels = {f"label{number}": "x" * 1_000 for number in range(64)}
        update = session_service_pb2.UpdateSessionRequest(
            session_id="s", settings=session_service_pb2.SessionSettings(labels=labels)
        )
        get = session_service_pb2.GetSessionRequest(session_id="s")
        for method, request in ((server.sessions.UpdateSession, update), (server.sessions.GetSession, get)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(request)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert reason(caught.value) == "MESSAGE_TOO_LARGE"
            assert details(caught.value)["QuotaFailure"].violations[0].subject == "max_message_bytes"


async def test_an_event_that_no_message_holds_ends_its_stream_with_its_reason(tmp_path: Path) -> None:
    async with serving(tmp_path, server__max_message_bytes="100000") as server:
        await server.session("s")
        await server.submit("s", '{"tokens": 30000}', "long")
        watching = server.runs.WatchSession(run_service_pb2.WatchSessionRequest(session_id="s", after_seq=0))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in watching:
                pass
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason(caught.value) == "MESSAGE_TOO_LARGE"
        assert details(caught.value)["QuotaFailure"].violations[0].subject == "max_message_bytes"
        assert int(details(caught.value)["ErrorInfo"].metadata["last_seq"]) > 0

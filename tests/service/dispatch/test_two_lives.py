"""One name, asked for twice at the same time: it has one life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.service.harness import LIMIT, Harness, reason, serving
from turnkeeper.v1 import event_pb2, run_service_pb2, session_service_pb2
from turnkeeper_service.store.base import Commit, SessionRow
from turnkeeper_service.store.sqlite import SqliteStore


class LateStore(SqliteStore):
    """Acknowledges a new session late, or finds a session late: when the test lets it."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.acknowledges = asyncio.Event()
        self.written = asyncio.Event()
        self.finds: dict[str, asyncio.Event] = {}
        self.asked: dict[str, asyncio.Event] = {}

    def commit(self, commit: Commit) -> asyncio.Future[None]:
        inner = super().commit(commit)
        if commit.insert_session is None or self.acknowledges.is_set():
            return inner
        outer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        inner.add_done_callback(lambda _: self.written.set())
        asyncio.ensure_future(self.acknowledges.wait()).add_done_callback(lambda _: outer.set_result(None))
        return outer

    async def get_session(self, tenant: str, session_id: str) -> SessionRow | None:
        row = await super().get_session(tenant, session_id)
        if session_id in self.finds:
            self.asked.setdefault(session_id, asyncio.Event()).set()
            await self.finds[session_id].wait()
        return row


async def get(server: Harness, session_id: str) -> session_service_pb2.Session:
    response = await server.sessions.GetSession(session_service_pb2.GetSessionRequest(session_id=session_id))
    found: session_service_pb2.Session = response.session
    return found


async def lead_lives(server: Harness, session_id: str, look: Callable[[], None]) -> list[int]:
    """Watch a session while it is being made, then let a run go through it: what the watcher saw."""
    seen: list[int] = []
    opened = asyncio.Event()

    async def watch() -> None:
        request = run_service_pb2.WatchSessionRequest(session_id=session_id, after_seq=0)
        request.filter.without_deltas = True
        stream = server.runs.WatchSession(request)
        async for response in stream:
            opened.set()
            if response.item.HasField("event"):
                seen.append(response.item.event.seq)
                if response.item.event.HasField("run_finished"):
                    break
        stream.cancel()

    watching = asyncio.ensure_future(watch())
    # The watch has been asked for when what was asked behind it is answered.
    for _ in range(3):
        await get(server, "other")
    look()
    await opened.wait()
    await server.submit(session_id, "hello", "r")
    await watching
    return seen


@pytest.mark.asyncio
async def test_who_looks_for_a_session_that_is_being_made_sees_its_one_life(tmp_path: Path) -> None:
    store = LateStore(tmp_path)
    store.acknowledges.set()
    async with asyncio.timeout(LIMIT), serving(tmp_path, store=store) as server:
        await server.session("other")
        store.acknowledges.clear()
        creating = asyncio.ensure_future(server.session("s", title="t"))
        await store.written.wait()
        twin = asyncio.ensure_future(server.session("s", title="t"))
        seen = await lead_lives(server, "s", store.acknowledges.set)
        assert seen == list(range(1, len(seen) + 1))
        assert (await creating).settings.title == (await twin).settings.title == "t"
        assert (await get(server, "s")).last_seq == seen[-1]


@pytest.mark.asyncio
async def test_a_run_id_that_two_sessions_take_at_once_is_one_run(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        for session_id in "a", "b":
            await server.session(session_id)
    store = LateStore(tmp_path)
    store.acknowledges.set()
    async with asyncio.timeout(LIMIT), serving(tmp_path, store=store) as server:
        # b is being read, and r is to be one of its runs, while a takes r and ends it.
        store.finds["b"] = asyncio.Event()
        store.asked["b"] = asyncio.Event()
        submits = [asyncio.ensure_future(server.submit("b", "hello", "r"))]
        await store.asked["b"].wait()
        submits.append(asyncio.ensure_future(server.submit("a", "hello", "r", delivery=event_pb2.DELIVERY_REPLACE)))
        await server.submit("a", "hello", "behind")
        await server.terminals("a", ["behind"])
        store.finds["b"].set()
        results = await asyncio.gather(*submits, return_exceptions=True)
        refused = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert [reason(error) for error in refused] == ["RUN_ID_REUSED"]
        for session_id in "a", "b":
            await server.submit(session_id, "hello", f"last-of-{session_id}")
            await server.terminals(session_id, [f"last-of-{session_id}"])
            history = [event.seq for event in await server.history(session_id)]
            assert history == list(range(1, len(history) + 1))
        assert not server.server.failure.done()


@pytest.mark.asyncio
@pytest.mark.parametrize("settings", [{"title": "same"}, {"title": "other"}])
async def test_sessions_made_at_once_are_made_once(tmp_path: Path, settings: dict[str, str]) -> None:
    async with serving(tmp_path) as server:
        calls = [server.session("s", title="same"), *(server.session("s", **settings) for _ in range(20))]
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [result for result in results if isinstance(result, BaseException)]
        assert {reason(error) for error in refused if isinstance(error, grpc.aio.AioRpcError)} <= {"SESSION_EXISTS"}
        assert len(refused) in ((0,) if settings["title"] == "same" else (1, 20))
        events = await server.history("s")
        assert [event.WhichOneof("payload") for event in events] == ["session_created"]
        assert not server.server.failure.done()

"""A real server on a real port, inside the test: with gates to hold its runs and the provider's answers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from turnkeeper.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    content_pb2,
    event_pb2,
    run_service_pb2,
    run_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)
from turnkeeper_service.app import Server
from turnkeeper_service.process.clock import Clock
from turnkeeper_service.providers.gates import Gates
from turnkeeper_service.settings.settings import Settings
from turnkeeper_service.store.base import Store
from turnkeeper_service.tools.base import OfferedTool

LIMIT = 10.0
"""Seconds after which a wait of a test is a hang. Nothing that passes ever takes this long."""


class Places:
    """Checkpoints of a test: holds chosen runs at ``dispatch`` or ``turn`` until they are released."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], asyncio.Event] = {}
        self._reached: dict[tuple[str, str], asyncio.Event] = {}

    def hold(self, place: str, run_id: str) -> None:
        """Hold this run when it reaches the place."""
        self._held[(place, run_id)] = asyncio.Event()

    def release(self, place: str, run_id: str) -> None:
        """Let it go on, now or when it comes."""
        self._held[(place, run_id)].set()

    async def reached(self, place: str, run_id: str) -> None:
        """Wait until a held run is there."""
        async with asyncio.timeout(LIMIT):
            await self._reached.setdefault((place, run_id), asyncio.Event()).wait()

    def reach(self, place: str, run_id: str) -> Coroutine[Any, Any, None] | None:
        """Called by the server."""
        event = self._held.get((place, run_id))
        if event is None or event.is_set():
            return None
        self._reached.setdefault((place, run_id), asyncio.Event()).set()
        return _wait(event)

    def is_held(self, run_id: str) -> bool:
        """Called by the server."""
        return any(held == run_id for _, held in self._held)


async def _wait(event: asyncio.Event) -> None:
    """Wait, as work does that notices a cancel late."""
    is_cancelled = False
    while not event.is_set():
        try:
            await event.wait()
        except asyncio.CancelledError:
            is_cancelled = True
    if is_cancelled:
        raise asyncio.CancelledError


def prompt(text: str) -> list[content_pb2.Part]:
    """A prompt of one text."""
    return [content_pb2.Part(text=content_pb2.Text(text=text))]


def submission(session_id: str, text: str = "hello", run_id: str = "", **fields: Any) -> run_service_pb2.Submission:
    """A submission of one text."""
    return run_service_pb2.Submission(session_id=session_id, run_id=run_id, prompt=prompt(text), **fields)


@dataclass(frozen=True, slots=True)
class OneItem:
    """A response with a single item, as `Flat` gives it."""

    item: run_service_pb2.StreamItem


class Flat:
    """A streaming call whose responses are given item by item, so that tests need not care how they travelled."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._items: deque[OneItem] = deque()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    async def read(self) -> Any:
        """The next item, or what gRPC says at the end."""
        while not self._items:
            response = await self._call.read()
            if not hasattr(response, "items"):
                return response
            self._items.extend(OneItem(item) for item in response.items)
        return self._items.popleft()

    async def __aiter__(self) -> AsyncIterator[OneItem]:
        while isinstance(one := await self.read(), OneItem):
            yield one


class FlatRuns:
    """RunService's stub; streams of items are `Flat`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = run_service_pb2_grpc.RunServiceStub(channel)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, name)
        if name not in ("Run", "WatchSession", "Converse"):
            return method
        return lambda *given, **named: Flat(method(*given, **named))


class Harness:
    """The server, and stubs that talk to it over its port."""

    def __init__(self, server: Server, channel: grpc.aio.Channel, gates: Gates, places: Places) -> None:
        self.server = server
        self.channel = channel
        self.gates = gates
        self.places = places
        self.sessions: Any = session_service_pb2_grpc.SessionServiceStub(channel)
        self.runs: Any = FlatRuns(channel)
        self.admin: Any = admin_service_pb2_grpc.AdminServiceStub(channel)

    async def session(self, session_id: str, **settings: Any) -> session_service_pb2.Session:
        """Create a session."""
        request = session_service_pb2.CreateSessionRequest(
            session_id=session_id, settings=session_service_pb2.SessionSettings(**settings)
        )
        response: session_service_pb2.CreateSessionResponse = await self.sessions.CreateSession(request)
        return response.session

    async def submit(
        self, session_id: str, text: str = "hello", run_id: str = "", **fields: Any
    ) -> run_service_pb2.RunReceipt:
        """Submit a prompt."""
        request = run_service_pb2.SubmitRunRequest(submission=submission(session_id, text, run_id, **fields))
        response: run_service_pb2.SubmitRunResponse = await self.runs.SubmitRun(request)
        return response.receipt

    async def cancel(self, session_id: str = "", run_id: str = "", **fields: Any) -> run_service_pb2.CancelReceipt:
        """Cancel a session's runs or one run, which may have to be of that session."""
        scope = run_service_pb2.CancelScope()
        if run_id:
            scope.run_id = run_id
            fields["session_id"] = session_id
        else:
            scope.session_id = session_id
        request = run_service_pb2.CancelRunsRequest(scope=scope, **fields)
        response: run_service_pb2.CancelRunsResponse = await self.runs.CancelRuns(request)
        return response.receipt

    def start_submit(
        self, session_id: str, text: str = "hello", run_id: str = "", **fields: Any
    ) -> asyncio.Task[run_service_pb2.RunReceipt]:
        """Submit a prompt beside what the test does meanwhile; the test awaits it."""
        return asyncio.create_task(self.submit(session_id, text, run_id, **fields))

    def start_cancel(
        self, session_id: str = "", run_id: str = "", **fields: Any
    ) -> asyncio.Task[run_service_pb2.CancelReceipt]:
        """Cancel beside what the test does meanwhile; the test awaits it."""
        return asyncio.create_task(self.cancel(session_id, run_id, **fields))

    async def admin_stats(self) -> admin_service_pb2.GetStatsResponse:
        """The counts of the process."""
        response: admin_service_pb2.GetStatsResponse = await self.admin.GetStats(admin_service_pb2.GetStatsRequest())
        return response

    async def run_view(self, run_id: str) -> run_service_pb2.Run:
        """A run as GetRun shows it."""
        response: run_service_pb2.GetRunResponse = await self.runs.GetRun(run_service_pb2.GetRunRequest(run_id=run_id))
        return response.run

    async def messages(self, session_id: str) -> list[content_pb2.Message]:
        """All messages of a session's main context."""
        request = session_service_pb2.ListMessagesRequest(session_id=session_id, page_size=500)
        found: list[content_pb2.Message] = []
        while True:
            response: session_service_pb2.ListMessagesResponse = await self.sessions.ListMessages(request)
            found += response.messages
            if not response.next_page_token:
                return found
            request.page_token = response.next_page_token

    async def history(self, session_id: str) -> list[event_pb2.Event]:
        """All durable events of a session up to now."""
        request = run_service_pb2.WatchSessionRequest(session_id=session_id, after_seq=0, is_history_only=True)
        request.filter.without_deltas = True
        return [item.item.event async for item in self.runs.WatchSession(request) if item.item.HasField("event")]

    async def terminals(self, session_id: str, run_ids: Iterable[str]) -> dict[str, event_pb2.Outcome]:
        """Wait for the terminals of these runs; in the order in which they came. Fails if one comes twice."""
        wanted = set(run_ids)
        found: dict[str, event_pb2.Outcome] = {}
        request = run_service_pb2.WatchSessionRequest(session_id=session_id, after_seq=0)
        async with asyncio.timeout(LIMIT):
            stream = self.runs.WatchSession(request)
            async for response in stream:
                event = response.item.event
                if event.HasField("run_finished"):
                    assert event.run_id not in found, f"{event.run_id} has two terminals"
                    found[event.run_id] = event.run_finished.outcome
                    if wanted <= found.keys():
                        break
            stream.cancel()
        return {run_id: outcome for run_id, outcome in found.items() if run_id in wanted}

    def counts(self, session_id: str, tenant: str = "default") -> Any:
        """A session in numbers, None where it has no work."""
        return self.server.runs.parts.core.counts((tenant, session_id))

    def snapshot(self, session_id: str, tenant: str = "default") -> Any:
        """The core's view of a session, None where it has no work."""
        return self.server.runs.parts.core.snapshot((tenant, session_id))


def load_settings(data_dir: Path, **overrides: str) -> Settings:
    """Settings of a test server; ``server__drain_timeout_seconds="5"`` sets a key."""
    values = {
        "server.data_dir": str(data_dir),
        "server.grpc_address": "127.0.0.1:0",
        "server.http_address": "127.0.0.1:0",
        # What fails, fails: tests of retries ask for them.
        "retries.max_retries": "0",
        # Tests count what a vendor is asked and what a session is told; those of titles ask for them.
        "defaults.generate_titles": "false",
    }
    values.update({key.replace("__", "."): value for key, value in overrides.items()})
    return Settings.load({"HOME": str(data_dir)}, values, cwd=data_dir)


@asynccontextmanager
async def serving(
    data_dir: Path,
    *,
    clock: Clock | None = None,
    store: Store | None = None,
    settings: Settings | None = None,
    gates: Gates | None = None,
    tools: Mapping[str, OfferedTool] | None = None,
    places: Places | None = None,
    **overrides: str,
) -> AsyncIterator[Harness]:
    """A server on a free port, closed at the end."""
    gates, places = gates or Gates(), places or Places()
    server = Server(
        settings or load_settings(data_dir, **overrides),
        clock=clock,
        gates=gates,
        checkpoints=places,
        store=store,
        tools=tools,
    )
    await server.start()
    try:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            yield Harness(server, channel, gates, places)
    finally:
        await server.close()


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The google.rpc details of a refused call, by message name."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            found: dict[str, Any] = {}
            for packed in status.details:
                name = packed.type_url.rpartition(".")[2]
                message = getattr(error_details_pb2, name)()
                packed.Unpack(message)
                found[name] = message
            return found
    return {}


def reason(error: grpc.aio.AioRpcError) -> str:
    """The ErrorInfo reason of a refused call."""
    info = details(error).get("ErrorInfo")
    return info.reason if info is not None else ""

"""Streams that go on by themselves over lost connections: the run, the session, the tenant.

Each is an asynchronous iterator that owns its call: nothing runs beside it, so one that is abandoned, by `aclose` or by
leaving its `async with`, leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Generic, Self, TypeAlias, TypeVar

import grpc

from turnkeeper._assembler import Item, MessageAssembler
from turnkeeper._connection import Connection, Readable, Retry
from turnkeeper._cursor import Cursor
from turnkeeper._errors import TurnkeeperError
from turnkeeper.v1.event_pb2 import OUTCOME_STATUS_FOLDED, Event, Fold, Outcome
from turnkeeper.v1.run_service_pb2 import (
    GetRunRequest,
    LaggedNotice,
    RunReceipt,
    RunRequest,
    RunResponse,
    StreamItem,
    Submission,
    WatchFilter,
    WatchSessionRequest,
    WatchSessionResponse,
    WatchTenantRequest,
    WatchTenantResponse,
)
from turnkeeper.v1.session_service_pb2 import GetSessionRequest

T = TypeVar("T")
Response = TypeVar("Response")
RunItem: TypeAlias = RunReceipt | Event | Item


class Stream(Generic[T]):
    """An asynchronous iterator that is closed by `aclose`, by the end of its `async with`, or by its own end."""

    def __init__(self, items: AsyncGenerator[T]) -> None:
        """Drive a generator."""
        self._items = items

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        return await anext(self._items)

    async def aclose(self) -> None:
        """Stop reading. The run, or the session, goes on."""
        await self._items.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class SessionStream(Stream[Item]):
    """The items of a session, each once, for as long as the session lives."""

    def __init__(self, connection: Connection, request: WatchSessionRequest) -> None:
        """Open nothing yet; the first item does."""
        super().__init__(self._run(connection, request))
        self._cursor = Cursor(request.after_seq if request.HasField("after_seq") else None)

    @property
    def last_seq(self) -> int | None:
        """The seq of the last event that was returned: what `after_seq` goes on from."""
        return self._cursor.after_seq

    @property
    def messages(self) -> MessageAssembler:
        """The session's open messages, as far as this stream has returned them."""
        return self._cursor.messages

    async def _run(self, connection: Connection, request: WatchSessionRequest) -> AsyncGenerator[Item]:
        cursor = self._cursor
        if cursor.after_seq is None:
            # "From now on" is fixed once, or a connection that is lost before the first event would lose events.
            named = GetSessionRequest(session_id=request.session_id)
            cursor.after_seq = (await connection.call(connection.sessions.GetSession, named)).session.last_seq

        def open_call() -> Readable:
            return connection.runs.WatchSession(_resumed(request, cursor), metadata=connection.metadata)

        def take(response: WatchSessionResponse) -> list[Item]:
            return [item for taken in response.items for item in cursor.take(taken)]

        responses = _resuming(connection, open_call, WatchSessionResponse, take)
        async with aclosing(responses) as items:
            async for item in items:
                yield item


class RunStream(Stream[RunItem]):
    """A submission's stream: its receipt, then the items of its run, up to and with its terminal.

    A run whose prompt was folded is followed into the terminal of the run that took it, unless that was declined.
    """

    def __init__(self, connection: Connection, submission: Submission, *, follow_fold: bool) -> None:
        """Open nothing yet; the first item submits."""
        super().__init__(self._run(connection))
        self._submission = submission
        self._follow_fold = follow_fold
        self._cursor = Cursor(None)
        self._targets = [submission.run_id]
        self.receipt: RunReceipt | None = None
        """What was accepted; None before the first item."""
        self.outcome: Outcome | None = None
        """How the run ended, or the run that it was folded into; None before the end."""
        self.fold: Fold | None = None
        """Where the prompt was folded; None where it was not."""

    @property
    def run_id(self) -> str:
        """The run's id; known before it is submitted."""
        return self._submission.run_id

    @property
    def messages(self) -> MessageAssembler:
        """The run's open messages, as far as this stream has returned them."""
        return self._cursor.messages

    async def text(self) -> str:
        """Read to the end and return the text of the answer; partial where the run was cut, as `outcome` says."""
        async for _ in self:
            pass
        return self.outcome.text if self.outcome is not None else ""

    async def _run(self, connection: Connection) -> AsyncGenerator[RunItem]:
        retry = Retry(connection)
        while self.outcome is None:
            try:
                async with aclosing(self._connected(connection, retry)) as items:
                    async for item in items:
                        yield item
                if self.outcome is None:
                    await self._look_up(connection)
            except TurnkeeperError as error:
                error.run_id = self.run_id
                await retry.wait(error)

    async def _connected(self, connection: Connection, retry: Retry) -> AsyncGenerator[RunItem]:
        """The items of one connection. A submission that may have arrived is sent again: its run_id makes it one."""
        kind: type[RunResponse | WatchSessionResponse]
        call: Readable
        if self.receipt is None:
            request = RunRequest(submission=self._submission, follow_fold=self._follow_fold)
            call, kind = connection.runs.Run(request, metadata=connection.metadata), RunResponse
        else:
            watch = WatchSessionRequest(session_id=self.receipt.session_id, filter=WatchFilter(run_ids=self._targets))
            call = connection.runs.WatchSession(_resumed(watch, self._cursor), metadata=connection.metadata)
            kind = WatchSessionResponse
        try:
            while self.outcome is None and (response := await connection.read(call, kind)) is not None:
                retry.connected()
                for taken in response.items:
                    for item in self._take(taken):
                        yield item
        finally:
            call.cancel()

    def _take(self, item: StreamItem) -> list[RunItem]:
        if item.WhichOneof("item") == "receipt":
            if self.receipt is not None or item.receipt.WhichOneof("result") != "run":
                return []
            self.receipt = item.receipt.run
            if self._cursor.after_seq is None and self.receipt.accepted_seq:
                self._cursor.after_seq = self.receipt.accepted_seq - 1
            return [self.receipt]
        if item.WhichOneof("item") == "error":
            raise TurnkeeperError.from_frame(item.error)
        new = self._cursor.take(item)
        for found in new:
            if isinstance(found, Event) and found.WhichOneof("payload") == "run_finished":
                self._ended(found.run_id, found.run_finished.outcome)
        return list(new)

    def _ended(self, run_id: str, outcome: Outcome) -> None:
        if run_id != self._targets[-1]:
            return
        if outcome.status == OUTCOME_STATUS_FOLDED and self._follow_fold and outcome.fold.into_run_id:
            self.fold = outcome.fold
            self._targets.append(outcome.fold.into_run_id)
        else:
            self.outcome = outcome

    async def _look_up(self, connection: Connection) -> None:
        """The stream ended without the terminal: ask for it, and go on watching where there is none yet."""
        for _ in range(2):
            request = GetRunRequest(run_id=self._targets[-1])
            run = (await connection.call(connection.runs.GetRun, request)).run
            if not run.HasField("outcome"):
                break
            self._ended(run.run_id, run.outcome)
            if self.outcome is not None:
                return
        raise TurnkeeperError(grpc.StatusCode.UNAVAILABLE, "the stream ended before the run's terminal")


class TenantStream(Stream[WatchTenantResponse]):
    """Notices of all sessions of the tenant. After a lost connection it begins with a `lagged` notice: read lists."""

    def __init__(self, connection: Connection, request: WatchTenantRequest) -> None:
        """Open nothing yet; the first notice does."""
        super().__init__(self._run(connection, request))

    async def _run(self, connection: Connection, request: WatchTenantRequest) -> AsyncGenerator[WatchTenantResponse]:
        num_opened = 0
        before: list[WatchTenantResponse] = []

        def open_call() -> Readable:
            nonlocal num_opened
            num_opened += 1
            before[:] = [WatchTenantResponse(lagged=LaggedNotice())] if num_opened > 1 else []
            asked = WatchTenantRequest(with_current=request.with_current or num_opened > 1)
            return connection.runs.WatchTenant(asked, metadata=connection.metadata)

        def take(response: WatchTenantResponse) -> list[WatchTenantResponse]:
            new = before[:]
            before.clear()
            return new + ([response] if response.WhichOneof("notice") not in (None, "heartbeat") else [])

        async with aclosing(_resuming(connection, open_call, WatchTenantResponse, take)) as notices:
            async for notice in notices:
                yield notice


async def _resuming(
    connection: Connection,
    open_call: Callable[[], Readable],
    kind: type[Response],
    take: Callable[[Response], list[T]],
) -> AsyncGenerator[T]:
    """What is new in the responses of a call that is opened again whenever it is lost, up to its proper end."""
    retry = Retry(connection)
    while True:
        call = open_call()
        try:
            while (response := await connection.read(call, kind)) is not None:
                retry.connected()
                for item in take(response):
                    yield item
            return
        except TurnkeeperError as error:
            await retry.wait(error)
        finally:
            call.cancel()


def _resumed(request: WatchSessionRequest, cursor: Cursor) -> WatchSessionRequest:
    """The request as it goes on from where the reader stands."""
    again = WatchSessionRequest()
    again.CopyFrom(request)
    if cursor.after_seq is not None:
        again.after_seq = cursor.after_seq
    again.positions.extend(cursor.messages.positions())
    return again

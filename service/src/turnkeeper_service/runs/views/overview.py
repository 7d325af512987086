"""What callers see of sessions and runs, one of them or a page of them.

Nothing here walks along a line, and nothing keeps the event loop for longer than a few rows take.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TypeVar

from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2, session_service_pb2
from turnkeeper_service.errors import run_not_found
from turnkeeper_service.runs.parts import Parts
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.runs.session.session import Session
from turnkeeper_service.runs.session.table import SessionTable
from turnkeeper_service.store.base import RunRow, RunState, SessionRow
from turnkeeper_service.store.reading import reading

from .views import holds_of, receipt_of_run, run_of_row, run_view, session_view

T = TypeVar("T")
ROWS_AT_ONCE = 50
"""Rows that are converted before others have their turn."""


class Overview:
    """Looks at sessions and runs in memory and in the store."""

    def __init__(self, parts: Parts, table: SessionTable, make: Callable[[SessionRow], Session]) -> None:
        self._parts = parts
        self._core = parts.core
        self._store = parts.store
        self._table = table
        self._make = make

    def session(self, session: Session) -> session_service_pb2.Session:
        """A session in memory."""
        return session_view(session, self._core.counts(session.key), self._parts.options.default_model)

    def run(self, run: Run) -> run_service_pb2.Run:
        """A run in memory, with what holds it."""
        key = run.session.key
        place = self._core.place(key, run.run_id)
        view = run_view(run, place)
        view.holds.extend(holds_of(run, self._core, self._parts.clock))
        return view

    def receipt(self, run: Run, *, is_replay: bool) -> run_service_pb2.RunReceipt:
        """The receipt of a run in memory, with its state now."""
        return receipt_of_run(run, self._core.place(run.session.key, run.run_id), is_replay=is_replay)

    async def find_run(self, tenant: str, run_id: str) -> run_service_pb2.Run:
        """A run, in memory or over. Raises Refused RUN_NOT_FOUND."""
        if (run := self._known(tenant, run_id)) is not None:
            return self.run(run)
        row = await self._store.get_run(tenant, run_id)
        if (run := self._known(tenant, run_id)) is not None:
            return self.run(run)
        if row is None:
            raise run_not_found(run_id)
        return run_of_row(row)

    def _known(self, tenant: str, run_id: str) -> Run | None:
        run = self._parts.runs.get((tenant, run_id))
        return run if run is not None and run.accepted.done() else None

    async def sessions(self, tenant: str, after: str, limit: int) -> tuple[list[session_service_pb2.Session], str]:
        """A page of sessions and where the next one starts. Raises ValueError where none starts there."""
        page = await self._store.list_sessions(tenant, after=after, limit=limit, max_bytes=self._max_bytes)
        views = []
        async for row in paced(page.sessions):
            live = self._table.get((tenant, row.session_id))
            views.append(self.session(live if live is not None else self._make(row)))
        return views, page.next_after

    async def runs(
        self, tenant: str, session_id: str, after_sequence: int, limit: int, *, open_only: bool
    ) -> tuple[list[run_service_pb2.Run], bool]:
        """A page of a session's runs in accept order, and whether there are more. Raises Refused SESSION_NOT_FOUND."""
        states = (RunState.QUEUED, RunState.STARTED, RunState.AWAITING) if open_only else ()
        async with self._table.pin(tenant, session_id):
            page = await self._store.list_runs(
                tenant,
                session_id,
                after_sequence=after_sequence,
                limit=limit,
                max_bytes=self._max_bytes,
                states=states,
            )
        views = []
        async for row in paced(page.rows):
            run = self._parts.runs.get((tenant, row.run_id))
            views.append(self.run(run) if run is not None else run_of_row(await self._latest(row)))
        return views, page.has_more

    async def _latest(self, row: RunRow) -> RunRow:
        """A row of a run that has left memory since it was read is read again: it has its outcome now."""
        if row.state == RunState.FINISHED:
            return row
        return await self._store.get_run(row.tenant, row.run_id) or row

    async def messages(
        self, tenant: str, session_id: str, context_id: str, after_seq: int, limit: int
    ) -> tuple[list[content_pb2.Message], bool]:
        """A page of messages in order, and whether there are more. Raises Refused SESSION_NOT_FOUND."""
        async with self._table.pin(tenant, session_id):
            page = await self._store.list_messages(
                tenant,
                session_id,
                context_id=context_id,
                after_seq=after_seq,
                limit=limit,
                max_bytes=self._max_bytes,
            )
        messages = []
        async for row, in_context in paced(page.rows):
            with reading(f"a message of session {session_id}"):
                message = event_pb2.Event.FromString(row.payload).message_committed.message
            message.in_context = in_context
            messages.append(message)
        return messages, page.has_more

    def approvals(
        self, waiting: Iterable[tuple[int, session_service_pb2.Approval]], limit: int
    ) -> tuple[list[session_service_pb2.Approval], int]:
        """A page of approvals that come with their seq, and the seq that the next page comes after; 0 at the end."""
        taken: list[session_service_pb2.Approval] = []
        room, last = self._max_bytes, 0
        for seq, approval in waiting:
            room -= approval.ByteSize()
            if len(taken) == limit or (taken and room < 0):
                return taken, last
            taken.append(approval)
            last = seq
        return taken, 0

    def active(
        self, tenant: str, after: tuple[int, int] | None, limit: int
    ) -> tuple[list[Run], tuple[int, int] | None]:
        """A page of runs whose floor turn runs or waits, of one tenant or, with "", of all; and what comes after it."""
        page = self._core.active(after, limit, tenant or None)
        refs = (view.turn for view in page.turns)
        found = (self._parts.runs.get((ref.tenant, ref.run.run_id)) for ref in refs)
        return [run for run in found if run is not None], page.cursor

    @property
    def _max_bytes(self) -> int:
        return self._parts.options.max_page_bytes


async def paced(rows: Sequence[T], at_once: int = ROWS_AT_ONCE) -> AsyncIterator[T]:
    """The rows, letting others have their turn in between."""
    for index, row in enumerate(rows):
        if index and index % at_once == 0:
            await asyncio.sleep(0)
        yield row

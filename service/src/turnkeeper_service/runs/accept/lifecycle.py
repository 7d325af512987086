"""Sessions from their creation to their deletion (U-18)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from turnkeeper.v1 import event_pb2, session_service_pb2
from turnkeeper_service.errors import Reason, Refused, invalid, session_deleting
from turnkeeper_service.ids import uuid7
from turnkeeper_service.process.clock import microseconds
from turnkeeper_service.runs.conductor import Conductor
from turnkeeper_service.runs.parts import Parts
from turnkeeper_service.runs.session.cancels import cancel_of
from turnkeeper_service.runs.session.durable import durable
from turnkeeper_service.runs.session.session import Session
from turnkeeper_service.runs.session.table import SessionTable
from turnkeeper_service.store.base import SessionRow, SessionState
from turnkeeper_service.store.errors import StoreCorruptError

from .kept import reduced

log = structlog.get_logger(__name__)

RUNS_AT_ONCE = 256
"""Runs whose content is taken out by one commit."""
Settings = session_service_pb2.SessionSettings


class SessionLifecycle:
    """Creates, changes and deletes sessions."""

    def __init__(self, parts: Parts, conductor: Conductor, table: SessionTable) -> None:
        self._parts = parts
        self._conductor = conductor
        self._table = table
        self._deletions: dict[tuple[str, str], asyncio.Task[StoreCorruptError | None]] = {}

    async def create(self, tenant: str, session_id: str, settings: Settings) -> tuple[Session, bool]:
        """Create a session, or find the one an earlier call with the same settings made: (session, is_replay)."""
        is_named = bool(session_id)
        if not self._parts.is_serving:
            # What is there already is still found, so that streams can be opened on it.
            if not is_named or await self._parts.store.get_session(tenant, session_id) is None:
                raise self._parts.going_away()
            return await self._existing(tenant, session_id, settings), True
        session_id = session_id or uuid7()
        now = self._parts.clock.time()
        row = SessionRow(
            tenant=tenant,
            session_id=session_id,
            state=SessionState.ACTIVE,
            created_us=microseconds(now),
            updated_us=microseconds(now),
            last_seq=0,
            title=settings.title,
            settings=settings.SerializeToString(deterministic=True),
            usage=b"",
        )
        created: list[Session] = []

        def write(session: Session) -> asyncio.Future[None]:
            created.append(session)
            draft = session.draft()
            draft.commit.insert_session = row
            event = event_pb2.Event()
            event.session_created.title = settings.title
            draft.event(event)
            draft.on_durable.append(lambda: self._table.put(session))
            return session.submit(draft)

        session = await self._table.create(row, write)
        if session is not None and session in created:
            return session, False
        return await self._existing(tenant, session_id, settings), True

    async def _existing(self, tenant: str, session_id: str, settings: Settings) -> Session:
        taken = Refused(
            Reason.ERROR_REASON_SESSION_EXISTS,
            f"the session id {session_id!r} is taken",
            resource=("turnkeeper.dev/Session", session_id),
        )
        try:
            async with self._table.pin(tenant, session_id) as session:
                if session.is_active and session.settings == settings:
                    return session
        except Refused:
            raise taken from None
        raise taken

    async def update(self, tenant: str, session_id: str, settings: Settings, paths: Sequence[str]) -> Session:
        """Take over the named fields; they take effect at the next run. Raises Refused."""
        async with self._table.pin(tenant, session_id) as session:
            if not session.is_active:
                raise session_deleting(session_id)
            changed = Settings()
            changed.CopyFrom(session.settings)
            for path in paths:
                _take_over(changed, settings, path)
            draft = session.draft()
            draft.commit.session_settings = changed.SerializeToString(deterministic=True)
            if "title" in paths:
                # Set to nothing it asks for a new one: the next prompt makes it.
                draft.commit.session_title = session.title = changed.title
            event = event_pb2.Event()
            event.session_updated.paths.extend(paths)
            event.session_updated.title = session.title
            draft.event(event)
            session.settings = changed
            await durable(session.submit(draft), self._parts.store)
            return session

    async def delete(self, tenant: str, session_id: str, actor: str, *, force: bool) -> None:
        """Delete a session; with ``force`` what is under way is cancelled first. Raises Refused."""
        async with self._table.pin(tenant, session_id) as session:
            await self._end(session, actor, force=force)

    async def delete_idle(self, tenant: str, session_id: str, actor: str, *, before_us: int) -> bool:
        """Delete a session if it has no run and was not changed since; whether it was. Raises Refused."""
        async with self._table.pin(tenant, session_id) as session:
            if not session.is_active or session.runs or session.updated_us >= before_us:
                return False
            await self._end(session, actor, force=False)
            return True

    async def _end(self, session: Session, actor: str, *, force: bool) -> None:
        """Begin the deletion of a session, or join it, and wait until it has ended."""
        task = self._deletions.get(session.key)
        if task is None:
            task = self.start(session, actor, force=force)
        error = await durable(task, self._parts.store)
        if error is not None:
            raise error

    def start(self, session: Session, actor: str, *, force: bool = True) -> asyncio.Task[StoreCorruptError | None]:
        """Begin a deletion, or go on with it after a restart; it no longer depends on its caller.

        What the task gives is why it could not end: the session stays as it is, and may be deleted again. Raises
        Refused SESSION_BUSY without ``force``, where anything is under way.
        """
        core = self._parts.core
        is_closing = (counts := core.counts(session.key)) is not None and counts.closing
        step = None if is_closing else core.close_session(session.key, cancel_of(deletion_of(actor)), force=force)
        draft = session.draft()
        if session.state == SessionState.ACTIVE:
            draft.commit.session_state = session.state = SessionState.DELETING
            event = event_pb2.Event()
            event.session_deleting.actor = actor
            draft.event(event)
        marked = None if step is None else self._conductor.perform(step, (session, draft)).get(session.key)
        task = self._parts.owner.spawn(f"delete {session.session_id}", self._delete(session, actor, marked))
        self._deletions[session.key] = task
        task.add_done_callback(lambda _: self._deletions.pop(session.key, None))
        return task

    async def _delete(
        self, session: Session, actor: str, marked: asyncio.Future[None] | None
    ) -> StoreCorruptError | None:
        session.pin()
        try:
            if marked is not None:
                await marked
            while session.runs:
                await asyncio.wait([self._parts.runs[(session.tenant, run_id)].finished for run_id in session.runs])
            await self._reduce_runs(session)
            draft = session.draft()
            event = event_pb2.Event()
            event.session_deleted.actor = actor
            draft.event(event)
            draft.commit.erase_session_us = microseconds(draft.now)
            draft.on_durable.append(lambda: self._erased(session))
            await session.submit(draft)
            session.state = SessionState.DELETED
            session.log.end(SessionEndedError())
        except StoreCorruptError as error:
            log.error("a session cannot be deleted", session_id=session.session_id, detail=str(error))
            return error
        finally:
            session.unpin()
        return None

    async def _reduce_runs(self, session: Session) -> None:
        """Take the content out of what is kept of the session's runs. A restart in the middle begins it again."""
        after = 0
        while True:
            page = await self._parts.store.list_runs(
                session.tenant, session.session_id, after_sequence=after, limit=RUNS_AT_ONCE
            )
            draft = session.draft()
            draft.commit.reduce_runs.extend((row.run_id, *reduced(row)) for row in page.rows)
            if page.rows:
                await session.submit(draft)
                after = page.rows[-1].accept_sequence
            if not page.has_more:
                return

    def _erased(self, session: Session) -> None:
        self._table.drop(session)
        if not self._parts.is_cut:
            self._conductor.perform(self._parts.core.forget_session(session.key))


class SessionEndedError(Exception):
    """The session is deleted: its streams end, OK."""


def deletion_of(actor: str) -> event_pb2.RunCancelRequested:
    """The cancel that a deletion is to what is under way."""
    return event_pb2.RunCancelRequested(
        reason=event_pb2.OUTCOME_REASON_SESSION_DELETED, actor=actor, mode=event_pb2.CANCEL_MODE_ABORT
    )


def _take_over(target: Settings, source: Settings, path: str) -> None:
    field = Settings.DESCRIPTOR.fields_by_name.get(path)
    if field is None:
        raise invalid("update_mask", f"there is no field {path!r}")
    target.ClearField(path)  # type: ignore[arg-type]
    if field.is_repeated or field.message_type is not None:
        part = Settings()
        part.CopyFrom(source)
        for other in Settings.DESCRIPTOR.fields:
            if other.name != path:
                part.ClearField(other.name)  # type: ignore[arg-type]
        target.MergeFrom(part)
    elif not field.has_presence or source.HasField(path):  # type: ignore[arg-type]
        setattr(target, path, getattr(source, path))

"""Accepting a prompt (U-9): look it up, check, stamp, commit, dispatch, acknowledge."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import structlog

from turnkeeper.v1 import event_pb2, run_service_pb2
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.errors import Reason, Refused, invalid, session_deleting
from turnkeeper_service.ids import uuid7
from turnkeeper_service.process.clock import microseconds, seconds_of
from turnkeeper_service.runs.conductor import Conductor
from turnkeeper_service.runs.parts import Parts
from turnkeeper_service.runs.scheduler import Accepted, Delivery, kind_of
from turnkeeper_service.runs.session.cancels import cancel_of, write_cancel
from turnkeeper_service.runs.session.durable import durable
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.runs.session.session import Session
from turnkeeper_service.runs.session.table import SessionTable
from turnkeeper_service.store.base import Claim, RunRow

from .cancel import Canceller

log = structlog.get_logger(__name__)

NEW = Claim(None, ())
"""Of an id that was made a moment ago."""
_DELIVERIES: dict[int, Delivery] = {
    event_pb2.DELIVERY_QUEUE: "queue",
    event_pb2.DELIVERY_STEER: "steer",
    event_pb2.DELIVERY_REJECT: "reject",
    event_pb2.DELIVERY_REPLACE: "replace",
}


def fixed_by_target(submission: run_service_pb2.Submission) -> list[str]:
    """Fields that a submission sets and that a STEER may not: its run is another's (U-22)."""
    fixed = (
        "model",
        "parameters",
        "tool_choice",
        "output_schema_json",
        "max_steps",
        "pre_approved_tools",
        "max_output_reprompts",
        "output_reprompt",
    )
    given = {descriptor.name for descriptor, _ in submission.ListFields()}
    return [name for name in fixed if name in given]


def bytes_in_line(submission: run_service_pb2.Submission) -> int:
    """What a submission counts for while its run is in line."""
    return sum(part.ByteSize() for part in submission.prompt) + len(submission.output_schema_json.encode())


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A submit that stands: the run in memory, or its row where it is over already."""

    run: Run | None
    row: RunRow | None
    is_replay: bool


class Acceptor:
    """Accepts prompts."""

    def __init__(self, parts: Parts, conductor: Conductor, table: SessionTable, canceller: Canceller) -> None:
        self._parts = parts
        self._conductor = conductor
        self._table = table
        self._canceller = canceller

    async def accept(
        self,
        tenant: str,
        principal: str,
        submission: run_service_pb2.Submission,
        kind: event_pb2.RunKind.ValueType = event_pb2.RUN_KIND_PROMPT,
        on_accepted: Callable[[Run], None] | None = None,
    ) -> Acceptance:
        """Accept a submission whose shape was checked; durable when it returns.

        ``on_accepted`` is called once where the run is new, even if the caller is gone by then: when it is durable, and
        before anything is published of a turn that began with its accept.
        Cancelling the caller never cancels an accept that was handed to the store. Raises Refused.
        """
        parts = self._parts
        is_named = bool(submission.run_id)
        if not is_named:
            submission.run_id = uuid7()
        fingerprint = _fingerprint(submission, kind)
        twin = parts.runs.get((tenant, submission.run_id))
        run: Run | None = None
        if twin is None:
            claimed = parts.store.claim_run(tenant, submission.run_id) if is_named else nullcontext(NEW)
            # Whoever has the claim is alone with the id: a twin waits until this one is in memory, a cancel until it
            # can be covered.
            async with claimed as claim:
                twin = parts.runs.get((tenant, submission.run_id))
                if twin is None and claim.run is not None:
                    _same(submission.run_id, claim.run.fingerprint, fingerprint)
                    return Acceptance(None, claim.run, is_replay=True)
                if twin is None:
                    run = await self._take(tenant, principal, submission, kind, fingerprint, claim)
                    if on_accepted is not None:
                        run.on_accepted = partial(on_accepted, run)
        if run is None:
            # Concurrent duplicates await the same commit.
            assert twin is not None
            _same(twin.run_id, twin.fingerprint, fingerprint)
            run = twin
        await durable(run.accepted, parts.store)
        return Acceptance(run, None, is_replay=run is twin)

    async def _take(
        self,
        tenant: str,
        principal: str,
        submission: run_service_pb2.Submission,
        kind: event_pb2.RunKind.ValueType,
        fingerprint: bytes,
        claim: Claim,
    ) -> Run:
        """Stamp a run that is new; its commit is handed over when this returns."""
        parts = self._parts
        if not parts.is_serving:
            raise parts.going_away()
        async with self._table.pin(tenant, submission.session_id) as session:
            # From here to the submit nothing waits.
            if not parts.is_serving:
                raise parts.going_away()
            if not session.is_active:
                raise session_deleting(session.session_id)
            return self._stamp(session, principal, submission, kind, fingerprint, claim)

    def _stamp(
        self,
        session: Session,
        principal: str,
        submission: run_service_pb2.Submission,
        kind: event_pb2.RunKind.ValueType,
        fingerprint: bytes,
        claim: Claim,
    ) -> Run:
        parts = self._parts
        tombstone = self._canceller.tombstone(claim.tombstones, session.session_id)
        delivery = submission.delivery or session.settings.default_delivery or event_pb2.DELIVERY_QUEUE
        if kind != event_pb2.RUN_KIND_PROMPT:
            delivery = event_pb2.DELIVERY_QUEUE
        if delivery == event_pb2.DELIVERY_STEER and (fixed := fixed_by_target(submission)):
            raise invalid(f"submission.{fixed[0]}", "is not allowed with delivery STEER")
        run = Run(
            session,
            submission,
            kind=kind,
            delivery=delivery,
            fingerprint=fingerprint,
            principal=principal,
            created_us=microseconds(parts.clock.time()),
        )
        may_start = tombstone is None and not session.runs and self._conductor.may_start(run)
        return self._enter(run, claim, tombstone, may_start=may_start)

    def _enter(self, run: Run, claim: Claim, tombstone: event_pb2.RunCancelRequested | None, *, may_start: bool) -> Run:
        """Stamp a run and hand its accept over; where nothing stands in its way, its turn begins in the same commit."""
        parts, session, submission = self._parts, run.session, run.submission
        preconditions = submission.preconditions
        step = parts.core.accept(
            session.key,
            run.run_id,
            kind=kind_of(run.kind),
            delivery=_DELIVERIES[run.delivery],
            size=bytes_in_line(submission),
            require_idle=preconditions.require_idle,
            expected_open_run_id=preconditions.expected_open_run_id or None,
            cancelled=cancel_of(tombstone) if tombstone is not None else None,
            start_timeout=seconds_of(submission.start_timeout) if submission.HasField("start_timeout") else None,
            run_timeout=parts.run_timeout(run),
            may_start=may_start,
        )
        accepted = step.answer
        run.sequence, run.position, run.steers = accepted.sequence, accepted.position, accepted.steers
        # A run that another REPLACE had cancelled before is not this one's.
        covered = [parts.runs[(session.tenant, one.run.run_id)] for one in accepted.replaced]
        run.replaced = [other.run_id for other in covered if other.cancel is None]
        run.accepted_seq = session.last_seq + 1
        parts.add(run)
        draft = session.draft()
        self._write(run, accepted, draft)
        if tombstone is not None:
            write_cancel(run, tombstone, draft)
        if claim.tombstones:
            # Those that named another session will never meet a run either.
            draft.commit.drop_tombstones.append(run.run_id)
        if accepted.starts is not None:
            try:
                self._conductor.start_within(accepted.starts, draft)
            except Exception as error:
                log.error("a turn could not begin with its accept", run_id=run.run_id, exc_info=error)
                self._conductor.take_back(run)
                return self._enter(run, claim, tombstone, may_start=False)
            draft.on_durable.append(partial(_tell, run))
        future = self._conductor.perform(step, (session, draft))[session.key]
        if tombstone is not None:
            run.cancel_durable = future
        is_begun = accepted.starts is not None
        future.add_done_callback(lambda done: self._committed(run, done, is_begun=is_begun))
        return run

    @staticmethod
    def _write(run: Run, accepted: Accepted, draft: Draft) -> None:
        draft.commit.insert_runs.append(run.row())
        event = event_pb2.Event(run_id=run.run_id)
        payload = event.run_accepted
        payload.accept_sequence = accepted.sequence
        payload.kind = run.kind
        payload.delivery = run.delivery
        payload.steers_run_id = accepted.steers or ""
        payload.prompt.extend(run.submission.prompt)
        payload.replaced_run_ids.extend(run.replaced)
        draft.event(event)
        if accepted.position and not accepted.steers:
            queued = event_pb2.Event(run_id=run.run_id)
            queued.run_queued.position = accepted.position
            draft.event(queued)

    def _committed(self, run: Run, done: asyncio.Future[None], *, is_begun: bool) -> None:
        """The accept is durable, or it never will be."""
        try:
            self._settle(run, done, is_begun=is_begun)
        except Exception as error:
            self._parts.owner.fault(f"accept of {run.run_id}", error)

    def _settle(self, run: Run, done: asyncio.Future[None], *, is_begun: bool) -> None:
        if run.accepted.done():
            # The server has closed meanwhile: recovery finds the run if it reached the store.
            return
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is None:
            run.accepted.set_result(None)
            if not is_begun:
                self._conductor.dispatch(run)
                _tell(run)
            return
        run.accepted.set_exception(error)
        run.finished.cancel()
        self._conductor.take_back(run)


def _tell(run: Run) -> None:
    """Tell whoever submitted a run that it stands."""
    if run.on_accepted is not None:
        run.on_accepted()
        run.on_accepted = None


def _fingerprint(submission: run_service_pb2.Submission, kind: event_pb2.RunKind.ValueType) -> bytes:
    """What tells two uses of one run_id apart. A summary is never a replay of a prompt."""
    digest = hashlib.sha256(submission.SerializeToString(deterministic=True))
    if kind != event_pb2.RUN_KIND_PROMPT:
        digest.update(event_pb2.RunKind.Name(kind).encode())
    return digest.digest()


def _same(run_id: str, stored: bytes, asked: bytes) -> None:
    if stored != asked:
        raise Refused(
            Reason.ERROR_REASON_RUN_ID_REUSED,
            f"run_id {run_id!r} was used with another payload",
            metadata={"run_id": run_id, "fingerprint": stored.hex()},
            resource=("turnkeeper.dev/Run", run_id),
        )

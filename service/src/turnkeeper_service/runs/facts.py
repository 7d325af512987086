"""What the core decided, as a session's log has it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.runs.session.cancels import request_of, write_cancel
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.runs.session.session import Session
from turnkeeper_service.runs.turns import outcomes

from .parts import Parts
from .scheduler import Begun, Closed, Ended, Fact, Opened, Requested, RunOver, RunRef
from .terminals import Terminals


class Facts:
    """Writes the facts of steps into drafts, and submits them."""

    def __init__(self, parts: Parts, terminals: Terminals, durably_over: Callable[[Run], None]) -> None:
        self._parts = parts
        self._terminals = terminals
        self._durably_over = durably_over

    def _run(self, ref: RunRef) -> Run:
        return self._parts.runs[(ref.tenant, ref.run_id)]

    def submit(
        self,
        facts: Sequence[Fact],
        given: tuple[Session, Draft] | None,
        after: Sequence[Callable[[], None]],
        *,
        is_barest: bool = False,
    ) -> asyncio.Future[None] | None:
        """Write the facts of one session into its draft and hand it over; ``after`` is called once it is durable.

        None where there is nothing to write. ``is_barest``: terminals alone, of runs whose end could not be written.
        """
        session, draft = given if given is not None else (None, None)
        requested: list[Run] = []
        for fact in facts:
            # That a turn has begun is written with its next commit: until then it has not for anybody else.
            run = self._run_of(fact)
            if run is None:
                continue
            if session is None or draft is None:
                session, draft = run.session, run.session.draft()
            if isinstance(fact, Requested):
                requested.append(run)
            self._write(fact, run, draft, is_barest=is_barest)
        if session is None or draft is None or not draft.events:
            return None
        if requested:
            draft.on_durable.append(partial(self._cancelled, requested))
        draft.on_durable.extend(after)
        future = session.submit(draft)
        for run in requested:
            run.cancel_durable = future
        return future

    def _run_of(self, fact: Fact) -> Run | None:
        """The run that a fact is written of; None where it leaves that to somebody else."""
        match fact:
            case Requested(run, _, _, cancel):
                # A deadline is nobody's cancel: the terminal says it.
                return self._run(run) if cancel is not None else None
            case Closed(run, why):
                # A fold is written by the turn that took it, with the message that it became.
                return None if why == "folded" else self._run(run)
            case Ended(turn):
                return self._run(turn.run)
            case RunOver(run):
                return self._run(run)
            case Opened() | Begun():
                return None
        raise AssertionError(f"nobody writes {fact!r}")

    def _write(self, fact: Fact, run: Run, draft: Draft, *, is_barest: bool) -> None:
        match fact:
            case Requested(_, _, _, cancel):
                write_cancel(run, request_of(cancel), draft)
            case Closed(_, why):
                self._close(run, why, draft)
            case Ended():
                if run.driven is not None and not is_barest:
                    run.driven.write_end(draft)
            case RunOver(_, status):
                self._over(run, status, draft, is_barest=is_barest)

    def _close(self, run: Run, why: str, draft: Draft) -> None:
        """Write the terminal of a run that never had a turn."""
        if why == "cancelled":
            outcomes.unstarted_rows(run, draft, content_pb2.MESSAGE_STATUS_CANCELLED, in_context=False)
            outcome = outcomes.cancelled(run)
        elif why == "expired":
            if run.kind == event_pb2.RUN_KIND_PROMPT:
                run.write_prompt(draft, in_context=False)
            outcome = event_pb2.Outcome(status=outcomes.EXPIRED)
        else:
            end = outcomes.STRANDED if why == "stranded" else outcomes.floor_changed(run)
            status, error = content_pb2.MESSAGE_STATUS_FAILED, outcomes.error_text(end)
            outcomes.unstarted_rows(run, draft, status, in_context=False, error=error)
            outcome = outcomes.of_end(end)
        self._terminals.write(run, draft, outcome)

    def _over(self, run: Run, status: str, draft: Draft, *, is_barest: bool) -> None:
        """Write the terminal of a run whose turns are over."""
        driven = run.driven
        if driven is not None and not is_barest:
            outcome = driven.outcome()
        else:
            # Without a turn it was concluding when its process was lost.
            outcome = outcomes.cancelled(run) if status == "cancelled" else outcomes.of_end(outcomes.FAULT)
        self._terminals.write(run, draft, outcome, turn_id=driven.turn_id if driven is not None else "")
        draft.on_durable.append(partial(self._durably_over, run))

    def _cancelled(self, runs: Sequence[Run]) -> None:
        """The cancels of runs are durable."""
        now = self._parts.clock.time()
        for run in runs:
            if run.cancelled_at is None:
                run.cancelled_at = now

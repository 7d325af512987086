"""Gives sessions their titles: made of the first prompt that has text, beside its run and never in its way (C-96).

A title that was not made, since the server went away or the prompt was cancelled before its turn, is made of the next
prompt: what asks for one is a session without a title.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.models import Model
from turnkeeper_service.engine.titles import TitleCall, prompt_text, title_of_prompt
from turnkeeper_service.engine.usage import add_run, add_step
from turnkeeper_service.process.clock import within
from turnkeeper_service.providers.base import ProviderError
from turnkeeper_service.runs.parts import Parts
from turnkeeper_service.runs.performing import Performing
from turnkeeper_service.runs.session.run import Run
from turnkeeper_service.runs.session.session import Session

from .lanes import ErrandLane
from .models import ModelDesk

log = structlog.get_logger(__name__)

TITLE_SECONDS = 30.0
"""A title that takes longer is made of the prompt alone."""
MAX_CALLS = 16
"""Calls for titles that are open at the same time; the next waits, within its seconds."""
MAX_TITLES = 1024
"""Titles that are being made at the same time; one more is made of its prompt alone."""


class TitleMaker:
    """Makes titles."""

    def __init__(self, parts: Parts, conductor: Performing, desk: ModelDesk) -> None:
        self._parts = parts
        self._conductor = conductor
        self._desk = desk
        self._in_the_making: set[tuple[str, str]] = set()
        self._free = asyncio.Semaphore(MAX_CALLS)

    def begin(self, run: Run, model: str, session_hash: str) -> None:
        """Begin to make a title of a run's prompt, if its session wants one; ``model`` is the run's."""
        session = run.session
        if session.title or session.key in self._in_the_making or not session.is_active:
            return
        if run.cancel is not None or not self._parts.is_serving:
            return
        models, text = self._models(session, model), prompt_text(run.prompt)
        if not models or not text:
            return
        if len(self._in_the_making) >= MAX_TITLES:
            models = ()
        self._in_the_making.add(session.key)
        session.pin()
        making = self._make(session, text, models, session_hash)
        self._parts.owner.spawn(f"title of {session.session_id}", making)

    def _models(self, session: Session, model: str) -> Sequence[str]:
        """The models to ask, in order; none where sessions get no titles. A scripted one has to be named for it."""
        if not self._parts.options.makes_titles:
            return ()
        small = session.settings.small_model or self._parts.options.small_model
        large = "" if self._desk.is_scripted(model) else model
        return list(dict.fromkeys(one for one in (small, large) if one))

    async def _make(self, session: Session, text: str, models: Sequence[str], session_hash: str) -> None:
        calls: list[tuple[Model, TitleCall]] = []
        try:
            title = await self._within_time(self._ask(session, models, text, session_hash, calls)) if models else ""
            if not self._parts.is_cut and session.is_active:
                self._write(session, title or title_of_prompt(text), calls)
        finally:
            self._in_the_making.discard(session.key)
            session.unpin()

    async def _within_time(self, asking: asyncio.Task[str]) -> str:
        """What the models say; empty where they take too long. A call that ignores its cancel is left to its owner."""
        # No turn waits for a title: how long one may take is nobody's deadline but its own.
        try:
            await within(self._parts.clock, asking, TITLE_SECONDS)
        finally:
            asking.cancel()
        return asking.result() if asking.done() and not asking.cancelled() else ""

    def _ask(
        self,
        session: Session,
        models: Sequence[str],
        text: str,
        session_hash: str,
        calls: list[tuple[Model, TitleCall]],
    ) -> asyncio.Task[str]:
        asking = self._first_title(session, models, text, session_hash, calls)
        task: asyncio.Task[str] = self._parts.owner.spawn("title call", asking)
        return task

    async def _first_title(
        self,
        session: Session,
        models: Sequence[str],
        text: str,
        session_hash: str,
        calls: list[tuple[Model, TitleCall]],
    ) -> str:
        """The title of the first model that gives one; empty where none does."""
        async with self._free:
            for name in models:
                try:
                    await self._desk.prepare(name)
                    model = self._desk.model(name)
                    is_reasoning = model.capabilities.is_reasoning
                    call = TitleCall(model.own_name, text, is_reasoning=is_reasoning, session_hash=session_hash)
                    async with ErrandLane(self._conductor, session.key, name):
                        calls.append((model, call))
                        title = await call.run(model.provider)
                except ProviderError as error:
                    log.info("a title could not be made", model=name, reason=error.reason)
                except Exception as error:
                    # A session without a good title is no reason to stop the server.
                    log.error("a title failed by a fault", model=name, exc_info=error)
                else:
                    if title:
                        return title
        return ""

    def _write(self, session: Session, title: str, calls: Sequence[tuple[Model, TitleCall]]) -> None:
        """Write title and usage in one step, beside whatever else the session writes (C-99)."""
        draft = session.draft()
        if not session.title:
            # One that was set meanwhile stays.
            session.title = draft.commit.session_title = title
            event = event_pb2.Event()
            event.session_updated.paths.append("title")
            event.session_updated.title = title
            draft.event(event)
        used = content_pb2.RunUsage()
        for model, call in calls:
            usage = call.usage()
            model.settle(usage, call.reported_cost)
            add_step(used, model.name, usage)
        if calls:
            add_run(session.usage, used)
            draft.commit.session_usage = session.usage.SerializeToString()
        self._conductor.terminals.count_tokens(used)
        session.submit(draft)

"""AdminService: what operators see and do, over all tenants."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from turnkeeper.v1 import admin_service_pb2 as pb
from turnkeeper.v1 import run_service_pb2
from turnkeeper_service.principal import Role
from turnkeeper_service.process.clock import Clock, seconds_of
from turnkeeper_service.runs.runs import Runs
from turnkeeper_service.runs.views.overview import paced

from .call import Call
from .pages import numbers, page_size, to_token
from .streams import Streams
from .validate import Findings, check_duration, check_id, check_text

ROLES: Mapping[str, Role] = {"Drain": "admin", "GetStats": "admin", "ListActiveTurns": "admin", "CancelAll": "admin"}


class Process(Protocol):
    """The process as operators see it."""

    version: str
    started_at: float

    def begin_drain(self, timeout: float | None) -> None:
        """Begin to go away; returns at once."""
        ...

    def commits(self) -> tuple[int, int]:
        """(made, not durable yet)."""
        ...


class AdminServicer:
    """The whole server."""

    def __init__(self, runs: Runs, streams: Streams, process: Process, clock: Clock) -> None:
        self._runs = runs
        self._streams = streams
        self._process = process
        self._clock = clock

    def methods(self) -> Mapping[str, Callable[..., Any]]:
        """The methods that are implemented."""
        return {
            "Drain": self.drain,
            "GetStats": self.stats,
            "ListActiveTurns": self.active_turns,
            "CancelAll": self.cancel_all,
        }

    async def drain(self, request: pb.DrainRequest, call: Call) -> pb.DrainResponse:
        """Drain."""
        found = Findings()
        if request.HasField("timeout"):
            check_duration(found, "timeout", request.timeout)
        found.refuse()
        timeout = seconds_of(request.timeout) if request.HasField("timeout") else None
        running = self._runs.stats().running_turns
        self._process.begin_drain(timeout)
        return pb.DrainResponse(num_running_turns=running)

    async def stats(self, request: pb.GetStatsRequest, call: Call) -> pb.GetStatsResponse:
        """GetStats."""
        core = self._runs.stats()
        made, pending = self._process.commits()
        response = pb.GetStatsResponse(
            version=self._process.version,
            epoch=self._runs.epoch,
            num_busy_sessions=core.sessions,
            num_open_runs=core.open_runs,
            num_running_turns=core.running_turns,
            num_waiting_turns=core.waiting_turns,
            num_streams=len(self._streams),
            num_commits=made,
            num_pending_commits=pending,
            num_runs_finished=self._runs.terminals.num_by_status,
            rss_bytes=_rss_bytes(),
            num_detached=self._runs.parts.num_detached,
            is_draining=not self._runs.parts.is_serving,
        )
        response.start_time.FromNanoseconds(int(self._process.started_at * 1e9))
        return response

    async def active_turns(self, request: pb.ListActiveTurnsRequest, call: Call) -> pb.ListActiveTurnsResponse:
        """ListActiveTurns."""
        query = ("turns", request.tenant)
        found = Findings()
        if request.tenant:
            check_id(found, "tenant", request.tenant)
        after = found.attempt(lambda: numbers(request.page_token, 2, *query), None)
        limit = found.attempt(lambda: page_size(request.page_size), 0)
        found.refuse()
        response = pb.ListActiveTurnsResponse()
        page, following = self._runs.active_runs(request.tenant, None if after is None else (after[0], after[1]), limit)
        async for run in paced(page):
            view = await self._runs.get_run(run.session.tenant, run.run_id)
            if view.state == run_service_pb2.RUN_STATE_FINISHED:
                continue
            turn = response.turns.add(tenant=run.session.tenant, session_id=view.session_id, run_id=view.run_id)
            if run.driven is not None:
                turn.turn_id = run.driven.turn_id
            if view.holds:
                turn.age.CopyFrom(view.holds[0].age)
                turn.label = view.holds[-1].label
        if following is not None:
            response.next_page_token = to_token(" ".join(map(str, following)), *query)
        return response

    async def cancel_all(self, request: pb.CancelAllRequest, call: Call) -> pb.CancelAllResponse:
        """CancelAll."""
        found = Findings()
        check_text(found, request)
        if request.tenant:
            check_id(found, "tenant", request.tenant)
        found.refuse()
        return pb.CancelAllResponse(num_covered=await self._runs.cancel_all(request.tenant, call.actor, request.mode))


def _rss_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

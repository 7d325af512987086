"""Storms over everything that a turn can wait for, on a clock and a disk of the test: seeded, and over several lives.

Approvals, tools of clients and workers, back-off, bounded calls, few permits, deadlines, cancels of every scope,
deletions, commits that are held up or fail, servers that are closed in the middle. What became of it is checked in the
end, from the logs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
from google.protobuf.duration_pb2 import Duration

from tests.service.dispatch.gated_store import GatedStore
from tests.service.failure.stories import StubbornGates, finished, is_valid
from tests.service.harness import Harness, OneItem, reason, serving, submission
from tests.service.manual_clock import ManualClock
from tests.service.tools.holders import Client, Worker
from tests.service.turns.scenes import Tools, call, script
from turnkeeper.v1 import event_pb2, run_service_pb2, session_service_pb2
from turnkeeper_service.providers.gates import Gates
from turnkeeper_service.runs.session.shelf import MIN_BYTES
from turnkeeper_service.store.faults import ALWAYS, Faults, disk_full

GATES = ("red", "green")
DELIVERIES = (
    event_pb2.DELIVERY_QUEUE,
    event_pb2.DELIVERY_QUEUE,
    event_pb2.DELIVERY_STEER,
    event_pb2.DELIVERY_REJECT,
    event_pb2.DELIVERY_REPLACE,
)
CALLABLE = (
    *("quick", "ask", "ask", "beside", "beside", "beside_ask", "red", "remote", "remote", "work"),
    *("none", "bad", "deaf", "raises"),
)
SECONDS = (0.1, 0.5, 2.0, 2.0, 5.0, 30.0, 61.0)
SETTINGS = {
    "providers__scripted__format": "scripted",
    "providers__scripted__max_wait_seconds": "20",
    "retries__max_retries": "2",
    "retries__first_delay_seconds": "3",
    "tools__approval_timeout_seconds": "60",
    "tools__timeout_seconds": "40",
}
REFUSALS = {
    "SESSION_BUSY",
    "SESSION_DELETING",
    "SESSION_NOT_FOUND",
    "RUN_NOT_FOUND",
    "APPROVAL_ANSWERED",
    "APPROVAL_NOT_FOUND",
    "DRAINING",
    "INVALID_ARGUMENT",
}
GONE = (grpc.aio.AioRpcError, AssertionError, asyncio.InvalidStateError)
"""What a call to a server that is gone ends with, and what those say that hold a stream to it."""
LIMIT = 60.0
MAX_LOOKS = 3_000
TERMINAL_EVENTS = ("tool_call_finished", "tool_call_skipped", "tool_call_cancelled")


class Weather:
    """What happens to one server in one of its lives."""

    def __init__(
        self, server: Harness, clock: ManualClock, store: GatedStore, chance: random.Random, life: int
    ) -> None:
        self._server = server
        self._clock = clock
        self._store = store
        self._chance = chance
        self._life = life
        self._number = 0
        self._run_ids: list[tuple[str, str]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._holders: list[Any] = []
        self.sessions: list[str] = []
        self.accepted: dict[str, str] = {}
        """Runs that were acknowledged, with their sessions."""

    async def rage(self, num_steps: int) -> None:
        """So many random steps."""
        for session_id in self.sessions:
            await self._create(session_id)
        steps: list[tuple[int, Callable[[str], Awaitable[None]]]] = [
            (14, self._submit),
            (5, self._cancel),
            (1, self._clear),
            (4, self._answer),
            (4, self._gate),
            (6, self._advance),
            (3, self._disk),
            (3, self._serve),
            (2, self._lose),
            (4, self._settle),
            (3, self._look),
            (1, self._summarize),
            (1, self._delete),
            (2, self._follow),
        ]
        for _ in range(num_steps):
            (step,) = self._chance.choices([step for _, step in steps], [weight for weight, _ in steps])
            await step(self._chance.choice(self.sessions))

    async def _create(self, session_id: str) -> None:
        """Make a session, unless there is one."""
        self._store.release()
        try:
            await self._server.session(session_id)
        except grpc.aio.AioRpcError as error:
            if reason(error) not in ("SESSION_EXISTS", "SESSION_DELETING"):
                raise

    async def _delete(self, session_id: str) -> None:
        if self._chance.random() < 0.5:
            return
        self._number += 1
        number = self.sessions.index(session_id)
        self.sessions[number] = f"{session_id.partition('-')[0]}-{self._life}-{self._number}"
        is_forced = self._chance.random() < 0.8

        async def work() -> None:
            request = session_service_pb2.DeleteSessionRequest(session_id=session_id, force=is_forced)
            await self._server.sessions.DeleteSession(request)

        self._start(work())
        await self._create(self.sessions[number])

    async def _follow(self, session_id: str) -> None:
        """A caller that goes away, and whose run may go with it."""
        self._number += 1
        text = script(self._reply(), "the end")
        made = submission(session_id, text, f"{session_id}.{self._life}.{self._number}")
        if self._chance.random() < 0.6:
            made.on_disconnect.cancel_after.CopyFrom(_duration(self._chance.choice(SECONDS)))
        num_items = self._chance.randrange(1, 8)

        async def work() -> None:
            call = self._server.runs.Run(run_service_pb2.RunRequest(submission=made))
            for _ in range(num_items):
                if not isinstance(await call.read(), OneItem):
                    break
            call.cancel()

        self._start(work())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        async def refusable() -> None:
            try:
                await work
            except grpc.aio.AioRpcError as error:
                if reason(error) not in REFUSALS and error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise

        self._under_way.add(asyncio.create_task(refusable()))

    def _reply(self) -> dict[str, Any]:
        chance = self._chance
        kind = chance.random()
        # A long prompt leaves memory while it stands in line.
        reply: dict[str, Any] = {"text": ["x" * MIN_BYTES] if chance.random() < 0.3 else "some words"}
        if kind < 0.45:
            names = chance.choices(CALLABLE, k=chance.randrange(1, 4))
            self._number += 1
            reply["tool_calls"] = [
                call(name, f"c{self._life}-{self._number}-{index}")
                if name != "bad"
                else {"name": "quick", "arguments": "{", "id": f"c{self._life}-{self._number}-{index}"}
                for index, name in enumerate(names)
            ]
        if kind > 0.7:
            reply |= {"gate": chance.choice(GATES), "gate_after": chance.randrange(3)}
        if chance.random() < 0.25:
            failing = {"text": "a b", "fail": "PROVIDER_ERROR", "fail_after": chance.randrange(2), "retryable": True}
            reply["attempts"] = [failing] * chance.randrange(1, 4)
        elif chance.random() < 0.1:
            reply |= {"fail": "PROVIDER_REFUSED", "fail_after": chance.randrange(2)}
        return reply

    async def _submit(self, session_id: str) -> None:
        chance = self._chance
        self._number += 1
        run_id = f"{session_id}.{self._life}.{self._number}"
        fields: dict[str, Any] = {"delivery": chance.choice(DELIVERIES)}
        if chance.random() < 0.2:
            fields["start_timeout"] = _duration(chance.choice(SECONDS))
        if chance.random() < 0.2:
            fields["run_timeout"] = _duration(chance.choice(SECONDS))
        text = script(*(self._reply() for _ in range(chance.randrange(1, 4))), "the end")
        self._run_ids.append((session_id, run_id))

        async def work() -> None:
            await self._server.submit(session_id, text, run_id, **fields)
            self.accepted[run_id] = session_id

        self._start(work())

    async def _cancel(self, session_id: str) -> None:
        chance = self._chance
        request = run_service_pb2.CancelRunsRequest(
            mode=chance.choice([event_pb2.CANCEL_MODE_ABORT, event_pb2.CANCEL_MODE_STOP, event_pb2.CANCEL_MODE_STOP])
        )
        request.rollback, request.wait = chance.random() < 0.2, chance.random() < 0.2
        known = [run_id for of, run_id in self._run_ids if of == session_id]
        match chance.randrange(4):
            case 0:
                request.scope.session_id = session_id
            case 1 | 2 if known:
                request.scope.run_id = chance.choice(known[-6:])
            case 3 if chance.random() < 0.2:
                request.scope.tenant.SetInParent()
            case _:
                request.scope.session_id = session_id

        async def work() -> None:
            await self._server.runs.CancelRuns(request)

        self._start(work())

    async def _clear(self, session_id: str) -> None:
        async def work() -> None:
            await self._server.runs.ClearQueue(run_service_pb2.ClearQueueRequest(session_id=session_id))

        self._start(work())

    async def _summarize(self, session_id: str) -> None:
        async def work() -> None:
            request = session_service_pb2.SummarizeSessionRequest(session_id=session_id)
            await self._server.sessions.SummarizeSession(request)

        self._start(work())

    async def _answer(self, session_id: str) -> None:
        is_allowed = self._chance.random() < 0.7

        async def work() -> None:
            listing = session_service_pb2.ListApprovalsRequest(session_id=session_id)
            for one in (await self._server.sessions.ListApprovals(listing)).approvals:
                request = session_service_pb2.AnswerApprovalRequest(
                    session_id=session_id, approval_id=one.approval_id, is_allowed=is_allowed
                )
                await self._server.sessions.AnswerApproval(request)

        self._start(work())

    async def _gate(self, session_id: str) -> None:
        gate = self._chance.choice(GATES)
        if self._chance.random() < 0.7:
            self._server.gates.open(gate)
        else:
            self._server.gates.hold(gate)

    async def _advance(self, session_id: str) -> None:
        self._clock.advance(self._chance.choice(SECONDS))

    async def _disk(self, session_id: str) -> None:
        if self._chance.random() < 0.4:
            self._store.hold(lambda commit: True)
        else:
            self._store.release(self._chance.choice([1, 2, None]))

    async def _serve(self, session_id: str) -> None:
        """Somebody serves tools, and answers every other call."""
        self._store.release()
        grace = self._chance.choice([0.0, 5.0, 100.0])
        name = self._chance.choice(["one", "other"])
        holder: Any
        if self._chance.random() < 0.6:
            holder = await Client.serve(self._server, "remote", name=name, grace=grace, session_id=session_id)
        else:
            holder = await Worker.serve(self._server, "work", name=f"worker-{name}", grace=grace, max_concurrent=1)
        self._holders.append(holder)
        answers = [self._chance.random() < 0.6 for _ in range(50)]

        async def work() -> None:
            try:
                for is_answered in answers:
                    invocation = await holder.invoked()
                    if is_answered:
                        await holder.answer(invocation, "it is done")
            except (
                grpc.aio.AioRpcError,
                asyncio.CancelledError,
                asyncio.InvalidStateError,
                AssertionError,
                TimeoutError,
            ):
                pass

        self._start(work())

    async def _lose(self, session_id: str) -> None:
        if self._holders:
            holder = self._holders.pop(self._chance.randrange(len(self._holders)))
            (holder.lose if isinstance(holder, Client) else holder.kill)()

    async def _settle(self, session_id: str) -> None:
        for _ in range(self._chance.randrange(1, 5)):
            await self._server.admin_stats()

    async def _look(self, session_id: str) -> None:
        """Holds say what they are."""
        response = await self._server.runs.ListRuns(run_service_pb2.ListRunsRequest(session_id=session_id))
        for run in response.runs:
            for hold in run.holds:
                assert hold.label, run
                oldest = 1e9 * self._clock.time() - run.create_time.ToNanoseconds()
                assert 0 <= hold.age.ToNanoseconds() <= oldest + 1e6, run
                # What begins behind its deadline is over with the next timer.
                if hold.HasField("deadline") and hold.age.ToNanoseconds():
                    assert hold.deadline.ToNanoseconds() >= 1e9 * self._clock.time() - 1e6, (self._clock.time(), run)

    async def calm(self) -> None:
        """Nothing new comes: time passes, gates open, holders are gone, and everything ends."""
        self._store.release()
        for holder in self._holders:
            (holder.lose if isinstance(holder, Client) else holder.kill)()
        for gate in GATES:
            self._server.gates.open(gate)
        async with asyncio.timeout(LIMIT):
            for _ in range(MAX_LOOKS):
                stats = await self._server.admin_stats()
                is_quiet = not stats.num_open_runs and not stats.num_pending_commits
                if is_quiet and all(task.done() for task in self._under_way):
                    break
                self._clock.advance(1.0)
            else:
                raise AssertionError(f"it waits for ever: {await self._holds()}")
            for task in self._under_way:
                await task

    async def _holds(self) -> list[Any]:
        found: list[Any] = []
        for session_id in self.sessions:
            response = await self._server.runs.ListRuns(run_service_pb2.ListRunsRequest(session_id=session_id))
            found += [run for run in response.runs if run.holds]
            found.append(self._server.snapshot(session_id))
        return found

    async def leave(self) -> None:
        """The server goes away as it is, or in order: what is open is left to the next life."""
        if self._chance.random() < 0.5:
            self._server.server.begin_drain(10.0)
            for _ in range(self._chance.randrange(12)):
                step = self._chance.choice([self._submit, self._cancel, self._answer, self._gate, self._advance])
                await step(self._chance.choice(self.sessions))
                await self._settle("")
        self._store.release()
        for holder in self._holders:
            (holder.lose if isinstance(holder, Client) else holder.kill)()

    async def left(self, tasks_before: set[asyncio.Task[Any]]) -> None:
        """After the server has gone: what did not listen to it ends too."""
        for gate in GATES:
            self._server.gates.open(gate)
        for task in self._under_way:
            task.cancel()
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*(asyncio.all_tasks() - tasks_before), return_exceptions=True)

    async def check(self) -> None:
        """What holds when all is over."""
        server = self._server
        assert not server.server.failure.done()
        stats = server.server.runs.parts.core.stats()
        numbers = {name: getattr(stats, name) for name in dir(stats) if not name.startswith("_")}
        numbers = {name: value for name, value in numbers.items() if isinstance(value, int)}
        assert {name for name, value in numbers.items() if value} <= {"last_sequence", "phase"}, numbers
        assert server.server._owner.names() == []
        async with httpx.AsyncClient() as http:
            text = (await http.get(f"http://{server.server.http_address}/metrics")).text
        gauges = [line for line in text.splitlines() if line.startswith(("turnkeeper_active", "turnkeeper_queue"))]
        assert gauges
        assert all(line.endswith(" 0.0") for line in gauges), gauges
        for session_id in self.sessions:
            await self._check_session(session_id)

    async def _check_session(self, session_id: str) -> None:
        events = await self._server.history(session_id)
        outcomes = finished(events)
        accepted = [event.run_id for event in events if event.HasField("run_accepted")]
        assert sorted(accepted) == sorted(outcomes)
        assert {run_id for run_id, of in self.accepted.items() if of == session_id} <= outcomes.keys()
        # A tool that was given up may say later what has become of it.
        own = [event for event in events if event.run_id and not event.HasField("tool_call_late_result")]
        last = {event.run_id: event.WhichOneof("payload") for event in own}
        assert set(last.values()) <= {"run_finished"}, last
        results: dict[str, int] = {}
        running = ""
        for event in events:
            payload = event.WhichOneof("payload") or ""
            if payload == "run_started":
                assert not running, f"{event.run_id} starts while {running} runs"
                running = event.run_id
            elif payload == "run_finished" and event.run_id == running:
                running = ""
            if payload in TERMINAL_EVENTS:
                result = getattr(event, payload).result
                results[result.tool_call_id] = results.get(result.tool_call_id, 0) + 1
        calls = [
            part.tool_call.tool_call_id
            for event in events
            if event.HasField("message_committed")
            for part in event.message_committed.message.parts
            if part.HasField("tool_call")
        ]
        assert results == dict.fromkeys(calls, 1)
        assert is_valid(await self._server.messages(session_id))
        request = session_service_pb2.GetSessionRequest(session_id=session_id)
        usage = (await self._server.sessions.GetSession(request)).session.usage
        used = [outcome.usage.own for outcome in outcomes.values()]
        assert usage.own.num_calls == sum(one.num_calls for one in used)
        assert usage.own.output_tokens == sum(one.output_tokens for one in used)


def _duration(seconds: float) -> Duration:
    made = Duration()
    made.FromNanoseconds(int(seconds * 1e9))
    return made


def _raises() -> str:
    raise ValueError("a tool of the storm")


def _tools(gates: Gates) -> Tools:
    tools = Tools(gates)
    tools.quick("quick")
    tools.quick("ask", needs_approval=True)
    tools.quick("beside", is_parallel=True)
    tools.quick("beside_ask", is_parallel=True, needs_approval=True)
    tools.held("red")
    tools.add("raises", _raises)

    async def deaf() -> str:
        while True:
            try:
                await gates.wait("green")
                return "heard"
            except asyncio.CancelledError:
                continue

    tools.add("deaf", deaf)
    return tools


def _failing(data_dir: Path, chance: random.Random) -> GatedStore:
    """A disk that may be full some time."""
    faults = Faults()
    if chance.random() < 0.3:
        num_commits = iter(range(chance.randrange(20, 200), 0, -1))
        faults.fail("before", when=lambda _: next(num_commits, 0) <= 1, times=ALWAYS, error=disk_full)
    return GatedStore(data_dir, faults=faults)


def _flaws(server: Harness, chance: random.Random) -> None:
    """Turns that cannot be planned, and ends that cannot be written, now and then."""
    planner: Any = server.server.runs._conductor._planner
    plan = planner._plan

    def flawed(run: Any, turn_id: str) -> Any:
        if chance.random() < 0.1:
            raise RuntimeError("a flaw of a plan")
        return plan(run, turn_id)

    planner._plan = flawed


async def storm(
    data_dir: Path, seed: int, *, lives: int = 3, num_steps: int = 120, is_flawed: bool = False
) -> dict[str, str]:
    """Some lives of a server, and a last one in which all comes to its end; the runs that were acknowledged."""
    chance, clock = random.Random(seed), ManualClock()
    accepted: dict[str, str] = {}
    sessions = [f"s{number}" for number in range(4)]
    tasks_before = asyncio.all_tasks()
    for life in range(lives):
        gates = StubbornGates() if chance.random() < 0.3 else Gates()
        is_last = life == lives - 1
        store, tools = GatedStore(data_dir) if is_last else _failing(data_dir, chance), _tools(gates)
        settings: dict[str, Any] = SETTINGS | {
            "limits__max_running_turns": chance.choice(["1", "2", "3"]),
            "providers__scripted__max_concurrent_calls": chance.choice(["1", "2"]),
            "providers__scripted__max_calls_per_minute": chance.choice(["7", "1000"]),
        }
        async with serving(data_dir, clock=clock, store=store, tools=tools.offered, gates=gates, **settings) as server:
            weather = Weather(server, clock, store, chance, life)
            weather.accepted = accepted
            weather.sessions = sessions
            if is_flawed:
                _flaws(server, chance)
            if is_last:
                await weather.rage(num_steps)
                await weather.calm()
                await weather.check()
            else:
                try:
                    await weather.rage(num_steps)
                    await weather.leave()
                except GONE:
                    if not store.failure.done():
                        raise
        await weather.left(tasks_before)
    return accepted

"""The calls of one answer: every one gets exactly one result, in the order of the calls (promise 8).

A call goes through: is there such a tool, do its arguments fit, may it run, it starts (durable before it runs), its
result (durable when it is there). Calls marked parallel run beside their neighbours. After each of them the turn looks
whether something else comes first; then calls that have not started are skipped, with a result that says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from turnkeeper.v1 import content_pb2, tool_service_pb2
from turnkeeper_service.engine.approval import Approvals
from turnkeeper_service.engine.journal import Draft, Journal
from turnkeeper_service.engine.plan import CallState, TurnPlan
from turnkeeper_service.engine.scheduling import WaitKind
from turnkeeper_service.ids import in_slot, short_id
from turnkeeper_service.process.clock import Clock, seconds_of, within
from turnkeeper_service.store.slots import slot_of
from turnkeeper_service.tools.arguments import NOT_JSON, BadArgumentsError, parse
from turnkeeper_service.tools.base import SERVER, Invocation, OfferedTool, ToolAnswer, synthetic_result, text_result
from turnkeeper_service.tools.functions import ToolError

from .results import problem_of
from .waits import CallWait, Waits

log = structlog.get_logger(__name__)

PARALLEL_CALLS = 5
MAX_RESULTS_BYTES = 10 << 20
"""Of all results of a batch: one message holds them, and it has to fit into what a stream carries at once."""
SAFE = tool_service_pb2.REPLAY_CLASS_SAFE


class ToolBatch:
    """Runs the calls of one answer."""

    def __init__(
        self,
        plan: TurnPlan,
        journal: Journal,
        clock: Clock,
        approvals: Approvals,
        calls: Sequence[CallState],
        *,
        tools: Callable[[], Mapping[str, OfferedTool]],
        may_go_on: Callable[[], bool],
        note: Callable[[str], None],
        waits: Waits,
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._clock = clock
        self._approvals = approvals
        self._tools = tools
        self._may_go_on = may_go_on
        self._note = note
        self._waits = waits
        self.states = list(calls)
        self._num_bytes = sum(state.result.ByteSize() for state in self.states if state.result is not None)
        self._working: dict[str, asyncio.Task[ToolAnswer]] = {}
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_turn_end(self) -> bool:
        """Whether a result ends the turn."""
        return any(state.is_turn_end for state in self.states)

    async def run(self) -> None:
        """Run the calls in order, until all have results or something comes first. Then the turn has its permit."""
        index = 0
        has_run = any(state.result is not None for state in self.states)
        while index < len(self.states):
            if self.is_turn_end and not any(map(_is_under_way, self.states)):
                return
            group = self._group(index)
            index += len(group)
            todo = [state for state in group if state.result is None]
            if not todo:
                continue
            # What came while the model answered waits for the first call: that one always runs (U-20). After a restart
            # what had begun goes on too.
            if has_run and not any(map(_is_under_way, todo)) and not self._may_go_on():
                return
            has_run = True
            self._waits.side_by_side(len(todo))
            await self._together(todo)
            await self._waits.permit()

    async def _together(self, todo: Sequence[CallState]) -> None:
        """Bring calls to their results, side by side."""
        if len(todo) == 1:
            await self._one(todo[0])
            return
        try:
            async with asyncio.TaskGroup() as group:
                for state in todo:
                    group.create_task(self._one(state), name=f"call {state.call.name}")
        except ExceptionGroup as several:
            # A lost store says so in each of them; whoever drives the turn looks for the error itself.
            raise several.exceptions[0] from several

    def _group(self, start: int) -> list[CallState]:
        tools = self._tools()

        def is_parallel(state: CallState) -> bool:
            offered = tools.get(state.call.name)
            return offered is not None and offered.tool.is_parallel

        group = [self.states[start]]
        if is_parallel(group[0]):
            for state in self.states[start + 1 : start + PARALLEL_CALLS]:
                if not is_parallel(state):
                    break
                group.append(state)
        return group

    async def _one(self, state: CallState) -> None:
        """Bring one call to its result."""
        offered = self._tools().get(state.call.name)
        is_allowed = False
        if state.has_started:
            offered = await self._again(state, offered)
            if offered is None:
                return
        elif offered is None and state.is_resumed:
            # Its client may not be back yet. What was asked waits for its answer meanwhile.
            if state.asked is not None:
                is_allowed = await self._is_allowed(state)
                if not is_allowed:
                    return
            offered = await self._returned(state)
        if offered is None:
            await self._finish(
                state, text_result(state.call, f"there is no tool {state.call.name!r}", is_error=True), 0.0
            )
            return
        try:
            if state.is_malformed:
                raise BadArgumentsError(NOT_JSON)
            parse(offered.tool, state.call)
        except BadArgumentsError as error:
            await self._finish(state, text_result(state.call, str(error), is_error=True), 0.0)
            return
        is_free = is_allowed or state.has_started or self._plan.is_pre_approved(state.call.name)
        if not offered.tool.needs_approval or is_free or await self._is_allowed(state):
            await self._run(state, offered)

    async def _is_allowed(self, state: CallState) -> bool:
        """Ask for leave to run a call; where it is not given, that is the call's result."""
        await self._waits.permit()
        wait = self._wait(state, "approval", f"approval of {state.call.name}")
        decision = await self._approvals.ask(state.call, state.asked, wait)
        if not decision.is_allowed:
            text = f"this call was not allowed: {decision.comment}" if decision.comment else "this call was not allowed"
            await self._finish(state, text_result(state.call, text, is_error=True), 0.0, is_skipped=True)
        return decision.is_allowed

    async def _returned(self, state: CallState) -> OfferedTool | None:
        """A tool that was offered before a restart, once somebody serves it again; None where that takes too long."""
        name = state.call.name
        await self._waits.permit()
        wait = self._wait(state, "tool", f"client of {name}")
        wait.begin(None)
        await self._plan.toolbox.tool_returned(self._plan.tenant, self._plan.session_id, name)
        wait.end(None)
        return self._tools().get(name)

    async def _again(self, state: CallState, offered: OfferedTool | None) -> OfferedTool | None:
        """Who goes on with a call that a lost process had started (U-16); None where this is its end, and written."""
        plan, name = self._plan, state.call.name
        is_safe, is_ours = state.replay_class == SAFE, state.executor == SERVER
        if is_safe and offered is None:
            offered = plan.toolbox.absent(name) if is_ours else await self._returned(state)
        elif not is_safe and not is_ours:
            # Only who has it can say what became of it.
            await self._waits.permit()
            wait = self._wait(state, "tool", f"client {state.executor}")
            wait.begin(None)
            grace = min(state.reconnect_grace, plan.tool_timeout)
            offered = await plan.toolbox.holder_returned(plan.tenant, plan.session_id, state.executor, grace, name)
            wait.end(None)
        elif not is_safe:
            offered = None
        if offered is None:
            lost = "the process was lost while this tool ran" if is_ours else f"the client that ran {name!r} was lost"
            await self._finish(state, synthetic_result(state.call, f"{lost}; whether it took effect is unknown"), 0.0)
        return offered

    def _wait(self, state: CallState, kind: WaitKind, label: str) -> CallWait:
        """The wait of a call for somebody outside; its turn is parked while no other call of it runs here (U-3)."""
        return self._waits.of(state.call.tool_call_id, kind, label)

    async def _run(self, state: CallState, offered: OfferedTool) -> None:
        timeout = self._plan.tool_timeout
        if offered.tool.HasField("timeout"):
            timeout = seconds_of(offered.tool.timeout)
        is_ours = offered.executor_name == SERVER
        await self._waits.permit()
        now = self._clock.time()
        # Whoever serves it outside may have worked on it all the while: its deadline outlives our process.
        is_old = state.has_started and not is_ours
        deadline = (state.started if is_old else now) + timeout
        if is_old and deadline <= now:
            await self._finish(state, synthetic_result(state.call, _too_late(timeout)), 0.0)
            return
        invocation = Invocation(
            tenant=self._plan.tenant,
            session_id=self._plan.session_id,
            run_id=self._plan.run_id,
            turn_id=self._plan.turn_id,
            call=state.call,
            message_id=state.message_id,
            lease_id=in_slot(slot_of(self._plan.tenant, self._plan.session_id), short_id("lease")),
            deadline=deadline,
            attempt=state.num_starts + 1,
            holder=state.executor if state.has_started and state.replay_class != SAFE else "",
        )
        draft = self._journal.draft()
        event = self._plan.event()
        started = event.tool_call_started
        started.tool_call_id, started.executor = state.call.tool_call_id, offered.executor_name
        started.replay_class = offered.tool.replay_class
        if not is_ours:
            started.lease_id = invocation.lease_id
        if offered.reconnect_grace is not None:
            started.reconnect_grace.FromNanoseconds(int(offered.reconnect_grace * 1e9))
        draft.event(event)
        wait = self._wait(state, "tool", f"tool {state.call.name}")
        expired: asyncio.Future[None] | None = None
        if is_ours:
            wait.end(draft)
        else:
            expired = wait.begin(draft, deadline - now)
        state.num_starts += 1
        await self._journal.submit(draft)
        began = self._clock.monotonic()
        self._note(f"tool {state.call.name}")
        if expired is None:
            answer = await self._timed(offered, invocation, timeout)
        else:
            answer = await self._answer(offered, invocation, timeout, expired)
        state.is_turn_end = answer.is_turn_end
        result = self._bounded(state.call, answer.result)
        await self._finish(state, result, self._clock.monotonic() - began)

    async def _timed(self, offered: OfferedTool, invocation: Invocation, timeout: float) -> ToolAnswer:
        """The answer of a tool that runs here: work and no wait, so its time is ours and not the core's."""
        expired: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(timeout, expired.cancel)
        try:
            return await self._answer(offered, invocation, timeout, expired)
        finally:
            timer.cancel()

    async def _answer(
        self, offered: OfferedTool, invocation: Invocation, timeout: float, expired: asyncio.Future[None]
    ) -> ToolAnswer:
        """The tool's answer; whatever goes wrong is an answer too, also that its time is over."""
        call = invocation.call
        work = asyncio.get_running_loop().create_task(_awaited(offered, invocation), name=f"tool {call.name}")
        self._working[call.tool_call_id] = work
        is_expired = False
        try:
            in_time: set[asyncio.Future[Any]] = {work, expired}
            await asyncio.wait(in_time, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                is_expired = True
                work.cancel()
                await within(self._clock, work, self._plan.cancel_grace)
        except asyncio.CancelledError:
            # The turn is cut. Whoever cut it waits a while for us, and we for the tool; `close` then gives it away.
            if not is_expired:
                work.cancel()
            either: set[asyncio.Future[Any]] = {work, self._closed}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            raise
        del self._working[call.tool_call_id]
        if not work.done():
            self._plan.detach(work, call)
        if not work.done() or work.cancelled():
            text = _too_late(timeout) if is_expired else "the tool was cancelled"
            return ToolAnswer(synthetic_result(call, text))
        error = work.exception()
        if error is None:
            return work.result()
        if isinstance(error, (BadArgumentsError, ToolError)):
            return ToolAnswer(text_result(call, str(error), is_error=True))
        log.warning("a tool failed", tool=call.name, run_id=invocation.run_id, error=type(error).__name__)
        return ToolAnswer(text_result(call, f"the tool failed: {type(error).__name__}", is_error=True))

    def _bounded(self, call: content_pb2.ToolCall, result: content_pb2.ToolResult) -> content_pb2.ToolResult:
        problem = problem_of(result)
        if problem:
            return text_result(call, problem, is_error=True)
        limit = self._plan.max_tool_result_bytes
        size = result.ByteSize()
        if size <= limit and self._num_bytes + size <= max(limit, MAX_RESULTS_BYTES):
            self._num_bytes += size
            # Whatever a tool says of the call, it is the answer to this one.
            result.tool_call_id, result.name = call.tool_call_id, call.name
            return result
        if size <= limit:
            return text_result(
                call, f"the results of these calls are together too long; {size} bytes were left out", is_error=True
            )
        return text_result(call, f"the result is longer than {limit} bytes and was left out", is_error=True)

    async def _finish(
        self, state: CallState, result: content_pb2.ToolResult, seconds: float, *, is_skipped: bool = False
    ) -> None:
        draft = self._journal.draft()
        event = self._plan.event()
        if is_skipped:
            event.tool_call_skipped.result.CopyFrom(result)
        else:
            event.tool_call_finished.result.CopyFrom(result)
            event.tool_call_finished.duration.FromNanoseconds(int(seconds * 1e9))
            event.tool_call_finished.is_turn_end = state.is_turn_end
        draft.event(event)
        self._waits.finish(state.call.tool_call_id, draft)
        state.result = result
        await self._journal.submit(draft)

    def close(self, draft: Draft, why: str, *, is_cancelled: bool) -> content_pb2.Message:
        """Give every call without a result a synthetic one and write the message that holds all of them."""
        message = content_pb2.Message(
            message_id=short_id("msg"),
            role=content_pb2.ROLE_TOOL,
            status=content_pb2.MESSAGE_STATUS_COMPLETE,
            run_id=self._plan.run_id,
            turn_id=self._plan.turn_id,
            context_id=self._plan.context.context_id,
            in_context=True,
        )
        for state in self.states:
            result = state.result
            if result is None:
                result = synthetic_result(state.call, why)
                event = self._plan.event()
                if is_cancelled:
                    event.tool_call_cancelled.result.CopyFrom(result)
                else:
                    event.tool_call_skipped.result.CopyFrom(result)
                draft.event(event)
                work = self._working.pop(state.call.tool_call_id, None)
                if work is not None:
                    self._plan.detach(work, state.call)
            message.parts.add().tool_result.CopyFrom(result)
        draft.message(message, run_id=self._plan.run_id)
        if not self._closed.done():
            self._closed.set_result(None)
        return message


def _is_under_way(state: CallState) -> bool:
    """Whether a lost process had begun with a call, and not ended it."""
    return state.result is None and (state.has_started or state.asked is not None)


def _too_late(timeout: float) -> str:
    return f"the tool did not answer within {timeout:g} seconds"


async def _awaited(offered: OfferedTool, invocation: Invocation) -> ToolAnswer:
    return await offered.executor.call(invocation)

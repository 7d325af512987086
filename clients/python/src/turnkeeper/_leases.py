"""Calls that this process was given to run, each under a lease.

A server hands a call out again until it has the result: to a connection that comes back, and after a restart under a
new lease. So nothing has to be sent twice from here; what is running already only changes its lease, and what is done
is answered from memory. A call is run once, however often it comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from turnkeeper._tools import FunctionTool, ToolError, error_result
from turnkeeper.v1.tool_service_pb2 import OfferTools, ToolInvocation, ToolInvocationCancelled, ToolInvocationResult

MAX_REMEMBERED = 256
"""Results that are kept for a server that may have lost them."""
_log = logging.getLogger("turnkeeper")


@dataclass
class _Leased:
    """One call; `task` runs it until there is an answer."""

    lease_id: str
    task: asyncio.Task[None] | None = None
    answer: ToolInvocationResult | None = None


class LeasedCalls:
    """Runs calls beside each other and answers each under the lease that it has by then."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Call `wake` when there is something to send."""
        self.tools: dict[str, FunctionTool] = {}
        """What is offered; a change counts for the next call."""
        self.results: deque[ToolInvocationResult] = deque()
        """What is to be sent over this connection. What one that is lost did not carry is asked for again."""
        self._wake = wake
        self._calls: dict[str, _Leased] = {}
        """By a key that is the same however often a call is handed out; oldest first."""
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self) -> OfferTools:
        """What is offered, as a frame holds it."""
        return OfferTools(tools=[tool.tool for tool in self.tools.values()])

    def invoke(self, invocation: ToolInvocation) -> None:
        """Take a call, for the first time or again."""
        key = invocation.idempotency_key or invocation.lease_id
        found = self._calls.get(key)
        if found is not None:
            found.lease_id = invocation.lease_id
            if found.answer is not None:
                self._answer(found, found.answer)
            return
        leased = self._calls[key] = _Leased(invocation.lease_id)
        call = invocation.tool_call
        leased.task = asyncio.create_task(self._run(leased, call.name, call.arguments_json), name=f"tool {call.name}")
        self._tasks.add(leased.task)
        leased.task.add_done_callback(self._tasks.discard)
        self._forget()

    def take_back(self, cancelled: ToolInvocationCancelled) -> None:
        """Stop a call whose lease is gone; whoever gets it again runs it anew."""
        for key, leased in list(self._calls.items()):
            if leased.lease_id == cancelled.lease_id and leased.task is not None:
                del self._calls[key]
                leased.task.cancel()

    async def close(self) -> None:
        """Stop all calls. Again does nothing."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, leased: _Leased, name: str, arguments_json: str) -> None:
        leased.answer = await self._result(name, arguments_json)
        leased.task = None
        self._answer(leased, leased.answer)

    async def _result(self, name: str, arguments_json: str) -> ToolInvocationResult:
        """What the tool says; what goes wrong in it the model sees as an error."""
        tool = self.tools.get(name)
        if tool is None:
            return ToolInvocationResult(result=error_result(f"there is no tool {name!r} any more"))
        try:
            result, is_turn_end = await tool.call(arguments_json)
        except ToolError as error:
            return ToolInvocationResult(result=error_result(str(error)))
        except Exception as error:
            _log.warning("the tool %s failed", name, exc_info=error)
            return ToolInvocationResult(result=error_result(f"the tool failed: {type(error).__name__}"))
        return ToolInvocationResult(result=result, is_turn_end=is_turn_end)

    def _answer(self, leased: _Leased, answer: ToolInvocationResult) -> None:
        answer.lease_id = leased.lease_id
        self.results.append(answer)
        self._wake()

    def _forget(self) -> None:
        """Keep the memory bounded; what still runs is never forgotten."""
        done = [key for key, leased in self._calls.items() if leased.answer is not None]
        for key in done[: max(0, len(done) - MAX_REMEMBERED)]:
            del self._calls[key]

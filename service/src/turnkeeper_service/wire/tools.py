"""ToolService, and the links over which clients and workers get calls to run."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from turnkeeper.v1 import run_service_pb2
from turnkeeper.v1 import tool_service_pb2 as pb
from turnkeeper_service.errors import Reason, Refused, invalid
from turnkeeper_service.events.reader import Reader
from turnkeeper_service.principal import Role
from turnkeeper_service.process.clock import seconds_of
from turnkeeper_service.runs.runs import Runs
from turnkeeper_service.tools.base import Invocation
from turnkeeper_service.tools.remote.leases import Holder

from .call import Call, Malformed
from .status import code_of
from .streams import Streams, until_cancelled
from .validate import Findings, check_duration, check_id, check_text, check_tool, require_id

ROLES: Mapping[str, Role] = {"ServeTools": "worker", "ListTools": "read"}
MAX_TOOLS = 128
MAX_UNWRITTEN = 256
"""Items for a worker that does not read, from which on its frames wait."""


def check_offer(offer: pb.OfferTools, path: str) -> Sequence[pb.Tool]:
    """The shape of an offer. Raises Refused."""
    found = Findings()
    check_text(found, offer, path)
    if len(offer.tools) > MAX_TOOLS:
        found.add(f"{path}tools", f"has more than {MAX_TOOLS} entries")
    if len({tool.name for tool in offer.tools}) < len(offer.tools):
        found.add(f"{path}tools", "has a name twice")
    for index, tool in enumerate(offer.tools):
        check_tool(found, f"{path}tools[{index}].", tool)
    if offer.HasField("reconnect_grace"):
        check_duration(found, f"{path}reconnect_grace", offer.reconnect_grace)
    found.refuse()
    return list(offer.tools)


def grace_of(offer: pb.OfferTools) -> float | None:
    """How long a lost stream keeps its leases, in seconds; None for the default."""
    if not offer.HasField("reconnect_grace"):
        return None
    return seconds_of(offer.reconnect_grace)


def take_answer(runs: Runs, holder: Holder, given: pb.ToolInvocationResult) -> tuple[bool, str]:
    """Take a holder's result: (whether it is late, the call's id). Raises Refused TOOL_CALL_NOT_FOUND."""
    taken = runs.remote.answer(holder, given)
    if taken is None:
        raise Refused(
            Reason.ERROR_REASON_TOOL_CALL_NOT_FOUND,
            f"you never had a lease {given.lease_id!r}",
            resource=("turnkeeper.dev/Lease", given.lease_id),
        )
    if taken.is_late and not taken.is_reported:
        _record(runs, taken.invocation, given)
    return taken.is_late, taken.invocation.call.tool_call_id


def _record(runs: Runs, invocation: Invocation, given: pb.ToolInvocationResult) -> None:
    given.result.tool_call_id = invocation.call.tool_call_id
    given.result.name = invocation.call.name
    runs.late.record(invocation.tenant, invocation.session_id, invocation.run_id, invocation.turn_id, given.result)


class WorkerLink:
    """The stream of one worker. What it has to be told waits here until it is written."""

    def __init__(self) -> None:
        self._items: dict[str, pb.ServeToolsResponse] = {}
        """What is to be written, in order: a call by its lease, anything else by a number."""
        self._numbers = itertools.count()
        self._wake = asyncio.Event()
        self._taken = asyncio.Event()
        self._is_over = False
        self.error: BaseException | None = None
        """Why the server ended the stream."""

    def put(self, item: pb.ServeToolsResponse) -> None:
        """Tell the worker something."""
        self._items[f"#{next(self._numbers)}"] = item
        self._wake.set()

    def invoke(self, invocation: pb.ToolInvocation) -> None:
        """Hand out a call; a worker never has more than it takes at a time."""
        self._items[invocation.lease_id] = pb.ServeToolsResponse(invocation=invocation)
        self._wake.set()

    def take_back(self, cancelled: pb.ToolInvocationCancelled) -> None:
        """Say that a lease is gone; where the call has not been written yet, there is nothing to say."""
        if self._items.pop(cancelled.lease_id, None) is None:
            self.put(pb.ServeToolsResponse(cancelled=cancelled))

    def beat(self) -> None:
        """Show a sign of life."""
        if not self._items:
            self.put(pb.ServeToolsResponse(heartbeat=pb.WorkerHeartbeat()))

    async def room(self) -> None:
        """Wait until the worker has read most of what it was told."""
        while len(self._items) >= MAX_UNWRITTEN:
            self._taken.clear()
            await self._taken.wait()

    def end(self, reason: BaseException | None = None) -> None:
        """Nothing more will come: the worker has half-closed, or, with a reason, the server goes away."""
        self._is_over = True
        self.error = self.error or reason
        self._wake.set()

    async def next(self) -> list[pb.ServeToolsResponse]:
        """What is new; empty at the end."""
        while not self._items and not self._is_over:
            self._wake.clear()
            await self._wake.wait()
        items, self._items = self._items, {}
        self._taken.set()
        return list(items.values())


class ToolServicer:
    """Workers and tools of the caller's tenant."""

    def __init__(self, runs: Runs, streams: Streams) -> None:
        self._runs = runs
        self._streams = streams

    def methods(self) -> Mapping[str, Callable[..., Any]]:
        """The methods that are implemented."""
        return {"ServeTools": self.serve, "ListTools": self.list}

    async def list(self, request: pb.ListToolsRequest, call: Call) -> pb.ListToolsResponse:
        """ListTools."""
        found = Findings()
        if request.session_id:
            check_id(found, "session_id", request.session_id)
        if request.model and (why := self._runs.why_no_model(request.model)):
            found.add("model", why, Reason.ERROR_REASON_UNKNOWN_MODEL)
        found.refuse()
        return await self._runs.list_tools(call.tenant, request.session_id, request.model)

    async def serve(self, frames: AsyncIterator[pb.ServeToolsRequest | Malformed], call: Call) -> None:
        """ServeTools."""
        first = await anext(aiter(frames), None)
        if isinstance(first, Malformed):
            raise first.refused
        if first is None or first.WhichOneof("frame") != "open":
            raise Refused(Reason.ERROR_REASON_FIRST_FRAME_NOT_OPEN, "the first frame has to open the stream")
        opening = first.open
        worker_id = require_id("open.worker_id", opening.worker_id)
        if opening.max_concurrent < 0:
            raise invalid("open.max_concurrent", "is negative")
        tools = check_offer(opening.offer, "open.offer.")
        link = WorkerLink()
        link.put(pb.ServeToolsResponse(tools=pb.ToolsReceipt(names=[tool.name for tool in tools])))
        holder = self._runs.remote.connect(
            call.tenant,
            worker_id,
            "",
            link,
            tools,
            grace=grace_of(opening.offer),
            max_concurrent=opening.max_concurrent,
        )
        tracked = self._streams.enter(link)
        taking = asyncio.get_running_loop().create_task(self._take(frames, holder, link), name="worker frames")
        try:
            while items := await link.next():
                for item in items:
                    await call.write(item)
                self._streams.sent(tracked)
            if link.error is not None:
                raise link.error
        finally:
            self._streams.leave(tracked)
            self._runs.remote.disconnect(holder, link)
            await until_cancelled(taking)

    async def _take(
        self, frames: AsyncIterator[pb.ServeToolsRequest | Malformed], holder: Holder, link: WorkerLink
    ) -> None:
        try:
            async for frame in frames:
                frame_id = "" if isinstance(frame, Malformed) else frame.frame_id[:128]
                try:
                    if isinstance(frame, Malformed):
                        raise frame.refused
                    self._carry_out(frame, holder, link)
                except Refused as refused:
                    error = pb.ServeToolsError(
                        frame_id=frame_id,
                        code=code_of(refused.reason).value[0],
                        reason=refused.reason,
                        message=refused.message,
                    )
                    link.put(pb.ServeToolsResponse(error=error))
                await link.room()
        finally:
            link.end()

    def _carry_out(self, frame: pb.ServeToolsRequest, holder: Holder, link: WorkerLink) -> None:
        match frame.WhichOneof("frame"):
            case "offer_tools":
                tools = check_offer(frame.offer_tools, "offer_tools.")
                self._runs.remote.offer(holder, tools, grace_of(frame.offer_tools))
                link.put(pb.ServeToolsResponse(tools=pb.ToolsReceipt(names=[tool.name for tool in tools])))
            case "result":
                is_late, _ = take_answer(self._runs, holder, frame.result)
                acknowledged = pb.ToolResultAcknowledged(lease_id=frame.result.lease_id, is_late=is_late)
                link.put(pb.ServeToolsResponse(acknowledged=acknowledged))
            case "open":
                raise invalid("open", "the stream is open already")
            case _:
                raise Refused(Reason.ERROR_REASON_UNKNOWN_FRAME, "the frame holds nothing that this server knows")


class ClientLink:
    """The part of a Converse stream that hands out calls."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._unwritten: dict[str, bytes] = {}

    def invoke(self, invocation: pb.ToolInvocation) -> None:
        """Hand out a call."""
        item = run_service_pb2.StreamItem(tool_invocation=invocation).SerializeToString()
        self._unwritten = {lease: one for lease, one in self._unwritten.items() if self._reader.is_waiting(one)}
        self._unwritten[invocation.lease_id] = item
        self._reader.put(item)

    def take_back(self, cancelled: pb.ToolInvocationCancelled) -> None:
        """Say that a lease is gone; where the call has not been written yet, there is nothing to say."""
        item = self._unwritten.pop(cancelled.lease_id, None)
        if item is not None and self._reader.is_waiting(item):
            self._reader.withdraw(item)
        else:
            told = run_service_pb2.StreamItem(tool_invocation_cancelled=cancelled)
            self._reader.put(told.SerializeToString())

    def end(self, reason: BaseException) -> None:
        """The session's log ends, and its readers with it."""

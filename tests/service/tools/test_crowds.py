"""Clients and workers in crowds: what one does costs by what it meets, and no tenant ends anything of another."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.service.harness import Harness, serving, submission
from tests.service.manual_clock import ManualClock
from tests.service.tools.holders import Client, tool
from tests.service.turns.scenes import calls, script
from tests.service.wire.tokens import Caller, write_token_file
from turnkeeper.v1 import content_pb2, run_service_pb2, session_service_pb2, tool_service_pb2
from turnkeeper_service.tools.base import Invocation
from turnkeeper_service.tools.remote import leases, tenant_tools
from turnkeeper_service.tools.remote.remote import RemoteTools


class Silent:
    """The stream of somebody who takes everything and says nothing."""

    def __init__(self) -> None:
        self.given: list[tool_service_pb2.ToolInvocation] = []

    def invoke(self, invocation: tool_service_pb2.ToolInvocation) -> None:
        self.given.append(invocation)

    def take_back(self, cancelled: tool_service_pb2.ToolInvocationCancelled) -> None:
        """It is gone."""

    def end(self, reason: BaseException) -> None:
        """It ends."""


def num_calls(act: Callable[[], object]) -> int:
    """How many functions are called while something is done; the machine's speed is not in it."""
    count = 0

    def note(frame: Any, what: str, argument: Any) -> None:
        nonlocal count
        count += what in ("call", "c_call")

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


def cost_among(size: int) -> dict[str, int]:
    """What a client's life costs among so many others, most of the tenant, some of another."""
    remote = RemoteTools(ManualClock())
    for number in range(size):
        tenant = "other" if number % 4 == 0 else "mine"
        link = Silent()
        holder = remote.connect(tenant, "me", f"s{number}", link, [tool("look")])
        if number % 3 == 0:
            remote.disconnect(holder, link)
    link = Silent()
    held = remote.connect("mine", "me", "s", link, [tool("look")])
    return {
        "offered": num_calls(lambda: remote.tools("mine", "s")),
        "lost": num_calls(lambda: remote.disconnect(held, link)),
        "back": num_calls(lambda: remote.connect("mine", "me", "s", link, [tool("look"), tool("see")])),
        "offers": num_calls(lambda: remote.offer(held, [tool("look")])),
    }


def test_a_clients_life_costs_the_same_in_a_crowd() -> None:
    assert cost_among(10) == cost_among(1000)


async def cost_of_calls(size: int) -> tuple[int, int]:
    """What it costs when a client comes back to its call, and when one is answered, among so many that have one."""
    remote = RemoteTools(ManualClock())
    tasks = []
    for number in range(size):
        session_id, link = f"s{number}", Silent()
        holder = remote.connect("mine", "me", session_id, link, [tool("look")])
        if number % 2:
            remote.disconnect(holder, link)
        call = content_pb2.ToolCall(tool_call_id="c", name="look")
        invocation = Invocation("mine", session_id, "r", "t", call, "m", f"lease-{number}", 9e9)
        tasks.append(asyncio.create_task(remote.call(invocation)))
    await asyncio.sleep(0)
    back, asked = Silent(), remote.connect("mine", "me", "s0", Silent(), [tool("look")])
    given = tool_service_pb2.ToolInvocationResult(lease_id="lease-0")
    costs = (
        num_calls(lambda: remote.connect("mine", "me", "s1", back, [tool("look")])),
        num_calls(lambda: remote.answer(asked, given)),
    )
    assert [one.lease_id for one in back.given] == ["lease-1"]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return costs


@pytest.mark.asyncio
async def test_a_call_costs_the_same_in_a_crowd() -> None:
    assert await cost_of_calls(10) == await cost_of_calls(1000)


async def gone(server: Harness, tenant: str) -> None:
    """Turn the loop until the server knows that a tenant's streams are lost: nothing on the wire tells it."""
    while any(one.tenant == tenant and one.link is not None for one in server.server.runs.remote.holders()):  # noqa: ASYNC110
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_what_another_tenants_clients_do_ends_no_lease_and_forgets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_tools, "MAX_AWAY", 2)
    monkeypatch.setattr(leases, "MAX_REMEMBERED", 2)
    async with serving(tmp_path, clock=ManualClock(), **write_token_file(tmp_path)) as server:
        alice, bob = Caller(server.channel, "alice"), Caller(server.channel, "bob")
        for who in (alice, bob):
            request = session_service_pb2.CreateSessionRequest(session_id="s")
            await who.call("SessionService.CreateSession", request)
        mine = await Client.serve(server, "look", name="mine", metadata=alice.metadata)
        await submit(alice, "r")
        first = await mine.invoked()
        mine.lose()
        await gone(server, "acme")
        for number in range(5):
            (await Client.serve(server, "look", name=f"c{number}", metadata=bob.metadata)).lose()
            await gone(server, "bolt")
        # It is still waited for, and gets its call again.
        mine = await Client.serve(server, "look", name="mine", metadata=alice.metadata)
        again = await mine.invoked()
        assert (again.lease_id, again.attempt) == (first.lease_id, 2)
        assert not await mine.answer(again, "seen")
        # Many calls of the other tenant end meanwhile; what comes late here is still known as late.
        theirs = await Client.serve(server, "look", metadata=bob.metadata)
        for number in range(4):
            await submit(bob, f"b{number}")
            await theirs.answer(await theirs.invoked(), "seen")
        assert await mine.answer(again, "late")
        theirs.lose()
        mine.lose()


async def submit(who: Caller, run_id: str) -> None:
    """Submit a prompt whose answer calls the tool ``look``."""
    request = run_service_pb2.SubmitRunRequest(submission=submission("s", script(calls("look"), "done"), run_id))
    await who.call("RunService.SubmitRun", request)

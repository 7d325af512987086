"""Tool servers that do not come up at once, or not at all, or again after a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.service.harness import Harness, load_settings, serving
from tests.service.manual_clock import ManualClock
from tests.service.mcp.gate import Gate
from tests.service.mcp.over_http import OverHttp
from tests.service.mcp.own_server import build
from tests.service.mcp.turns import at_address, calling, connected, results, script, text
from turnkeeper.v1 import event_pb2
from turnkeeper_service.tools.functions import FunctionTool
from turnkeeper_service.tools.mcp.content import offered_name
from turnkeeper_service.tools.mcp.server import FIRST_BACKOFF, MAX_BACKOFF

OTHER = {"other": FunctionTool(lambda: "", name="other").offered()}
ADD = script(calling(("own_add", {"a": 20, "b": 3})))


async def held_by(server: Harness, run_id: str, label: str) -> None:
    """Turn the loop until a run says that this holds it."""
    async with asyncio.timeout(10):
        while label not in [hold.label for hold in (await server.run_view(run_id)).holds]:
            pass


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:X-21")
async def test_a_run_waits_for_the_servers_that_are_marked_so_and_for_no_others(tmp_path: Path) -> None:
    async with (
        Gate(tmp_path) as gate,
        OverHttp(build(gate.path)) as own,
        OverHttp(build(gate.path)) as slow,
    ):
        own.shut()
        slow.shut()
        settings = load_settings(tmp_path / "1", **at_address(own.url), **at_address(slow.url, "slow", wait="false"))
        async with serving(tmp_path / "1", settings=settings) as server:
            await own.knocked()
            await slow.knocked()
            await server.session("s")
            await server.submit("s", ADD, run_id="waits")
            await held_by(server, "waits", "tool servers that connect")
            own.open()
            await server.terminals("s", ["waits"])
            assert text((await results(server, "s"))["own_add"]) == "23"
            slow.open()

        own.shut()
        settings = load_settings(tmp_path / "2", **at_address(own.url, wait="false"))
        async with serving(tmp_path / "2", settings=settings, tools=OTHER) as server:
            await own.knocked()
            await server.session("s")
            await server.submit("s", ADD, run_id="goes-on")
            outcome = (await server.terminals("s", ["goes-on"]))["goes-on"]
            assert outcome.text == "done"
            assert text((await results(server, "s"))["own_add"]) == "there is no tool 'own_add'"
            own.open()
            await connected(server)


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:X-21")
async def test_a_run_that_waits_can_be_cancelled_and_does_not_wait_for_ever(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Gate(tmp_path) as gate, OverHttp(build(gate.path)) as own:
        own.shut()
        settings = load_settings(tmp_path, **at_address(own.url, connect_timeout_seconds="25"))
        async with serving(tmp_path, clock=clock, tools=OTHER, settings=settings) as server:
            await own.knocked()
            await server.session("s")
            await server.submit("s", ADD, run_id="cancelled")
            await held_by(server, "cancelled", "tool servers that connect")
            await server.cancel(run_id="cancelled")
            outcome = (await server.terminals("s", ["cancelled"]))["cancelled"]
            assert (outcome.status, outcome.num_steps) == (event_pb2.OUTCOME_STATUS_CANCELLED, 0)
            await server.submit("s", ADD, run_id="waits")
            await held_by(server, "waits", "tool servers that connect")
            clock.advance(25)
            assert (await server.terminals("s", ["waits"]))["waits"].text == "done"
            assert text((await results(server, "s"))["own_add"]) == "there is no tool 'own_add'"
            # Nobody waits any more, however long it takes.
            await server.submit("s", ADD, run_id="later")
            await server.terminals("s", ["later"])


@pytest.mark.asyncio
async def test_a_command_that_does_not_run_is_tried_again_ever_more_rarely(tmp_path: Path) -> None:
    clock = ManualClock()
    settings = load_settings(tmp_path, mcp__own__command=str(tmp_path / "nothing"))
    async with serving(tmp_path, clock=clock, settings=settings) as server:
        wait = FIRST_BACKOFF
        while wait < MAX_BACKOFF:
            await clock.armed(wait)
            clock.advance(wait)
            wait *= 2
        before = clock.num_begun(MAX_BACKOFF)
        await clock.armed(MAX_BACKOFF, before or 1)
        # It hinders nobody.
        await server.session("s")
        await server.submit("s", "hello", run_id="r")
        assert (await server.terminals("s", ["r"]))["r"].text == "hello"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("replay", "said", "times"),
    [
        ("safe", "it is over", 2),
        ("never", "the process was lost while this tool ran; whether it took effect is unknown", 1),
        # The tool does not call itself idempotent.
        ("hinted", "the process was lost while this tool ran; whether it took effect is unknown", 1),
    ],
)
async def test_a_call_that_was_in_flight_at_a_restart_runs_again_if_it_may(
    tmp_path: Path, replay: str, said: str, times: int
) -> None:
    async with Gate(tmp_path) as gate, OverHttp(build(gate.path)) as own:
        settings = load_settings(tmp_path, **at_address(own.url, replay=replay, wait="false"))
        async with serving(tmp_path, settings=settings) as server:
            await connected(server)
            await server.session("s")
            await server.submit("s", script(calling(("own_hold", {"what": "it"}))), run_id="r")
            first = await gate.reached("it")
            own.shut()
            await server.server.close()
        async with serving(tmp_path, settings=settings, tools=OTHER) as server:
            # The run goes on while its server is still connecting.
            await own.knocked()
            own.open()
            if times > 1:
                assert (await gate.reached("it", times)).key == first.key
                gate.open()
            assert (await server.terminals("s", ["r"]))["r"].text == "done"
            found = (await results(server, "s"))["own_hold"]
            assert (text(found), found.is_synthetic, gate.times("it")) == (said, times == 1, times)


def test_names_of_tools_are_such_as_models_take_and_no_two_are_one() -> None:
    assert offered_name("own_", "add") == "own_add"
    odd = [offered_name("own_", name) for name in ("files.read", "files/read", "ü" * 80, "x" * 64, "x" * 65)]
    assert len(set(odd)) == 5
    assert all(len(name) <= 64 and name.isascii() and name.startswith("own_") for name in odd)
    assert odd[0].startswith("own_files_read_")
    assert offered_name("", "a" * 64) == "a" * 64
